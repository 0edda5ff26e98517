//! `rms_norm`.

use std::sync::Arc;

use segno_ir::{DeviceError, op};

use super::{Run, Setup};
use crate::context::Cx;

pub(super) struct RmsNorm {
    group: usize,
    weight: Option<Arc<[f32]>>,
    eps: f32,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::RmsNorm) -> Result<RmsNorm, DeviceError> {
    Ok(RmsNorm { group: op.group, weight: setup.optional(op.weight)?, eps: op.eps })
}

impl Run for RmsNorm {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let group = self.group;
        cx.by_rows(2, |r| {
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..cx.out.features) };
            let groups = cx.input(0, r).chunks_exact(group).zip(y.chunks_exact_mut(group));
            for (g, (x, y)) in groups.enumerate() {
                let mean = (cx.kernels.sum_squares)(x) / group as f32;
                let inverse = 1.0 / (mean + self.eps).sqrt();
                match &self.weight {
                    Some(w) => {
                        let w = if w.len() == group { w } else { &w[g * group..][..group] };
                        y.iter_mut().zip(x.iter().zip(w)).for_each(|(y, (x, w))| *y = x * inverse * w);
                    }
                    None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse),
                }
            }
        });
        Ok(())
    }
}
