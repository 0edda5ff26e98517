//! What the cases of the scanning ops share: the bound.
//!
//! Of each column of the state (one value index, all key indices) the Euclidean norm of its error is
//! followed through the scan, `S <- (diag(w) + b a^T) S + factor v k`. The error so far is multiplied by
//! the norm of that matrix: the largest decay, or where it has a change of rank one what 40 steps of
//! the power iteration find, and 2 % for what they miss. What a step adds:
//!
//! - `w = exp(g)`: [`exp_rel`], the rounding of a `g` that is a product itself, and a product:
//!   `rho |w S|`. The same `g` repeats the same error: added up as it is.
//! - what is read to be replaced, `z = S.a`: `sum(d_k) sum |S a|`, which enters along `b`;
//! - products and sums: `U (2 |z b| + 3 |factor v k| + 2 |S|)`.
//!
//! The last two are roundings of independent sign: their squares are added up. The result is read by
//! `r`: `error |r| + sum(d_k) sum |S r|`; a bonus or a skip adds its own products, all with 2 U.
//! A chunked form multiplies the same matrices in another order and has to meet the same bound.

use segno_ir::reference::RefState;

use super::{Errors, Trial};
use crate::bound::{TINY, U, exp_rel, norm, sum};

/// Sizes of a state `[heads, d_v, d_k]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub heads: usize,
    pub d_v: usize,
    pub d_k: usize,
}

/// One token of one head.
pub(super) struct Token<'a> {
    /// Log decays, one or `d_k`.
    pub log: Vec<f64>,
    /// Roundings of the log decays before the exponential.
    pub log_roundings: f64,
    pub k: &'a [f64],
    pub r: &'a [f64],
    /// `[d_v]`, with the factor.
    pub values: Vec<f64>,
    /// `(a, b)`.
    pub change: Option<(&'a [f64], &'a [f64])>,
    /// For each key channel the term of the bonus: the result is read before the update.
    pub bonus: Option<Vec<f64>>,
    /// Factor on the value that is added to the result without the state.
    pub skip: Vec<f64>,
}

/// Norm of `diag(w) + b a^T`.
fn matrix_norm(w: &[f64], a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let mut x: Vec<f64> = (0..w.len()).map(|i| 1.0 + (i % 7) as f64 / 7.0).collect();
    let mut found = 0.0;
    for _ in 0..40 {
        let length = norm(x.iter().copied()).max(TINY);
        x.iter_mut().for_each(|x| *x /= length);
        let z = dot(&x, a);
        let y: Vec<f64> = (0..w.len()).map(|i| w[i] * x[i] + b[i] * z).collect();
        found = norm(y.iter().copied());
        let z = dot(&y, b);
        x = (0..w.len()).map(|i| w[i] * y[i] + a[i] * z).collect();
    }
    1.02 * w.iter().copied().fold(found, f64::max)
}

/// Bounds of a scan; `token` gives a head's token by row and head.
pub(super) fn errors<'a>(trial: &Trial<'a>, sizes: Sizes, token: impl Fn(usize, usize) -> Token<'a>) -> Errors {
    let Sizes { heads, d_v, d_k } = sizes;
    let Some(RefState::Recurrent(state)) = trial.state else { return Errors::default() };
    let mut state = state.clone();
    // Per column: what repeats, and the sum of squares of what does not.
    let (mut steady, mut squares) = (vec![0f64; heads * d_v], vec![0f64; heads * d_v]);
    let mut y = vec![0.0; trial.rows * heads * d_v];
    let mut states = Vec::new();
    let products = |a: &[f64], b: &[f64]| -> (f64, f64) {
        a.iter().zip(b).fold((0.0, 0.0), |(dot, size), (a, b)| (dot + a * b, size + (a * b).abs()))
    };
    for t in 0..trial.rows {
        for head in 0..heads {
            let token = token(t, head);
            let log = |i: usize| token.log[i % token.log.len()];
            let w: Vec<f64> = (0..d_k).map(|i| log(i).exp()).collect();
            let rho =
                |i: usize| if w[i] == 0.0 { 0.0 } else { exp_rel(log(i)) + token.log_roundings * U * log(i).abs() + U };
            let rho = (0..d_k).map(rho).fold(0.0, f64::max);
            let m = match token.change {
                Some((a, b)) => matrix_norm(&w, a, b),
                None => w.iter().copied().fold(0.0, f64::max),
            };
            let (norm_k, norm_r) = (norm(token.k.iter().copied()), norm(token.r.iter().copied()));
            for i_v in 0..d_v {
                let column = head * d_v + i_v;
                let s = &mut state[column * d_k..][..d_k];
                let value = token.values[i_v];
                let mut read = |s: &[f64], error: f64| {
                    let (_, size) = products(s, token.r);
                    let skip = (token.skip.get(i_v).unwrap_or(&0.0)).abs();
                    let bonus = token.bonus.as_ref().map_or(0.0, |b| {
                        let (dot, size) = b.iter().fold((0.0, 0.0), |(d, m), b| (d + b, m + f64::abs(*b)));
                        value.abs() * ((sum(d_k) + 2.0 * U) * size + 2.0 * U * f64::abs(dot))
                    });
                    y[t * heads * d_v + column] =
                        error * norm_r + (sum(d_k) + 2.0 * U) * size + bonus + 2.0 * U * skip + TINY * d_k as f64;
                };
                if token.bonus.is_some() {
                    read(s, steady[column] + squares[column].sqrt());
                }
                let (z, z_size) = token.change.map_or((0.0, 0.0), |(a, _)| products(s, a));
                s.iter_mut().zip(&w).for_each(|(s, w)| *s *= w);
                let decayed = norm(s.iter().copied());
                let mut changed = 0.0;
                if let Some((_, b)) = token.change {
                    let norm_b = norm(b.iter().copied());
                    changed = norm_b * (sum(d_k) * z_size + 2.0 * U * z.abs());
                    s.iter_mut().zip(b).for_each(|(s, b)| *s += b * z);
                }
                s.iter_mut().zip(token.k).for_each(|(s, k)| *s += k * value);
                let update = U * (3.0 * value.abs() * norm_k + 2.0 * norm(s.iter().copied()));
                steady[column] = m * steady[column] + rho * decayed + TINY * d_k as f64;
                squares[column] = m * m * squares[column] + (changed + update).powi(2);
                if token.bonus.is_none() {
                    read(s, steady[column] + squares[column].sqrt());
                }
            }
        }
        if trial.marks.contains(&(t + 1)) {
            let error = |i: usize| steady[i / d_k] + squares[i / d_k].sqrt();
            states.push((0..state.len()).map(error).collect());
        }
    }
    Errors { y, states }
}
