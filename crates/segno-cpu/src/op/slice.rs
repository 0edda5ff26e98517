//! `slice`: one run is a view into the input, and nothing is done.

use segno_ir::{DeviceError, op};

use super::Run;
use crate::context::Cx;

pub(super) struct Slice {
    op: op::Slice,
}

pub(super) fn prepare(op: &op::Slice) -> Slice {
    Slice { op: op.clone() }
}

impl Run for Slice {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let op::Slice { offset, width, stride, count } = self.op;
        if count == 1 {
            return Ok(());
        }
        cx.by_rows(1, |r| {
            let x = cx.input(0, r);
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..width * count) };
            for (g, y) in y.chunks_exact_mut(width).enumerate() {
                y.copy_from_slice(&x[offset + g * stride..][..width]);
            }
        });
        Ok(())
    }
}
