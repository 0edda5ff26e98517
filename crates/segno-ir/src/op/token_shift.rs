//! `y[t] = x[t - 1] - x[t]`: what RWKV's interpolations between a row and the one before add to the row.
//!
//! The row before the span comes from the state; a sequence begins behind a row of zeros.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::state::StateId;

/// Attributes of `token_shift`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenShift {
    /// Recurrent `[features]`: the last row.
    pub state: StateId,
}

impl OpRule for TokenShift {
    const NAME: &'static str = "token_shift";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        shapes.expect_recurrent(self.state, &[shapes.inputs[0] as u32])?;
        Ok(shapes.inputs[0])
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        let n = shapes.inputs[0] as f64;
        Cost { flops_per_row: n, weight_bytes: 0.0, state_bytes: 8.0 * n }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let n = cx.features();
        let mut rows = cx.recurrent(self.state).to_vec();
        rows.extend(cx.input(0));
        let y = rows.iter().zip(&rows[n..]).map(|(before, x)| before - x).collect();
        cx.set_recurrent(self.state, rows.split_off(rows.len() - n));
        y
    }
}
