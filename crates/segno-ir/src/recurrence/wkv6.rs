//! RWKV-6's recurrence (arXiv:2404.05892) and, without a bonus, gated linear attention
//! (arXiv:2312.06635). A decay for every key channel, `w = exp(log_w)`:
//!
//! ```text
//! with bonus u:   y = S^T r + (r . u k) v;   S <- diag(w) S + k v^T
//! without:        S <- diag(w) S + k v^T;    y = S^T r
//! ```
//!
//! Chunked, the sum of log decays between the write of token `j` and the read of token `i` leaves
//! out token `i` with a bonus, and has it without.

use super::{LogDecay, chunks, dot};

/// Tokens of one head.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[tokens, d_k]`.
    pub r: &'a [f64],
    /// `[tokens, d_k]`.
    pub k: &'a [f64],
    /// `[tokens, d_v]`.
    pub v: &'a [f64],
    /// `[tokens, d_k]`: not above 0, down to minus infinity.
    pub log_w: &'a [f64],
    /// The head's bonus for the current token, `[d_k]`.
    pub bonus: Option<&'a [f64]>,
    /// Length of a key.
    pub d_k: usize,
    /// Length of a value.
    pub d_v: usize,
}

fn bonus(r: &[f64], u: &[f64], k: &[f64]) -> f64 {
    r.iter().zip(u).zip(k).map(|((r, u), k)| r * u * k).sum()
}

/// Token by token. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn sequential(x: &Tokens<'_>, state: &mut [f64]) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.v.len()];
    for (at, y) in y.iter_mut().enumerate() {
        let (t, i_v) = (at / d_v, at % d_v);
        let row = |m: &'_ [f64]| -> Vec<f64> { m[t * d_k..][..d_k].to_vec() };
        let (r, k, log_w, v) = (row(x.r), row(x.k), row(x.log_w), x.v[at]);
        let s = &mut state[i_v * d_k..][..d_k];
        let old = dot(s, &r);
        (0..d_k).for_each(|c| s[c] = log_w[c].exp() * s[c] + k[c] * v);
        *y = x.bonus.map_or_else(|| dot(s, &r), |u| old + bonus(&r, u, &k) * v);
    }
    y
}

/// Chunk by chunk. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn chunked(x: &Tokens<'_>, state: &mut [f64], chunk: usize) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.v.len()];
    for range in chunks(x.v.len() / d_v, chunk) {
        let start = range.start;
        let decay = LogDecay::new(&x.log_w[start * d_k..range.end * d_k], d_k);
        let (k, v) = (&x.k[start * d_k..], &x.v[start * d_v..]);
        for i in 0..range.len() {
            let r = &x.r[(start + i) * d_k..][..d_k];
            let key = |j: usize| &k[j * d_k..][..d_k];
            let to = if x.bonus.is_some() { i } else { i + 1 };
            let mut scores: Vec<f64> = (0..to).map(|j| decay.score(r, key(j), j + 1, to)).collect();
            scores.extend(x.bonus.map(|u| bonus(r, u, key(i))));
            for (i_v, s) in state.chunks_exact(d_k).enumerate() {
                let within: f64 = scores.iter().enumerate().map(|(j, p)| p * v[j * d_v + i_v]).sum();
                y[(start + i) * d_v + i_v] = decay.score(r, s, 0, to) + within;
            }
        }
        decay.advance(state, d_k, &[(k, v)]);
    }
    y
}
