//! Drawing a token from logits: one definition for host and devices.
//!
//! The order is llama.cpp's: top-k, top-p, min-p, then temperature, then the draw. Each of the first
//! three keeps all logits above a threshold, so that no order of the candidates is needed, and
//! equal logits at a threshold stay together. The draw is the Gumbel-max form of sampling from the
//! softmax: the largest `logit / temperature + G(seed, position, id)`, with G from a counter-based
//! generator. It needs no sum either: every backend draws the same token from the same logits.

/// How to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleParams {
    /// 0 or less: always the largest logit.
    pub temperature: f32,
    /// Keeps the k largest; 0: all.
    pub top_k: u32,
    /// Keeps the smallest set of the largest probabilities that reaches this sum; 1: all.
    pub top_p: f32,
    /// Keeps probabilities of at least this share of the largest; 0: all.
    pub min_p: f32,
    /// Of the generator.
    pub seed: u64,
}

impl Default for SampleParams {
    /// llama.cpp's defaults, and a seed of 0.
    fn default() -> Self {
        SampleParams { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: 0 }
    }
}

impl SampleParams {
    /// Always the largest logit, the lowest id among equals.
    pub fn greedy() -> Self {
        SampleParams { temperature: 0.0, ..Self::default() }
    }
}

/// A draw from one output row.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRow {
    /// Index among the step's output rows.
    pub row: u32,
    /// How to draw.
    pub params: SampleParams,
    /// Position of the token that is drawn: the generator's counter.
    pub position: u32,
    /// Added to the logits of some tokens.
    pub bias: Vec<(u32, f32)>,
    /// Tokens that end the sequence: see [`Sampled::done`](crate::device::Sampled::done).
    pub stop: Vec<u32>,
}

/// Philox 4x32-10 (Salmon et al., SC 2011): four random words from a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let p0 = M[0] as u64 * c[0] as u64;
        let p1 = M[1] as u64 * c[2] as u64;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(W[0]), k[1].wrapping_add(W[1])];
    }
    c
}

/// A standard Gumbel variate for a token at a position: `-ln(-ln u)`.
pub fn gumbel(seed: u64, position: u32, id: u32) -> f32 {
    let word = philox([id, position, 0, 0], [seed as u32, (seed >> 32) as u32])[0];
    // 23 bits, shifted by half a step: never 0 or 1.
    let u = ((word >> 9) as f32 + 0.5) / 8_388_608.0;
    -(-u.ln()).ln()
}

/// The `k`-th largest of some logits without NaN; `None` if there are no more than `k`, or `k` is 0.
pub fn kth_largest(logits: &[f32], k: usize) -> Option<f32> {
    if k == 0 || k >= logits.len() {
        return None;
    }
    Some(*logits.to_vec().select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1)
}

/// The smallest logit of the smallest set of the largest that has the share `p` of all probability, and at least
/// `min_keep` members. No logit is NaN.
pub fn top_p_threshold(logits: &[f32], p: f32, min_keep: usize) -> f32 {
    let Some(max) = logits.iter().copied().max_by(f32::total_cmp) else { return f32::NEG_INFINITY };
    let total: f64 = logits.iter().map(|l| ((l - max) as f64).exp()).sum();
    let (mut sum, mut kept) = (0.0, 0);
    let mut left = logits.to_vec();
    let mut rest = &mut left[..];
    // The set is small as a rule: only as many as it needs are sorted, in runs that grow.
    let mut run = 256;
    while !rest.is_empty() {
        run = rest.len().min(run * 4);
        if run < rest.len() {
            rest.select_nth_unstable_by(run - 1, |a, b| b.total_cmp(a));
        }
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(run);
        head.sort_unstable_by(|a, b| b.total_cmp(a));
        for &l in &*head {
            sum += ((l - max) as f64).exp();
            kept += 1;
            if sum >= p as f64 * total && kept >= min_keep {
                return l;
            }
        }
        rest = tail;
    }
    f32::NEG_INFINITY
}

/// The smallest logit that top-k, top-p and min-p keep. NaN logits are never kept.
pub fn threshold(logits: &[f32], params: &SampleParams) -> f32 {
    let mut left: Vec<f32> = logits.iter().copied().filter(|l| !l.is_nan()).collect();
    let Some(max) = left.iter().copied().max_by(f32::total_cmp) else { return f32::NEG_INFINITY };
    let mut keep = f32::NEG_INFINITY;
    if let Some(kth) = kth_largest(&left, params.top_k as usize) {
        keep = kth;
        left.retain(|&l| l >= keep);
    }
    if params.top_p < 1.0 {
        keep = keep.max(top_p_threshold(&left, params.top_p, 0));
    }
    if params.min_p > 0.0 {
        keep = keep.max(max + params.min_p.ln());
    }
    keep.min(max)
}

