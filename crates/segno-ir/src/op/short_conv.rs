//! Causal depthwise convolution: `y[t, c] = act(sum_j W[c, j] x[t - (K-1) + j, c] + b[c])`.
//!
//! What lies before the span comes from the state: the last `K - 1` inputs of every channel.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::state::StateId;
use crate::weight::WeightId;

/// Attributes of `short_conv`.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConv {
    /// Recurrent `[channels, K - 1]`, the oldest input first.
    pub state: StateId,
    /// `[K, channels]` (K contiguous; dimensions of size 1 do not matter); entry `K - 1` multiplies the current row.
    pub weight: WeightId,
    /// `[channels]`.
    pub bias: Option<WeightId>,
    /// Whether the result goes through SiLU.
    pub silu: bool,
}

impl OpRule for ShortConv {
    const NAME: &'static str = "short_conv";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let channels = shapes.inputs[0];
        let decl = shapes.weight(self.weight)?;
        if decl.n_rows() != channels || decl.row_len() < 2 {
            return Err(format!("{} has shape {:?}, expected [2 or more, {channels}]", decl.name, decl.shape));
        }
        shapes.expect_recurrent(self.state, &[channels as u32, decl.row_len() as u32 - 1])?;
        if let Some(id) = self.bias {
            shapes.expect_weight(id, &[channels])?;
        }
        Ok(channels)
    }

    fn weights(&self) -> Vec<WeightId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        let Ok(decl) = shapes.weight(self.weight) else { return Cost::default() };
        let (n, k) = (decl.n_elements() as f64, decl.row_len() as f64);
        Cost { flops_per_row: 2.0 * n, weight_bytes: 4.0 * n, state_bytes: 8.0 * n * (k - 1.0) / k }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let (rows, channels) = (cx.rows(), cx.features());
        let w = cx.weight(self.weight);
        let bias = self.bias.map(|id| cx.weight(id));
        let kernel = w.len() / channels;
        let tail = kernel - 1;
        let mut state = cx.recurrent(self.state).to_vec();
        let x = cx.input(0);
        let mut y = vec![0.0; rows * channels];
        for c in 0..channels {
            let mut history: Vec<f64> = state[c * tail..][..tail].to_vec();
            history.extend((0..rows).map(|t| x[t * channels + c]));
            for t in 0..rows {
                let dot: f64 = (0..kernel).map(|j| w[c * kernel + j] * history[t + j]).sum();
                let sum = dot + bias.map_or(0.0, |b| b[c]);
                y[t * channels + c] = if self.silu { sum / (1.0 + (-sum).exp()) } else { sum };
            }
            state[c * tail..][..tail].copy_from_slice(&history[rows..]);
        }
        cx.set_recurrent(self.state, state);
        y
    }
}
