//! The selective scan of Mamba-1 (arXiv:2312.00752), each channel with a state of its own:
//!
//! ```text
//! h[n] <- exp(dt a[n]) h[n] + dt B[n] x;   y = sum_n C[n] h[n] + D x
//! ```
//!
//! The chunked form stands in [`crate::recurrence::selective_scan`].

use super::{Cost, OpContext, OpRule, Shapes, same_domain, set_head};
use crate::recurrence::selective_scan::{Tokens, sequential};
use crate::state::StateId;
use crate::weight::WeightId;

/// Attributes of `selective_scan`. Inputs: x and dt (after softplus) `[channels]`, B and C `[d_state]`,
/// which all channels share.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectiveScan {
    /// Recurrent `[channels, d_state]`.
    pub state: StateId,
    /// `[d_state, channels]`: negative, `-exp(A_log)`.
    pub a: WeightId,
    /// D, `[channels]`.
    pub d: WeightId,
    /// Entries of a channel's state.
    pub d_state: usize,
}

impl OpRule for SelectiveScan {
    const NAME: &'static str = "selective_scan";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(4)?;
        same_domain(shapes.domains)?;
        let (channels, d_state) = (shapes.inputs[0], self.d_state);
        if d_state == 0 {
            return Err("d_state is 0, expected 1 or more".into());
        }
        for (i, (what, n)) in [("dt", channels), ("B", d_state), ("C", d_state)].into_iter().enumerate() {
            shapes.expect_features(i + 1, what, n)?;
        }
        shapes.expect_weight(self.a, &[d_state, channels])?;
        shapes.expect_elements(self.d, channels)?;
        shapes.expect_recurrent(self.state, &[channels as u32, d_state as u32])?;
        Ok(channels)
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.a, self.d]
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        let n = (shapes.inputs[0] * self.d_state) as f64;
        Cost { flops_per_row: 7.0 * n, weight_bytes: 4.0 * n, state_bytes: 8.0 * n }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let (channels, n) = (cx.features(), self.d_state);
        let (a, d) = (cx.weight(self.a), cx.weight(self.d));
        let mut state = cx.recurrent(self.state).to_vec();
        let mut y = vec![0.0; cx.rows() * channels];
        for (channel, h) in state.chunks_exact_mut(n).enumerate() {
            let (x, dt) = (cx.head(0, channel, 1), cx.head(1, channel, 1));
            let a = &a[channel * n..][..n];
            let tokens = Tokens { x: &x, dt: &dt, a, b: cx.input(2), c: cx.input(3), d: d[channel] };
            set_head(&mut y, &sequential(&tokens, h), channel, channels, 1);
        }
        cx.set_recurrent(self.state, state);
        y
    }
}
