//! `add`.

use segno_ir::DeviceError;

use super::Run;
use crate::context::Cx;

pub(super) struct Add;

impl Run for Add {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.elementwise(1, |r, columns| {
            let pairs = cx.input(0, r)[columns.clone()].iter().zip(&cx.input(1, r)[columns.clone()]);
            // SAFETY: `elementwise` gives each number to one thread.
            let y = unsafe { cx.output(r, columns) };
            y.iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = a + b);
        });
        Ok(())
    }
}
