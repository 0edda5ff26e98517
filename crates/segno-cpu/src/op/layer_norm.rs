//! `layer_norm`.

use std::sync::Arc;

use segno_ir::{DeviceError, op};

use super::{Run, Setup};
use crate::context::Cx;

pub(super) struct LayerNorm {
    group: usize,
    weight: Option<Arc<[f32]>>,
    bias: Option<Arc<[f32]>>,
    eps: f32,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::LayerNorm) -> Result<LayerNorm, DeviceError> {
    let (weight, bias) = (setup.optional(op.weight)?, setup.optional(op.bias)?);
    Ok(LayerNorm { group: op.group, weight, bias, eps: op.eps })
}

impl Run for LayerNorm {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.by_rows(4, |r| {
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..cx.out.features) };
            let groups = cx.input(0, r).chunks_exact(self.group).zip(y.chunks_exact_mut(self.group));
            for (x, y) in groups {
                let mean = (cx.kernels.sum)(x) / self.group as f32;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean);
                let inverse = 1.0 / ((cx.kernels.sum_squares)(y) / self.group as f32 + self.eps).sqrt();
                y.iter_mut().for_each(|y| *y *= inverse);
            }
            if let Some(w) = &self.weight {
                y.iter_mut().zip(&w[..]).for_each(|(y, w)| *y *= w);
            }
            if let Some(b) = &self.bias {
                y.iter_mut().zip(&b[..]).for_each(|(y, b)| *y += b);
            }
        });
        Ok(())
    }
}
