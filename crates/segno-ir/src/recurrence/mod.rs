//! The recurrences of the scanning ops, for one head in f64, each in two forms.
//!
//! `sequential` goes token by token and is what the op means. `chunked` reads the state at the
//! borders of chunks only, and is what a parallel backend does. Both take and leave the state as
//! `[value, key]`, the key index contiguous, and agree up to rounding for every chunk size.
//!
//! Decays are logarithms, and those of a range of tokens are added up before the exponential. The
//! sum is taken over the range itself: the difference of two running sums would lose a small decay
//! behind a large one, and has no value once one of them is minus infinity.

pub mod delta_rule;
pub mod selective_scan;
pub mod ssd;
pub mod wkv6;
pub mod wkv7;

#[cfg(test)]
mod test;

/// Sums of log decays over every range of tokens of a chunk.
struct LogDecay {
    /// `[from, to, width]`; only `from <= to` is filled.
    sums: Vec<f64>,
    n: usize,
    width: usize,
}

impl LogDecay {
    /// From log decays `[tokens, width]`, where `width` is 1 or the length of a key.
    fn new(log: &[f64], width: usize) -> Self {
        let n = log.len() / width;
        let mut sums = vec![0.0; (n + 1) * (n + 1) * width];
        for from in 0..n {
            for to in from..n {
                let at = (from * (n + 1) + to) * width;
                for c in 0..width {
                    sums[at + width + c] = sums[at + c] + log[to * width + c];
                }
            }
        }
        LogDecay { sums, n, width }
    }

    /// What remains of channel `c` after tokens `from..to`.
    fn factor(&self, from: usize, to: usize, c: usize) -> f64 {
        self.sums[(from * (self.n + 1) + to) * self.width + c % self.width].exp()
    }

    /// `sum_c a[c] b[c] factor(from, to, c)`: what reading with `a` finds of `b` after these tokens.
    fn score(&self, a: &[f64], b: &[f64], from: usize, to: usize) -> f64 {
        a.iter().zip(b).enumerate().map(|(c, (a, b))| a * b * self.factor(from, to, c)).sum()
    }

    /// Takes the state past the chunk: `S[v] <- decay S[v] + sum_j decay(after j) k_j write_j[v]`,
    /// over pairs of keys `[tokens, d_k]` and what they write, `[tokens, d_v]`.
    fn advance(&self, state: &mut [f64], d_k: usize, writes: &[(&[f64], &[f64])]) {
        let d_v = state.len() / d_k;
        for (i_v, s) in state.chunks_exact_mut(d_k).enumerate() {
            for (c, s) in s.iter_mut().enumerate() {
                *s *= self.factor(0, self.n, c);
                for j in 0..self.n {
                    let write: f64 = writes.iter().map(|(k, w)| k[j * d_k + c] * w[j * d_v + i_v]).sum();
                    *s += self.factor(j + 1, self.n, c) * write;
                }
            }
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Ranges of at most `chunk` tokens.
fn chunks(tokens: usize, chunk: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..tokens).step_by(chunk.max(1)).map(move |at| at..(at + chunk.max(1)).min(tokens))
}
