//! `y = w * (x - mean(x)) / sqrt(var(x) + eps) + b` over groups of neighbouring features, with the population
//! variance: LayerNorm (arXiv:1607.06450) with one group, GroupNorm (arXiv:1803.08494) with more.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// Attributes of `layer_norm`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Features normalised together: all of them, or a head's.
    pub group: usize,
    /// As many elements as features.
    pub weight: Option<WeightId>,
    /// As many elements as features.
    pub bias: Option<WeightId>,
    /// Added to the variance.
    pub eps: f32,
}

impl OpRule for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n = shapes.inputs[0];
        if self.group == 0 || !n.is_multiple_of(self.group) {
            return Err(format!("{n} features do not divide into groups of {}", self.group));
        }
        for id in self.weights() {
            shapes.expect_elements(id, n)?;
        }
        Ok(n)
    }

    fn weights(&self) -> Vec<WeightId> {
        self.weight.into_iter().chain(self.bias).collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 7.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let (w, b) = (self.weight.map(|id| cx.weight(id)), self.bias.map(|id| cx.weight(id)));
        let (n, group) = (cx.features(), self.group as f64);
        let mut y = cx.input(0).to_vec();
        for (g, x) in y.chunks_exact_mut(self.group).enumerate() {
            let mean = x.iter().sum::<f64>() / group;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / group;
            let inverse = 1.0 / (variance + self.eps as f64).sqrt();
            for (i, v) in x.iter_mut().enumerate() {
                let at = (g * self.group + i) % n;
                *v = (*v - mean) * inverse * w.map_or(1.0, |w| w[at]) + b.map_or(0.0, |b| b[at]);
            }
        }
        y
    }
}
