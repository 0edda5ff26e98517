//! The gated delta rule, see [`crate::op::delta_rule`].
//!
//! With `G(j, i)` the sum of log decays of the tokens after `j` up to `i`, and `G(i)` that from the
//! chunk's start, the writes of a chunk solve a unit lower triangular system (arXiv:2412.06464, and
//! arXiv:2510.26692 for a decay per channel):
//!
//! ```text
//! d_i = beta_i (v_i - S0^T (e^G(i) k_i) - sum_{j<i} (k_i . e^G(j,i) k_j) d_j)
//! y_i = scale (S0^T (e^G(i) q_i) + sum_{j<=i} (q_i . e^G(j,i) k_j) d_j)
//! ```

use super::{LogDecay, chunks, dot};

/// Tokens of one head.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[tokens, d_k]`.
    pub q: &'a [f64],
    /// `[tokens, d_k]`.
    pub k: &'a [f64],
    /// `[tokens, d_v]`.
    pub v: &'a [f64],
    /// Log decays, `[tokens]` or `[tokens, d_k]`.
    pub g: &'a [f64],
    /// `[tokens]`.
    pub beta: &'a [f64],
    /// Length of a key.
    pub d_k: usize,
    /// Length of a value.
    pub d_v: usize,
    /// Factor on the result.
    pub scale: f64,
}

/// Token by token. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn sequential(x: &Tokens<'_>, state: &mut [f64]) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.v.len()];
    for (t, beta) in x.beta.iter().enumerate() {
        let width = x.g.len() / x.beta.len();
        let (q, k) = (&x.q[t * d_k..][..d_k], &x.k[t * d_k..][..d_k]);
        for (i_v, s) in state.chunks_exact_mut(d_k).enumerate() {
            (0..d_k).for_each(|c| s[c] *= x.g[t * width + c % width].exp());
            let delta = beta * (x.v[t * d_v + i_v] - dot(s, k));
            s.iter_mut().zip(k).for_each(|(s, k)| *s += k * delta);
            y[t * d_v + i_v] = dot(s, q) * x.scale;
        }
    }
    y
}

/// Chunk by chunk. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn chunked(x: &Tokens<'_>, state: &mut [f64], chunk: usize) -> Vec<f64> {
    let Tokens { d_k, d_v, scale, .. } = *x;
    let mut y = vec![0.0; x.v.len()];
    for range in chunks(x.beta.len(), chunk) {
        let (start, n) = (range.start, range.len());
        let width = x.g.len() / x.beta.len();
        let decay = LogDecay::new(&x.g[start * width..range.end * width], width);
        let (q, k) = (&x.q[start * d_k..], &x.k[start * d_k..]);
        let row = |m: &[f64], i: usize| m[i * d_k..][..d_k].to_vec();
        let mut delta = vec![0.0; n * d_v];
        for i in 0..n {
            let (q_i, k_i) = (row(q, i), row(k, i));
            let before: Vec<f64> = (0..i).map(|j| decay.score(&k_i, &row(k, j), j + 1, i + 1)).collect();
            let reads: Vec<f64> = (0..=i).map(|j| decay.score(&q_i, &row(k, j), j + 1, i + 1)).collect();
            for (i_v, s) in state.chunks_exact(d_k).enumerate() {
                let written: f64 = before.iter().enumerate().map(|(j, a)| a * delta[j * d_v + i_v]).sum();
                let predicted = decay.score(&k_i, s, 0, i + 1) + written;
                delta[i * d_v + i_v] = x.beta[start + i] * (x.v[(start + i) * d_v + i_v] - predicted);
                let within: f64 = reads.iter().enumerate().map(|(j, p)| p * delta[j * d_v + i_v]).sum();
                y[(start + i) * d_v + i_v] = scale * (decay.score(&q_i, s, 0, i + 1) + within);
            }
        }
        decay.advance(state, d_k, &[(k, &delta)]);
    }
    y
}
