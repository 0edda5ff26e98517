//! `y = w * x / sqrt(mean(x^2) + eps)` over groups of neighbouring features (RMSNorm, arXiv:1910.07467).

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// Attributes of `rms_norm`.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Features normalised together: all of them, or a head's.
    pub group: usize,
    /// `[group]`, the same for every group, or one of `features` elements in any shape.
    pub weight: Option<WeightId>,
    /// Added to the mean of squares.
    pub eps: f32,
}

impl OpRule for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n = shapes.inputs[0];
        if self.group == 0 || !n.is_multiple_of(self.group) {
            return Err(format!("{n} features do not divide into groups of {}", self.group));
        }
        if let Some(id) = self.weight {
            let decl = shapes.weight(id)?;
            if decl.n_elements() != self.group && decl.n_elements() != n {
                return Err(format!("{} has shape {:?}, expected [{}] or [{n}]", decl.name, decl.shape, self.group));
            }
        }
        Ok(n)
    }

    fn weights(&self) -> Vec<WeightId> {
        self.weight.into_iter().collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 4.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let w = self.weight.map(|id| cx.weight(id));
        let n = cx.features();
        let mut y = cx.input(0).to_vec();
        for (g, x) in y.chunks_exact_mut(self.group).enumerate() {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / self.group as f64;
            let inverse = 1.0 / (mean + self.eps as f64).sqrt();
            for (i, v) in x.iter_mut().enumerate() {
                *v *= inverse * w.map_or(1.0, |w| w[(g * self.group % n + i) % w.len()]);
            }
        }
        y
    }
}
