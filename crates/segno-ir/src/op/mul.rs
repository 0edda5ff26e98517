//! `y = a * b`, elementwise; `b` is a value, one number a row, or a weight that is the same for every row.

use super::{Cost, OpContext, OpRule, Shapes, same_domain};
use crate::weight::WeightId;

/// Attributes of `mul`. Inputs: two values, the second of the same size or of one feature, or one and a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Mul {
    /// As many elements as features.
    pub weight: Option<WeightId>,
}

impl OpRule for Mul {
    const NAME: &'static str = "mul";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        match self.weight {
            Some(id) => {
                shapes.expect_inputs(1)?;
                let decl = shapes.weight(id)?;
                if decl.n_elements() != shapes.inputs[0] {
                    return Err(format!("{} has shape {:?}, expected {} elements", decl.name, decl.shape, shapes.inputs[0]));
                }
            }
            None => {
                shapes.expect_inputs(2)?;
                same_domain(shapes.domains)?;
                if shapes.inputs[1] != 1 {
                    shapes.expect_features(1, "the second input", shapes.inputs[0])?;
                }
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
        let (b, per_row) = match self.weight {
            Some(id) => (cx.weight(id), 0),
            None => (cx.input(1), cx.input_features(1)),
        };
        let at = |i: usize| if per_row == 1 { i / n } else { i % b.len() };
        cx.input(0).iter().enumerate().map(|(i, a)| a * b[at(i)]).collect()
    }
}
