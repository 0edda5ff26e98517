//! The gated delta rule (arXiv:2412.06464), one state matrix `S[i_k, i_v]` per value head:
//!
//! ```text
//! S <- exp(g) S;   d = beta (v - S^T k);   S <- S + k d^T;   y = scale S^T q
//! ```
//!
//! The state is kept as `[head, i_v, i_k]`, the key index contiguous. The chunked form stands in
//! [`crate::recurrence::delta_rule`].

use super::{Cost, OpContext, OpRule, Shapes, same_domain};
use crate::recurrence::delta_rule::{Tokens, sequential};
use crate::state::StateId;

/// Which key head a value head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadMap {
    /// Value head `h` reads key head `h % n_head_k`.
    Tiled,
    /// Value head `h` reads key head `h / (n_head_v / n_head_k)`.
    Grouped,
}

/// What the log decay `g` belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// One a value head: `g` is `[n_head_v]`.
    Head,
    /// One a key channel: `g` is `[n_head_v * d_k]` and row `i_k` of S decays by `exp(g[i_k])`.
    Channel,
}

/// Attributes of `delta_rule`. Inputs: q, k `[n_head_k * d_k]`, v `[n_head_v * d_v]`, the log decay
/// g (see [`Decay`]) and beta `[n_head_v]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaRule {
    /// Recurrent `[n_head_v, d_v, d_k]`.
    pub state: StateId,
    /// Number of query and key heads.
    pub n_head_k: usize,
    /// Number of value heads.
    pub n_head_v: usize,
    /// Length of a key.
    pub d_k: usize,
    /// Length of a value.
    pub d_v: usize,
    /// Which key head a value head reads.
    pub head_map: HeadMap,
    /// What the decay belongs to.
    pub decay: Decay,
    /// Factor on the result.
    pub scale: f32,
}

impl DeltaRule {
    /// Key head of value head `h`.
    pub fn key_head(&self, h: usize) -> usize {
        match self.head_map {
            HeadMap::Tiled => h % self.n_head_k,
            HeadMap::Grouped => h / (self.n_head_v / self.n_head_k),
        }
    }
}

impl OpRule for DeltaRule {
    const NAME: &'static str = "delta_rule";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(5)?;
        same_domain(shapes.domains)?;
        let DeltaRule { n_head_k, n_head_v, d_k, d_v, .. } = *self;
        if n_head_k == 0 || n_head_v % n_head_k != 0 {
            return Err(format!("{n_head_v} value heads do not divide over {n_head_k} key heads"));
        }
        let n_decay = match self.decay {
            Decay::Head => n_head_v,
            Decay::Channel => n_head_v * d_k,
        };
        let sizes = [n_head_k * d_k, n_head_k * d_k, n_head_v * d_v, n_decay, n_head_v];
        for (i, what) in ["q", "k", "v", "g", "beta"].into_iter().enumerate() {
            shapes.expect_features(i, what, sizes[i])?;
        }
        shapes.expect_recurrent(self.state, &[n_head_v as u32, d_v as u32, d_k as u32])?;
        Ok(n_head_v * d_v)
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        let n = (self.n_head_v * self.d_k * self.d_v) as f64;
        Cost { flops_per_row: 7.0 * n, weight_bytes: 0.0, state_bytes: 8.0 * n }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let DeltaRule { n_head_v, d_k, d_v, .. } = *self;
        let mut state = cx.recurrent(self.state).to_vec();
        let rows = cx.rows();
        let n_decay = if self.decay == Decay::Head { 1 } else { d_k };
        let mut y = vec![0.0; rows * n_head_v * d_v];
        for head in 0..n_head_v {
            let key = self.key_head(head);
            let (q, k, v) = (cx.head(0, key, d_k), cx.head(1, key, d_k), cx.head(2, head, d_v));
            let (g, beta) = (cx.head(3, head, n_decay), cx.head(4, head, 1));
            let tokens = Tokens { q: &q, k: &k, v: &v, g: &g, beta: &beta, d_k, d_v, scale: self.scale as f64 };
            let y_head = sequential(&tokens, &mut state[head * d_v * d_k..][..d_v * d_k]);
            super::set_head(&mut y, &y_head, head, n_head_v, d_v);
        }
        cx.set_recurrent(self.state, state);
        y
    }
}
