//! `y = x / sqrt(sum(x^2) + eps)` over groups of neighbouring features.

use super::{Cost, OpContext, OpRule, Shapes};

/// Attributes of `l2_norm`.
#[derive(Clone, Debug, PartialEq)]
pub struct L2Norm {
    /// Features normalised together: a head's.
    pub group: usize,
    /// Added to the sum of squares, inside the root.
    pub eps: f32,
}

impl OpRule for L2Norm {
    const NAME: &'static str = "l2_norm";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n = shapes.inputs[0];
        if self.group == 0 || !n.is_multiple_of(self.group) {
            return Err(format!("{n} features do not divide into groups of {}", self.group));
        }
        Ok(n)
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 3.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let mut y = cx.input(0).to_vec();
        for x in y.chunks_exact_mut(self.group) {
            let sum: f64 = x.iter().map(|v| v * v).sum();
            let inverse = 1.0 / (sum + self.eps as f64).sqrt();
            x.iter_mut().for_each(|v| *v *= inverse);
        }
        y
    }
}
