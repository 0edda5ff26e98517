//! `concat`.

use segno_ir::DeviceError;

use super::Run;
use crate::context::Cx;

pub(super) struct Concat {
    pub count: usize,
}

impl Run for Concat {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.by_rows(1, |r| {
            let mut from = 0;
            for (i, input) in cx.inputs.iter().enumerate() {
                let width = input.features / self.count;
                for (g, x) in cx.input(i, r).chunks_exact(width).enumerate() {
                    let at = g * (cx.out.features / self.count) + from;
                    // SAFETY: `by_rows` gives each row to one thread.
                    unsafe { cx.output(r, at..at + width) }.copy_from_slice(x);
                }
                from += width;
            }
        });
        Ok(())
    }
}