/// Draws a token.
pub fn sample(logits: &[f32], request: &SampleRow) -> u32 {
    let params = &request.params;
    let mut biased;
    let logits = if request.bias.is_empty() {
        logits
    } else {
        biased = logits.to_vec();
        for &(id, bias) in &request.bias {
            if let Some(l) = biased.get_mut(id as usize) {
                *l += bias;
            }
        }
        &biased
    };
    let greedy = params.temperature <= 0.0;
    let keep = if greedy { f32::NEG_INFINITY } else { threshold(logits, params) };
    let mut best = (f32::NEG_INFINITY, 0);
    let mut any = false;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit < keep {
            continue;
        }
        let score = match greedy {
            true => logit,
            false => logit / params.temperature + gumbel(params.seed, request.position, id as u32),
        };
        if !any || score > best.0 {
            best = (score, id as u32);
            any = true;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(params: SampleParams, position: u32) -> SampleRow {
        SampleRow { row: 0, params, position, bias: Vec::new(), stop: Vec::new() }
    }

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of the Random123 distribution.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn thresholds_keep_what_they_say() {
        let logits = [0.0, 3.0, 1.0, 2.0, f32::NAN];
        let all = SampleParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
        assert_eq!(threshold(&logits, &all), f32::NEG_INFINITY);
        assert_eq!(threshold(&logits, &SampleParams { top_k: 2, ..all.clone() }), 2.0);
        // exp(3)/sum = 0.64, with exp(2): 0.88.
        assert_eq!(threshold(&logits, &SampleParams { top_p: 0.6, ..all.clone() }), 3.0);
        assert_eq!(threshold(&logits, &SampleParams { top_p: 0.7, ..all.clone() }), 2.0);
        assert_eq!(threshold(&logits, &SampleParams { top_p: 0.0, ..all.clone() }), 3.0);
        let min_p = threshold(&logits, &SampleParams { min_p: 0.3, ..all });
        assert!(min_p > 1.0 && min_p < 2.0);
    }

    /// What [`threshold`] computes, by sorting everything.
    fn threshold_by_sorting(logits: &[f32], params: &SampleParams) -> f32 {
        let mut left: Vec<f32> = logits.iter().copied().filter(|l| !l.is_nan()).collect();
        let descending = |left: &[f32]| {
            let mut sorted = left.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted
        };
        let sorted = descending(&left);
        let Some(&max) = sorted.first() else { return f32::NEG_INFINITY };
        let mut keep = f32::NEG_INFINITY;
        if params.top_k > 0 && (params.top_k as usize) < left.len() {
            keep = sorted[params.top_k as usize - 1];
            left.retain(|&l| l >= keep);
        }
        if params.top_p < 1.0 {
            let total: f64 = left.iter().map(|l| ((l - max) as f64).exp()).sum();
            let mut sum = 0.0;
            let last = descending(&left).into_iter().find(|l| {
                sum += ((l - max) as f64).exp();
                sum >= params.top_p as f64 * total
            });
            keep = keep.max(last.unwrap_or(f32::NEG_INFINITY));
        }
        if params.min_p > 0.0 {
            keep = keep.max(max + params.min_p.ln());
        }
        keep.min(max)
    }

    #[test]
    fn thresholds_equal_those_of_sorting() {
        for case in 0..600u32 {
            let word = |i: u32| philox([i, case, 0, 0], [11, 12])[0];
            let n = word(0) % [3, 40, 3000, 9000][case as usize % 4];
            // Few distinct values, so that there are ties; now and then a NaN or a masked token.
            let logits: Vec<f32> = (0..n)
                .map(|i| match word(100 + i) {
                    w if w % 97 == 0 => f32::NAN,
                    w if w % 89 == 0 => f32::NEG_INFINITY,
                    w => (w % (1 + word(1) % 5000)) as f32 / (1 + word(2) % 900) as f32,
                })
                .collect();
            let share = |i| (word(i) % 101) as f32 / 100.0;
            let params =
                SampleParams { temperature: 1.0, top_k: word(3) % 60, top_p: share(4), min_p: share(5), seed: 0 };
            for params in [
                params.clone(),
                SampleParams { top_k: 0, min_p: 0.0, ..params.clone() },
                SampleParams { top_k: word(6) % (n + 2), ..params },
            ] {
                let (fast, slow) = (threshold(&logits, &params), threshold_by_sorting(&logits, &params));
                assert_eq!(fast, slow, "case {case}, {n} logits, {params:?}");
            }
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let temperature = 0.7;
        let params = SampleParams { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 42 };
        let n = 20_000;
        let mut counts = [0u32; 4];
        for position in 0..n {
            counts[sample(&logits, &request(params.clone(), position)) as usize] += 1;
        }
        let total: f32 = logits.iter().map(|l| (l / temperature).exp()).sum();
        for (count, l) in counts.iter().zip(logits) {
            let p = (l / temperature).exp() / total;
            let sigma = (p * (1.0 - p) / n as f32).sqrt();
            assert!((*count as f32 / n as f32 - p).abs() < 4.5 * sigma, "{counts:?}, expected share {p}");
        }
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equals_and_passes_over_nan() {
        assert_eq!(sample(&[f32::NAN, 1.0, 1.0], &request(SampleParams::greedy(), 0)), 1);
        assert_eq!(sample(&[f32::NAN; 3], &request(SampleParams::greedy(), 0)), 0);
        let biased = SampleRow { bias: vec![(2, 0.5), (99, 1.0)], ..request(SampleParams::greedy(), 0) };
        assert_eq!(sample(&[0.0, 1.0, 1.0], &biased), 2);
    }
}
