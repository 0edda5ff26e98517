//! RWKV-7's recurrence (arXiv:2503.14456): decay by channel plus a change of rank one.
//!
//! ```text
//! z = S^T a;   S <- diag(w) S + b z^T + k v^T;   y = S^T r
//! ```
//!
//! Chunked, `z` solves a unit lower triangular system: `E(j, i)` sums the log decays after `j` and
//! before `i`, `G(j, i)` has token `i` too.
//!
//! ```text
//! z_i = S0^T (e^E(i) a_i) + sum_{j<i} (a_i . e^E(j,i) b_j) z_j + (a_i . e^E(j,i) k_j) v_j
//! y_i = S0^T (e^G(i) r_i) + sum_{j<=i} (r_i . e^G(j,i) b_j) z_j + (r_i . e^G(j,i) k_j) v_j
//! ```

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
    /// `[tokens, d_k]`: not above 0.
    pub log_w: &'a [f64],
    /// What is read to be replaced, `[tokens, d_k]`: the negative normalised key.
    pub a: &'a [f64],
    /// Where it is written, `[tokens, d_k]`.
    pub b: &'a [f64],
    /// Length of a key.
    pub d_k: usize,
    /// Length of a value.
    pub d_v: usize,
}

/// Token by token. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn sequential(x: &Tokens<'_>, state: &mut [f64]) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.v.len()];
    for (at, y) in y.iter_mut().enumerate() {
        let (first, i_v) = (at / d_v * d_k, at % d_v);
        let s = &mut state[i_v * d_k..][..d_k];
        let z = dot(s, &x.a[first..][..d_k]);
        for (s, i) in s.iter_mut().zip(first..) {
            *s = x.log_w[i].exp() * *s + x.b[i] * z + x.k[i] * x.v[at];
        }
        *y = dot(s, &x.r[first..][..d_k]);
    }
    y
}

/// Chunk by chunk. `state` is `[d_v, d_k]`; returns `[tokens, d_v]`.
pub fn chunked(x: &Tokens<'_>, state: &mut [f64], chunk: usize) -> Vec<f64> {
    let Tokens { d_k, d_v, .. } = *x;
    let mut y = vec![0.0; x.v.len()];
    for range in chunks(x.v.len() / d_v, chunk) {
        let (start, n) = (range.start, range.len());
        let decay = LogDecay::new(&x.log_w[start * d_k..range.end * d_k], d_k);
        let (b, k, v) = (&x.b[start * d_k..], &x.k[start * d_k..], &x.v[start * d_v..]);
        let scores = |reader: &[f64], keys: &[f64], to: usize| -> Vec<f64> {
            (0..to).map(|j| decay.score(reader, &keys[j * d_k..][..d_k], j + 1, to)).collect()
        };
        let mut z = vec![0.0; n * d_v];
        for i in 0..n {
            let (a, r) = (&x.a[(start + i) * d_k..][..d_k], &x.r[(start + i) * d_k..][..d_k]);
            let (ab, ak, rb, rk) = (scores(a, b, i), scores(a, k, i), scores(r, b, i + 1), scores(r, k, i + 1));
            for (i_v, s) in state.chunks_exact(d_k).enumerate() {
                let column = |scores: &[f64], m: &[f64]| -> f64 {
                    scores.iter().enumerate().map(|(j, p)| p * m[j * d_v + i_v]).sum()
                };
                z[i * d_v + i_v] = decay.score(a, s, 0, i) + column(&ab, &z) + column(&ak, v);
                y[(start + i) * d_v + i_v] = decay.score(r, s, 0, i + 1) + column(&rb, &z) + column(&rk, v);
            }
        }
        decay.advance(state, d_k, &[(b, &z), (k, v)]);
    }
    y
}
