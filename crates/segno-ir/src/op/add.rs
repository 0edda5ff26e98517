//! `y = a + b`, elementwise; `b` has as many features as `a`, or one number for each of equal groups of them.

use super::{Cost, OpContext, OpRule, Shapes, same_domain};

/// Attributes of `add`: none. Inputs: two values, the second of the same size or of as many features as
/// there are groups: one, where the whole row is a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Add;

impl OpRule for Add {
    const NAME: &'static str = "add";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(2)?;
        same_domain(shapes.domains)?;
        shapes.expect_groups(shapes.inputs[1], shapes.inputs[0], "the second input")?;
        Ok(shapes.inputs[0])
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let width = cx.features() / cx.input_features(1);
        let b = cx.input(1);
        cx.input(0).iter().enumerate().map(|(i, a)| a + b[i / width]).collect()
    }
}
