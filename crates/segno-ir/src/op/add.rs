//! `y = a + b`.

use super::{Cost, OpContext, OpRule, Shapes, same_domain};

/// Attributes of `add`: none. Inputs: two values of the same size.
#[derive(Clone, Debug, PartialEq)]
pub struct Add;

impl OpRule for Add {
    const NAME: &'static str = "add";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(2)?;
        same_domain(shapes.domains)?;
        shapes.expect_features(1, "the second input", shapes.inputs[0])?;
        Ok(shapes.inputs[0])
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        cx.input(0).iter().zip(cx.input(1)).map(|(a, b)| a + b).collect()
    }
}
