//! Mirostat (Basu et al., 2021): cuts so that the surprise of what is drawn stays near a target.

use super::filter::{Candidate, softmax, top_k};

/// Tokens that version 1 estimates the exponent of Zipf's law from.
const ESTIMATED_FROM: usize = 100;

/// Version 1: the `k` largest, `k` by the exponent and the bound `mu`.
pub(super) fn cut_1(candidates: &mut Vec<Candidate>, mu: f64, n_vocab: usize) {
    let mut sorted: Vec<f32> = candidates.iter().map(|c| c.logit).filter(|l| l.is_finite()).collect();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let (mut tb, mut tt) = (0.0, 0.0);
    for (i, pair) in sorted.windows(2).take(ESTIMATED_FROM - 1).enumerate() {
        let t = ((i + 2) as f64 / (i + 1) as f64).ln();
        // The logarithm of the ratio of two probabilities.
        tb += t * f64::from(pair[0] - pair[1]);
        tt += t * t;
    }
    let s = tb / tt;
    let epsilon = s - 1.0;
    let k = (epsilon * mu.exp2() / (1.0 - (n_vocab as f64).powf(-epsilon))).powf(1.0 / s);
    top_k(candidates, (k as usize).max(1));
}

/// Version 2: what surprises by at most `mu` bits, and the likeliest.
pub(super) fn cut_2(candidates: &mut Vec<Candidate>, mu: f64) {
    let p = softmax(candidates);
    let keep = p.iter().copied().fold(0.0, f64::max).min((-mu).exp2());
    let mut p = p.iter();
    candidates.retain(|_| p.next().is_some_and(|p| *p >= keep));
}
