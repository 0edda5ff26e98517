//! Filters over candidates in the order of their ids. None leaves nothing.

use std::collections::HashMap;

use segno_ir::sample::{gumbel, kth_largest, top_p_threshold};

use super::Sampling;

/// A token that may still be drawn; at negative infinity it will not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
}

/// Index of the drawn candidate: the largest logit plus its Gumbel variate, the first of equals.
pub(super) fn draw(candidates: &[Candidate], seed: u64, position: u32) -> usize {
    let mut best = (f32::NEG_INFINITY, None);
    for (i, c) in candidates.iter().enumerate().filter(|(_, c)| c.logit > f32::NEG_INFINITY) {
        let score = c.logit + gumbel(seed, position, c.id);
        if best.1.is_none() || score > best.0 {
            best = (score, Some(i));
        }
    }
    best.1.unwrap_or(0)
}

fn logits(candidates: &[Candidate]) -> Vec<f32> {
    candidates.iter().map(|c| c.logit).collect()
}

fn largest(candidates: &[Candidate]) -> f32 {
    candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
}

/// The logit that `min_keep` candidates reach.
fn reached_by(candidates: &[Candidate], min_keep: usize) -> f32 {
    match min_keep {
        0 => f32::INFINITY,
        _ => kth_largest(&logits(candidates), min_keep).unwrap_or(f32::NEG_INFINITY),
    }
}

/// Probabilities; equal ones if every logit is negative infinity.
pub(super) fn softmax(candidates: &[Candidate]) -> Vec<f64> {
    let max = largest(candidates);
    let weight = |l: f32| if l == max { 1.0 } else { f64::from(l - max).exp() };
    let weights: Vec<f64> = candidates.iter().map(|c| weight(c.logit)).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

fn entropy(p: &[f64]) -> f64 {
    p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum()
}

/// `l = l <= 0 ? l r : l / r`, then `l -= count f + presence`, for tokens with a count.
pub(super) fn penalise(candidates: &mut [Candidate], counts: &HashMap<u32, u32>, s: &Sampling) {
    for (id, &count) in counts {
        let Ok(i) = candidates.binary_search_by_key(id, |c| c.id) else { continue };
        let l = &mut candidates[i].logit;
        *l = if *l <= 0.0 { *l * s.penalty_repeat } else { *l / s.penalty_repeat };
        *l -= count as f32 * s.penalty_frequency + s.penalty_presence;
    }
}

/// Logits below the largest less `n` population standard deviations of the finite ones become negative infinity.
pub(super) fn top_n_sigma(candidates: &mut [Candidate], n: f32) {
    let finite: Vec<f64> = candidates.iter().filter(|c| c.logit.is_finite()).map(|c| c.logit.into()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    let variance = finite.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / finite.len() as f64;
    let keep = f64::from(largest(candidates)) - f64::from(n) * variance.sqrt();
    candidates.iter_mut().filter(|c| f64::from(c.logit) < keep).for_each(|c| c.logit = f32::NEG_INFINITY);
}

/// Keeps the `k` largest.
pub(super) fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if let Some(keep) = kth_largest(&logits(candidates), k) {
        candidates.retain(|c| c.logit >= keep);
    }
}

/// Keeps the candidates whose surprise is nearest to the entropy, until their sum exceeds `p`.
pub(super) fn typical(candidates: &mut Vec<Candidate>, p: f32, min_keep: usize) {
    let probabilities = softmax(candidates);
    let entropy = entropy(&probabilities);
    let distance: Vec<f64> = probabilities.iter().map(|p| (-p.ln() - entropy).abs()).collect();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|&a, &b| distance[a].total_cmp(&distance[b]));
    let mut sum = 0.0;
    let last = order.iter().zip(1..).find(|&(&i, kept)| {
        sum += probabilities[i];
        sum > f64::from(p) && kept >= min_keep
    });
    let Some((&last, _)) = last else { return };
    let mut distances = distance.iter();
    candidates.retain(|_| distances.next().is_some_and(|d| *d <= distance[last]));
}

/// Keeps the smallest set of the largest that reaches the share `p`.
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f32, min_keep: usize) {
    let keep = top_p_threshold(&logits(candidates), p, min_keep);
    candidates.retain(|c| c.logit >= keep);
}

/// Keeps what has at least the share `p` of the largest probability.
pub(super) fn min_p(candidates: &mut Vec<Candidate>, p: f32, min_keep: usize) {
    let keep = (largest(candidates) + p.ln()).min(reached_by(candidates, min_keep));
    candidates.retain(|c| c.logit >= keep);
}

/// Of those with a probability of at least `threshold`, keeps only the least likely.
pub(super) fn xtc(candidates: &mut Vec<Candidate>, threshold: f32, min_keep: usize) {
    let p = softmax(candidates);
    let likely = candidates.iter().zip(&p).filter(|(_, p)| **p >= f64::from(threshold)).map(|(c, _)| c.logit);
    let Some(last) = likely.filter(|l| l.is_finite()).min_by(f32::total_cmp) else { return };
    let left = candidates.iter().filter(|c| c.logit <= last).count();
    if left >= min_keep {
        candidates.retain(|c| c.logit <= last);
    }
}

/// Divides by `t`; at 0 only the first of the largest stays possible.
pub(super) fn temperature(candidates: &mut [Candidate], t: f32) {
    if t > 0.0 {
        return candidates.iter_mut().for_each(|c| c.logit /= t);
    }
    let max = largest(candidates);
    let first = candidates.iter().position(|c| c.logit == max);
    let others = candidates.iter_mut().enumerate().filter(|(i, _)| Some(*i) != first);
    others.for_each(|(_, c)| c.logit = f32::NEG_INFINITY);
}

/// A temperature within `t` ± `range` by the normalised entropy raised to `exponent`.
pub(super) fn dynamic_temperature(candidates: &mut [Candidate], t: f32, range: f32, exponent: f32) {
    if candidates.len() < 2 {
        return;
    }
    let (low, high) = (f64::from((t - range).max(0.0)), f64::from(t + range));
    let share = entropy(&softmax(candidates)) / (candidates.len() as f64).ln();
    temperature(candidates, (low + (high - low) * share.powf(exponent.into())) as f32);
}
