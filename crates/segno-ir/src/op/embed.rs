//! `y[r] = scale * W[token(r)]`, or the values that the caller gave for row `r` (never scaled).

use super::{Cost, OpContext, OpRule, Shapes};
use crate::device::Input;
use crate::weight::WeightId;

/// Attributes of `embed`. It has no input: it reads the step's tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// `[features, n_vocab]`; `None` accepts given rows only (conformance cases).
    pub weight: Option<WeightId>,
    /// Features of a row.
    pub features: usize,
    /// Factor on looked-up rows (Gemma: the square root of the width).
    pub scale: f32,
}

impl OpRule for Embed {
    const NAME: &'static str = "embed";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(0)?;
        if let Some(id) = self.weight {
            let decl = shapes.weight(id)?;
            if decl.shape.len() != 2 || decl.row_len() != self.features {
                return Err(format!("{} has shape {:?}, expected [{}, n_vocab]", decl.name, decl.shape, self.features));
            }
        }
        Ok(self.features)
    }

    fn weights(&self) -> Vec<WeightId> {
        self.weight.into_iter().collect()
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: self.features as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let mut y = Vec::with_capacity(cx.rows() * self.features);
        for input in cx.step_inputs() {
            match (input, self.weight) {
                (Input::Token(id), Some(weight)) => {
                    let w = cx.weight(weight);
                    let row = &w[*id as usize * self.features..][..self.features];
                    y.extend(row.iter().map(|v| v * self.scale as f64));
                }
                (Input::Row { values, .. }, _) => y.extend(values.iter().map(|&v| v as f64)),
                (other, _) => panic!("the reference takes tokens and rows, not {other:?}"),
            }
        }
        y
    }
}
