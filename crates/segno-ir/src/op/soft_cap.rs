//! `y = cap * tanh(x / cap)`.

use super::{Cost, OpContext, OpRule, Shapes};

/// Attributes of `soft_cap`.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftCap {
    /// The limit, positive.
    pub cap: f32,
}

impl OpRule for SoftCap {
    const NAME: &'static str = "soft_cap";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        if self.cap > 0.0 { Ok(shapes.inputs[0]) } else { Err(format!("cap is {}, expected a positive number", self.cap)) }
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 3.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let cap = self.cap as f64;
        cx.input(0).iter().map(|x| cap * (x / cap).tanh()).collect()
    }
}
