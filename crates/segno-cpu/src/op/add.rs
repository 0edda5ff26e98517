//! `add`.

use segno_ir::DeviceError;

use super::{Run, shared};
use crate::context::Cx;

pub(super) struct Add;

impl Run for Add {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.elementwise(1, |r, columns| {
            let (a, b) = (&cx.input(0, r)[columns.clone()], cx.input(1, r));
            // SAFETY: `elementwise` gives each number to one thread.
            let y = unsafe { cx.output(r, columns.clone()) };
            if b.len() == cx.out.features {
                return y.iter_mut().zip(a.iter().zip(&b[columns])).for_each(|(y, (a, b))| *y = a + b);
            }
            for (part, b) in shared(cx.out.features, b, columns) {
                y[part.clone()].iter_mut().zip(&a[part]).for_each(|(y, a)| *y = a + b);
            }
        });
        Ok(())
    }
}
