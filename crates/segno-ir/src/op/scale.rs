//! `y = factor * x`.

use super::{Cost, OpContext, OpRule, Shapes};

/// Attributes of `scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// The constant.
    pub factor: f32,
}

impl OpRule for Scale {
    const NAME: &'static str = "scale";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        Ok(shapes.inputs[0])
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        cx.input(0).iter().map(|x| x * self.factor as f64).collect()
    }
}
