//! `softplus`.

use std::sync::Arc;

use segno_ir::{DeviceError, op};

use super::{Run, Setup, shared};
use crate::context::Cx;

pub(super) struct Softplus {
    bias: Option<Arc<[f32]>>,
    factor: Option<Arc<[f32]>>,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Softplus) -> Result<Softplus, DeviceError> {
    Ok(Softplus { bias: setup.optional(op.bias)?, factor: setup.optional(op.factor)? })
}

impl Run for Softplus {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.elementwise(10, |r, columns| {
            // SAFETY: `elementwise` gives each number to one thread.
            let y = unsafe { cx.output(r, columns.clone()) };
            y.copy_from_slice(&cx.input(0, r)[columns.clone()]);
            if let Some(bias) = &self.bias {
                y.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, b)| *y += b);
            }
            (cx.kernels.softplus_in_place)(y);
            if let Some(factor) = &self.factor {
                for (part, a) in shared(cx.out.features, factor, columns) {
                    y[part].iter_mut().for_each(|y| *y *= a);
                }
            }
        });
        Ok(())
    }
}
