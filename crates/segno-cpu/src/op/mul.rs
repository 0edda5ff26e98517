//! `mul`.

use std::sync::Arc;

use segno_ir::{DeviceError, op};

use super::{Run, Setup, shared};
use crate::context::Cx;

pub(super) struct Mul {
    weight: Option<Arc<[f32]>>,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Mul) -> Result<Mul, DeviceError> {
    Ok(Mul { weight: setup.optional(op.weight)? })
}

impl Run for Mul {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.elementwise(1, |r, columns| {
            let a = &cx.input(0, r)[columns.clone()];
            let b = self.weight.as_deref().unwrap_or_else(|| cx.input(1, r));
            // SAFETY: `elementwise` gives each number to one thread.
            let y = unsafe { cx.output(r, columns.clone()) };
            if b.len() == cx.out.features {
                return y.iter_mut().zip(a.iter().zip(&b[columns])).for_each(|(y, (a, b))| *y = a * b);
            }
            for (part, b) in shared(cx.out.features, b, columns) {
                y[part.clone()].iter_mut().zip(&a[part]).for_each(|(y, a)| *y = a * b);
            }
        });
        Ok(())
    }
}
