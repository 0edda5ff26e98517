//! Mamba-1's selective scan (arXiv:2312.00752), one channel: a decay for every entry of its state.
//!
//! ```text
//! h[n] <- exp(dt a[n]) h[n] + dt B[n] x;   y = sum_n C[n] h[n] + D x
//! ```
//!
//! The chunked form is that of [`ssd`] with one value and decays `dt a[n]`.

use super::{dot, ssd};

/// Tokens of one channel.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[tokens]`.
    pub x: &'a [f64],
    /// Time steps after softplus, `[tokens]`.
    pub dt: &'a [f64],
    /// The channel's `[n]`, negative; the file holds `-exp(A_log)`.
    pub a: &'a [f64],
    /// `[tokens, n]`.
    pub b: &'a [f64],
    /// `[tokens, n]`.
    pub c: &'a [f64],
    /// The channel's factor on x.
    pub d: f64,
}

/// Token by token. `state` is `[n]`; returns `[tokens]`.
pub fn sequential(x: &Tokens<'_>, state: &mut [f64]) -> Vec<f64> {
    let n = x.a.len();
    let mut y = Vec::with_capacity(x.x.len());
    for (t, (dt, value)) in x.dt.iter().zip(x.x).enumerate() {
        let (b, c) = (&x.b[t * n..][..n], &x.c[t * n..][..n]);
        for i in 0..n {
            state[i] = (dt * x.a[i]).exp() * state[i] + dt * b[i] * value;
        }
        y.push(dot(state, c) + x.d * value);
    }
    y
}

/// Chunk by chunk. `state` is `[n]`; returns `[tokens]`.
pub fn chunked(x: &Tokens<'_>, state: &mut [f64], chunk: usize) -> Vec<f64> {
    let Tokens { x: values, dt, a, b, c, d } = *x;
    let log: Vec<f64> = dt.iter().flat_map(|dt| a.iter().map(move |a| dt * a)).collect();
    let tokens = ssd::Tokens { x: values, dt, a: 0.0, b, c, d, d_k: a.len(), d_v: 1 };
    ssd::chunked_with(&tokens, &log, a.len(), state, chunk)
}
