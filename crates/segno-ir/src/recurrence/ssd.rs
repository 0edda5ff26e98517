//! Mamba-2's state-space duality (arXiv:2405.21060): one decay a head.
//!
//! ```text
//! S <- exp(dt a) S + dt x B^T;   y = S C + D x
//! ```
//!
//! Chunked, with `L(j, i)` the sum of `dt a` over the tokens after `j` up to `i`:
//! `y_i = e^L(i) S0 C_i + sum_{j<=i} e^L(j,i) (C_i . B_j) dt_j x_j + D x_i`.

use super::{LogDecay, chunks, dot};

/// Tokens of one head.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[tokens, d_v]`.
    pub x: &'a [f64],
    /// Time steps after softplus, `[tokens]`.
    pub dt: &'a [f64],
    /// The head's `a`, which is negative; the file holds `-exp(A_log)`.
    pub a: f64,
    /// `[tokens, d_k]`.
    pub b: &'a [f64],
    /// `[tokens, d_k]`.
    pub c: &'a [f64],
    /// The head's factor on x.
    pub d: f64,
    /// Size of the state a value, often called N.
    pub d_k: usize,
    /// Values of the head, often called P.
    pub d_v: usize,
}

/// Token by token. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn sequential(x: &Tokens<'_>, state: &mut [f64]) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.x.len()];
    for (t, dt) in x.dt.iter().enumerate() {
        let (b, c) = (&x.b[t * d_k..][..d_k], &x.c[t * d_k..][..d_k]);
        for (i_v, s) in state.chunks_exact_mut(d_k).enumerate() {
            let value = x.x[t * d_v + i_v];
            s.iter_mut().zip(b).for_each(|(s, b)| *s = (dt * x.a).exp() * *s + dt * value * b);
            y[t * d_v + i_v] = dot(s, c) + x.d * value;
        }
    }
    y
}

/// Chunk by chunk. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn chunked(x: &Tokens<'_>, state: &mut [f64], chunk: usize) -> Vec<f64> {
    let log: Vec<f64> = x.dt.iter().map(|dt| dt * x.a).collect();
    chunked_with(x, &log, 1, state, chunk)
}

/// The chunked form under log decays `[tokens, width]`, which stand for `dt a`.
pub(super) fn chunked_with(x: &Tokens<'_>, log: &[f64], width: usize, state: &mut [f64], chunk: usize) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.x.len()];
    let steps: Vec<f64> = x.x.iter().enumerate().map(|(i, value)| x.dt[i / d_v] * value).collect();
    for range in chunks(x.dt.len(), chunk) {
        let start = range.start;
        let decay = LogDecay::new(&log[start * width..range.end * width], width);
        let (b, steps) = (&x.b[start * d_k..], &steps[start * d_v..]);
        for i in 0..range.len() {
            let c = &x.c[(start + i) * d_k..][..d_k];
            let scores: Vec<f64> = (0..=i).map(|j| decay.score(c, &b[j * d_k..][..d_k], j + 1, i + 1)).collect();
            for (i_v, s) in state.chunks_exact(d_k).enumerate() {
                let within: f64 = scores.iter().enumerate().map(|(j, p)| p * steps[j * d_v + i_v]).sum();
                let at = (start + i) * d_v + i_v;
                y[at] = decay.score(c, s, 0, i + 1) + within + x.d * x.x[at];
            }
        }
        decay.advance(state, d_k, &[(b, steps)]);
    }
    y
}
