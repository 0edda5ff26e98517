//! The rows of the step whose outputs are wanted, in order: from token rows to output rows.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::graph::Domain;

/// Attributes of `select_rows`: none; the step says which rows.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectRows;

impl OpRule for SelectRows {
    const NAME: &'static str = "select_rows";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        match shapes.domains[0] {
            Domain::Token => Ok(shapes.inputs[0]),
            Domain::Output => Err("its input is of output rows already".into()),
        }
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        Cost::default()
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let n = cx.features();
        let x = cx.input(0);
        cx.output_rows().iter().flat_map(|&r| x[r as usize * n..][..n].iter().copied()).collect()
    }
}
