//! `soft_cap`.

use segno_ir::DeviceError;

use super::Run;
use crate::context::Cx;

pub(super) struct SoftCap {
    pub cap: f32,
}

impl Run for SoftCap {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.elementwise(10, |r, columns| {
            let x = &cx.input(0, r)[columns.clone()];
            // SAFETY: `elementwise` gives each number to one thread.
            (cx.kernels.soft_cap)(self.cap, x, unsafe { cx.output(r, columns) });
        });
        Ok(())
    }
}
