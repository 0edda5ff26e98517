//! The state-space duality of Mamba-2 (arXiv:2405.21060), one state matrix `S[value, key]` a head:
//!
//! ```text
//! S <- exp(dt a) S + dt x B^T;   y = S C + D x
//! ```
//!
//! Head `h` reads B and C of group `h / (n_head / n_group)`. The chunked form stands in
//! [`crate::recurrence::ssd`].

use super::{Cost, OpContext, OpRule, Shapes, same_domain, set_head};
use crate::recurrence::ssd::{Tokens, sequential};
use crate::state::StateId;
use crate::weight::WeightId;

/// Attributes of `ssd`. Inputs: x `[n_head * d_v]`, dt (after softplus) `[n_head]`, B and C
/// `[n_group * d_k]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ssd {
    /// Recurrent `[n_head, d_v, d_k]`.
    pub state: StateId,
    /// One number a head: negative, `-exp(A_log)`.
    pub a: WeightId,
    /// D, one number a head.
    pub d: WeightId,
    /// Number of heads.
    pub n_head: usize,
    /// Number of groups of heads that share B and C.
    pub n_group: usize,
    /// Size of the state a value, often called N.
    pub d_k: usize,
    /// Values of a head, often called P.
    pub d_v: usize,
}

impl OpRule for Ssd {
    const NAME: &'static str = "ssd";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(4)?;
        same_domain(shapes.domains)?;
        let Ssd { n_head, n_group, d_k, d_v, .. } = *self;
        if n_group == 0 || n_head == 0 || !n_head.is_multiple_of(n_group) {
            return Err(format!("{n_head} heads do not divide over {n_group} groups"));
        }
        if d_k == 0 || d_v == 0 {
            return Err(format!("d_k is {d_k} and d_v is {d_v}, expected 1 or more"));
        }
        let sizes = [n_head * d_v, n_head, n_group * d_k, n_group * d_k];
        for (i, what) in ["x", "dt", "B", "C"].into_iter().enumerate() {
            shapes.expect_features(i, what, sizes[i])?;
        }
        shapes.expect_elements(self.a, n_head)?;
        shapes.expect_elements(self.d, n_head)?;
        shapes.expect_recurrent(self.state, &[n_head as u32, d_v as u32, d_k as u32])?;
        Ok(n_head * d_v)
    }

    fn weights(&self) -> Vec<WeightId> {
        vec![self.a, self.d]
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        let n = (self.n_head * self.d_k * self.d_v) as f64;
        Cost { flops_per_row: 5.0 * n, weight_bytes: 0.0, state_bytes: 8.0 * n }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let Ssd { n_head, n_group, d_k, d_v, .. } = *self;
        let (a, d) = (cx.weight(self.a), cx.weight(self.d));
        let mut state = cx.recurrent(self.state).to_vec();
        let mut y = vec![0.0; cx.rows() * n_head * d_v];
        for (head, s) in state.chunks_exact_mut(d_v * d_k).enumerate() {
            let group = head / (n_head / n_group);
            let (x, dt) = (cx.head(0, head, d_v), cx.head(1, head, 1));
            let (b, c) = (cx.head(2, group, d_k), cx.head(3, group, d_k));
            let tokens = Tokens { x: &x, dt: &dt, a: a[head], b: &b, c: &c, d: d[head], d_k, d_v };
            set_head(&mut y, &sequential(&tokens, s), head, n_head, d_v);
        }
        cx.set_recurrent(self.state, state);
        y
    }
}
