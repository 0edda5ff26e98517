//! DRY (p-e-w, 2024): a penalty, exponential in its length, on tokens that would prolong a repetition.

use std::collections::HashMap;

use super::Sampling;
use super::filter::Candidate;

/// Largest `x` for which `exp(x)` is finite in f32.
const MAX_EXPONENT: f32 = 88.7228;

/// Takes `multiplier * base^(length - allowed)` off every token that followed an earlier occurrence of the last `length`
/// tokens, its longest one.
pub(super) fn penalise(candidates: &mut [Candidate], history: &[u32], s: &Sampling) {
    let newest_first: Vec<u32> = history.iter().rev().copied().collect();
    let mut breakers: HashMap<u32, Vec<&[u32]>> = HashMap::new();
    for (head, tail) in &s.dry_breakers {
        breakers.entry(*head).or_default().push(tail);
    }
    let limit = limit(&newest_first, &breakers);
    if newest_first.len() <= s.dry_allowed_length || limit < s.dry_allowed_length {
        return;
    }
    let mut longest: HashMap<u32, usize> = HashMap::new();
    for (i, length) in common_prefixes(&newest_first).into_iter().enumerate().skip(1) {
        let length = length.min(limit);
        if length >= s.dry_allowed_length {
            let best = longest.entry(newest_first[i - 1]).or_default();
            *best = length.max(*best);
        }
    }
    for (id, length) in longest {
        let is_breaker = breakers.get(&id).is_some_and(|tails| tails.iter().any(|t| t.is_empty()));
        let Ok(i) = candidates.binary_search_by_key(&id, |c| c.id) else { continue };
        if !is_breaker {
            let mut exponent = (length - s.dry_allowed_length) as f32;
            if s.dry_base > 1.000_001 {
                exponent = exponent.min((MAX_EXPONENT / s.dry_base.ln()).floor());
            }
            candidates[i].logit -= s.dry_multiplier * s.dry_base.powf(exponent);
        }
    }
}

/// How many of the newest tokens come after the last breaker.
fn limit(newest_first: &[u32], breakers: &HashMap<u32, Vec<&[u32]>>) -> usize {
    for (i, token) in newest_first.iter().enumerate() {
        let follows = |tail: &&&[u32]| tail.len() <= i && tail.iter().eq(newest_first[i - tail.len()..i].iter().rev());
        let tails = breakers.get(token).into_iter().flatten().filter(follows);
        if let Some(longest) = tails.map(|tail| tail.len()).max() {
            return i - longest;
        }
    }
    newest_first.len()
}

/// For each place, how many tokens from there on are those of the beginning (Z algorithm).
fn common_prefixes(tokens: &[u32]) -> Vec<usize> {
    let mut z = vec![0; tokens.len()];
    // The stretch that reaches furthest among those equal to the beginning.
    let (mut left, mut right) = (0, 0);
    for i in 1..tokens.len() {
        let mut n = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + n < tokens.len() && tokens[n] == tokens[i + n] {
            n += 1;
        }
        if i + n > right {
            (left, right) = (i, i + n);
        }
        z[i] = n;
    }
    z
}
