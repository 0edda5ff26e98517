//! `y = a * softplus(x + b)` with `softplus(x) = x` above 20, else `ln(1 + exp(x))`.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// The function in f64.
pub fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// Attributes of `softplus`.
#[derive(Clone, Debug, PartialEq)]
pub struct Softplus {
    /// `b`, as many elements as features.
    pub bias: Option<WeightId>,
    /// `a`, as many elements as features, or one for each of equal groups of them.
    pub factor: Option<WeightId>,
}

impl OpRule for Softplus {
    const NAME: &'static str = "softplus";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        if let Some(id) = self.bias {
            shapes.expect_elements(id, shapes.inputs[0])?;
        }
        if let Some(id) = self.factor {
            shapes.expect_weight_groups(id, shapes.inputs[0])?;
        }
        Ok(shapes.inputs[0])
    }

    fn weights(&self) -> Vec<WeightId> {
        self.bias.into_iter().chain(self.factor).collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 5.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let n = cx.features();
        let bias = self.bias.map(|id| cx.weight(id));
        let factor = self.factor.map(|id| cx.weight(id));
        cx.input(0)
            .iter()
            .enumerate()
            .map(|(i, x)| (i % n, x))
            .map(|(i, x)| softplus(x + bias.map_or(0.0, |b| b[i])) * factor.map_or(1.0, |a| a[i / (n / a.len())]))
            .collect()
    }
}
