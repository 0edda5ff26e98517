//! RWKV-6's recurrence (arXiv:2404.05892) and, without a bonus, gated linear attention
//! (arXiv:2312.06635), with a decay `w = exp(log_w)` for every key channel:
//!
//! ```text
//! with bonus u:   y = S^T r + (r . u k) v;   S <- diag(w) S + k v^T
//! without:        S <- diag(w) S + k v^T;    y = S^T r
//! ```
//!
//! The state is kept as `[head, value, key]`. The chunked form stands in [`crate::recurrence::wkv6`].

use super::{Cost, OpContext, OpRule, Shapes, same_domain, set_head};
use crate::recurrence::wkv6::{Tokens, sequential};
use crate::state::StateId;
use crate::weight::WeightId;

/// Attributes of `wkv6`. Inputs: r, k, v and log_w (not above 0, down to minus infinity), `[n_head * d]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Wkv6 {
    /// Recurrent `[n_head, d, d]`.
    pub state: StateId,
    /// u, as many elements as keys of all heads.
    pub bonus: Option<WeightId>,
    /// Number of heads.
    pub n_head: usize,
    /// Length of a key and of a value.
    pub d: usize,
}

impl OpRule for Wkv6 {
    const NAME: &'static str = "wkv6";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(4)?;
        same_domain(shapes.domains)?;
        let Wkv6 { n_head, d, .. } = *self;
        if n_head == 0 || d == 0 {
            return Err(format!("has {n_head} heads of {d}, expected 1 or more of each"));
        }
        for (i, what) in ["r", "k", "v", "log_w"].into_iter().enumerate() {
            shapes.expect_features(i, what, n_head * d)?;
        }
        if let Some(id) = self.bonus {
            shapes.expect_elements(id, n_head * d)?;
        }
        shapes.expect_recurrent(self.state, &[n_head as u32, d as u32, d as u32])?;
        Ok(n_head * d)
    }

    fn weights(&self) -> Vec<WeightId> {
        self.bonus.into_iter().collect()
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        let n = (self.n_head * self.d * self.d) as f64;
        Cost { flops_per_row: 5.0 * n, weight_bytes: 0.0, state_bytes: 8.0 * n }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let Wkv6 { n_head, d, .. } = *self;
        let bonus = self.bonus.map(|id| cx.weight(id));
        let mut state = cx.recurrent(self.state).to_vec();
        let mut y = vec![0.0; cx.rows() * n_head * d];
        for (head, s) in state.chunks_exact_mut(d * d).enumerate() {
            let [r, k, v, log_w] = [0, 1, 2, 3].map(|i| cx.head(i, head, d));
            let tokens = Tokens { r: &r, k: &k, v: &v, log_w: &log_w, bonus: bonus.map(|u| &u[head * d..][..d]), d_k: d, d_v: d };
            set_head(&mut y, &sequential(&tokens, s), head, n_head, d);
        }
        cx.set_recurrent(self.state, state);
        y
    }
}
