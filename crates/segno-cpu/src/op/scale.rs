//! `scale`.

use segno_ir::DeviceError;

use super::Run;
use crate::context::Cx;

pub(super) struct Scale {
    pub factor: f32,
}

impl Run for Scale {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.elementwise(1, |r, columns| {
            let x = &cx.input(0, r)[columns.clone()];
            // SAFETY: `elementwise` gives each number to one thread.
            let y = unsafe { cx.output(r, columns) };
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * self.factor);
        });
        Ok(())
    }
}
