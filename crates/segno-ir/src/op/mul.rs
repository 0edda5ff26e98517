//! `y = a * b`, elementwise; `b` is a value, or a weight that is the same for every row. It has as many numbers
//! as `a` has features, or one for each of equal groups of them.

use super::{Cost, OpContext, OpRule, Shapes, same_domain};
use crate::weight::WeightId;

/// Attributes of `mul`. Inputs: two values, or one and a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Mul {
    /// As many elements as features, or as groups.
    pub weight: Option<WeightId>,
}

impl OpRule for Mul {
    const NAME: &'static str = "mul";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        match self.weight {
            Some(id) => {
                shapes.expect_inputs(1)?;
                shapes.expect_weight_groups(id, shapes.inputs[0])?;
            }
            None => {
                shapes.expect_inputs(2)?;
                same_domain(shapes.domains)?;
                shapes.expect_groups(shapes.inputs[1], shapes.inputs[0], "the second input")?;
            }
        }
        Ok(shapes.inputs[0])
    }

    fn weights(&self) -> Vec<WeightId> {
        self.weight.into_iter().collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let n = cx.features();
        let (b, groups) = match self.weight {
            Some(id) => (cx.weight(id), cx.weight(id).len()),
            None => (cx.input(1), cx.input_features(1)),
        };
        // The numbers of a weight are the same in every row.
        cx.input(0).iter().enumerate().map(|(i, a)| a * b[i / (n / groups) % b.len()]).collect()
    }
}
