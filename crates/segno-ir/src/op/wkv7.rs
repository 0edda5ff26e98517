//! RWKV-7's recurrence (arXiv:2503.14456): a decay `w = exp(log_w)` for every key channel and a
//! change of rank one:
//!
//! ```text
//! z = S^T a;   S <- diag(w) S + b z^T + k v^T;   y = S^T r
//! ```
//!
//! The state is kept as `[head, value, key]`. The chunked form stands in [`crate::recurrence::wkv7`].

use super::{Cost, OpContext, OpRule, Shapes, same_domain, set_head};
use crate::recurrence::wkv7::{Tokens, sequential};
use crate::state::StateId;

/// Attributes of `wkv7`. Inputs: r, k, v, log_w (not above 0), a (what is replaced: the negative
/// normalised key) and b (where: the same times the learning rate, positive), `[n_head * d]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Wkv7 {
    /// Recurrent `[n_head, d, d]`.
    pub state: StateId,
    /// Number of heads.
    pub n_head: usize,
    /// Length of a key and of a value.
    pub d: usize,
}

impl OpRule for Wkv7 {
    const NAME: &'static str = "wkv7";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(6)?;
        same_domain(shapes.domains)?;
        let Wkv7 { n_head, d, .. } = *self;
        if n_head == 0 || d == 0 {
            return Err(format!("has {n_head} heads of {d}, expected 1 or more of each"));
        }
        for (i, what) in ["r", "k", "v", "log_w", "a", "b"].into_iter().enumerate() {
            shapes.expect_features(i, what, n_head * d)?;
        }
        shapes.expect_recurrent(self.state, &[n_head as u32, d as u32, d as u32])?;
        Ok(n_head * d)
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        let n = (self.n_head * self.d * self.d) as f64;
        Cost { flops_per_row: 9.0 * n, weight_bytes: 0.0, state_bytes: 8.0 * n }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let Wkv7 { n_head, d, .. } = *self;
        let mut state = cx.recurrent(self.state).to_vec();
        let mut y = vec![0.0; cx.rows() * n_head * d];
        for (head, s) in state.chunks_exact_mut(d * d).enumerate() {
            let [r, k, v, log_w, a, b] = [0, 1, 2, 3, 4, 5].map(|i| cx.head(i, head, d));
            let tokens = Tokens { r: &r, k: &k, v: &v, log_w: &log_w, a: &a, b: &b, d_k: d, d_v: d };
            set_head(&mut y, &sequential(&tokens, s), head, n_head, d);
        }
        cx.set_recurrent(self.state, state);
        y
    }
}
