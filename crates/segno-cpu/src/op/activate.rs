//! `activate`: elementwise, alone or as a gate.

use segno_ir::DeviceError;
use segno_ir::op::activate::Activation;

use super::Run;
use crate::context::Cx;

pub(super) struct Activate {
    pub function: Activation,
}

impl Run for Activate {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let two = cx.inputs.len() == 2;
        cx.elementwise(10, |r, columns| {
            let x = &cx.input(0, r)[columns.clone()];
            let up = two.then(|| &cx.input(1, r)[columns.clone()]);
            // SAFETY: `elementwise` gives each number to one thread.
            (cx.kernels.activate)(self.function, x, up, unsafe { cx.output(r, columns) });
        });
        Ok(())
    }
}
