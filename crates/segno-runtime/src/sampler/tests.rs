use super::*;

fn candidates(logits: &[f32]) -> Vec<Candidate> {
    logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }).collect()
}

fn ids(candidates: &[Candidate]) -> Vec<u32> {
    candidates.iter().filter(|c| c.logit > f32::NEG_INFINITY).map(|c| c.id).collect()
}

/// Logits of these probabilities.
fn logs(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln()).collect()
}

fn chain(sampling: Sampling, seed: u64, prompt: &[u32]) -> Chain {
    Chain::new(sampling, seed, Vec::new(), prompt.to_vec()).expect("a chain")
}

/// Only this sampler.
fn only(sampler: Sampler) -> Sampling {
    Sampling { order: vec![sampler], ..Sampling::default() }
}

/// What a chain of these settings leaves of these logits.
fn left(sampling: Sampling, prompt: &[u32], logits: &[f32]) -> Vec<Candidate> {
    chain(sampling, 0, prompt).candidates(logits)
}

fn assert_near(actual: &[Candidate], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (a, e) in actual.iter().zip(expected) {
        assert!(a.logit == *e || (a.logit - e).abs() < 1e-4, "{actual:?}, expected {expected:?}");
    }
}

/// Reproducible logits with ties, NaN and infinities.
fn rough(case: u32, n: u32) -> Vec<f32> {
    let logit = |i| match philox([i, case, 0, 0], [21, 22])[0] {
        w if w % 31 == 0 => f32::NAN,
        w if w % 29 == 0 => f32::NEG_INFINITY,
        w => (w % 200) as f32 / 10.0 - 10.0,
    };
    (0..n).map(logit).collect()
}

#[test]
fn penalties_count_what_occurred() {
    let s = Sampling {
        penalty_last_n: 4,
        penalty_repeat: 2.0,
        penalty_frequency: 0.5,
        penalty_presence: 0.25,
        ..only(Sampler::Penalties)
    };
    // 0 lies before the last four; 1 occurs once, 2 three times.
    assert_near(&left(s.clone(), &[0, 2, 1, 2, 2], &[3.0, 3.0, -1.0, 1.0]), &[3.0, 0.75, -3.75, 1.0]);
    assert_near(&left(Sampling { penalty_last_n: -1, ..s }, &[0, 1], &[3.0, 0.0]), &[0.75, -0.75]);
}

#[test]
fn top_n_sigma_masks_what_is_far_below() {
    // Mean 3, population variance 5: the bound is 6 - 2.236.
    let s = Sampling { top_n_sigma: 1.0, ..only(Sampler::TopNSigma) };
    let left = left(s, &[], &[0.0, 6.0, 2.0, 4.0, f32::NEG_INFINITY]);
    assert_eq!((ids(&left), left.len()), (vec![1, 3], 5));
}

#[test]
fn filters_by_rank_and_share_keep_what_they_say() {
    let p = logs(&[0.1, 0.4, 0.2, 0.3]);
    let top_k = |k| ids(&left(Sampling { top_k: k, ..only(Sampler::TopK) }, &[], &p));
    assert_eq!((top_k(1), top_k(2), top_k(0)), (vec![1], vec![1, 3], vec![0, 1, 2, 3]));
    let top_p = |p_, min_keep| ids(&left(Sampling { top_p: p_, min_keep, ..only(Sampler::TopP) }, &[], &p));
    assert_eq!((top_p(0.35, 0), top_p(0.5, 0), top_p(0.35, 3)), (vec![1], vec![1, 3], vec![1, 2, 3]));
    let min_p = |p_, min_keep| ids(&left(Sampling { min_p: p_, min_keep, ..only(Sampler::MinP) }, &[], &p));
    assert_eq!((min_p(0.6, 0), min_p(1.0, 0), min_p(1.0, 3)), (vec![1, 3], vec![1], vec![1, 2, 3]));
}

#[test]
fn typical_keeps_what_surprises_as_much_as_the_entropy() {
    // H = 1.2799; distances of -ln p from it: 1.0227, 0.3636, 0.3296, 0.0759.
    let p = logs(&[0.1, 0.4, 0.2, 0.3]);
    let typical = |typical_p, min_keep| ids(&left(Sampling { typical_p, min_keep, ..only(Sampler::Typical) }, &[], &p));
    assert_eq!(typical(0.25, 0), [3]);
    assert_eq!(typical(0.45, 0), [2, 3]);
    assert_eq!(typical(0.25, 3), [1, 2, 3]);
    assert_eq!(typical(0.95, 0), [0, 1, 2, 3]);
}

#[test]
fn xtc_leaves_the_least_likely_of_the_likely() {
    let p = logs(&[0.1, 0.4, 0.2, 0.3]);
    let s = |xtc_threshold, min_keep| Sampling { xtc_probability: 1.0, xtc_threshold, min_keep, ..only(Sampler::Xtc) };
    let xtc = |threshold, min_keep| ids(&left(s(threshold, min_keep), &[], &p));
    assert_eq!(xtc(0.15, 0), [0, 2]);
    assert_eq!(xtc(0.15, 2), [0, 2]);
    assert_eq!(xtc(0.15, 3), [0, 1, 2, 3]);
    assert_eq!(xtc(0.35, 0), [0, 1, 2, 3], "one alone is never dropped");
    // It acts as often as it is told to.
    let rare = Sampling { xtc_probability: 0.3, ..s(0.15, 0) };
    let mut rare = chain(rare, 5, &[]);
    let mut acted = 0;
    for _ in 0..2000 {
        acted += usize::from(rare.candidates(&p).len() == 2);
        rare.tokens.push(0);
    }
    assert!((520..=680).contains(&acted), "{acted} of 2000");
}

#[test]
fn temperatures_divide() {
    let t = |temperature| left(Sampling { temperature, ..only(Sampler::Temperature) }, &[], &[1.0, 2.0, 2.0]);
    assert_near(&t(0.5), &[2.0, 4.0, 4.0]);
    assert_near(&t(0.0), &[f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY]);
    let dynamic = |exponent, logits: &[f32]| {
        let s = Sampling {
            temperature: 1.0,
            dynatemp_range: 0.5,
            dynatemp_exponent: exponent,
            ..only(Sampler::Temperature)
        };
        left(s, &[], logits)
    };
    // Equal candidates: all of the entropy, so 1.5.
    assert_near(&dynamic(1.0, &[3.0, 3.0]), &[2.0, 2.0]);
    // p = 0.75: H = 0.562335, of ln 2: 0.811278; temperatures 1.311278 and, squared, 1.158172.
    let l = 3f32.ln();
    assert_near(&dynamic(1.0, &[l, 0.0]), &[l / 1.311_278, 0.0]);
    assert_near(&dynamic(2.0, &[l, 0.0]), &[l / 1.158_172, 0.0]);
}

#[test]
fn dry_penalises_what_prolongs_a_repetition() {
    let s = Sampling { dry_multiplier: 1.0, dry_base: 2.0, dry_last_n: -1, ..only(Sampler::Dry) };
    // "1 2 3" came before 4, and "2 3" before 5.
    let prompt = [1, 2, 3, 4, 2, 3, 5, 1, 2, 3];
    assert_near(&left(s.clone(), &prompt, &[0.0; 6]), &[0.0, 0.0, 0.0, 0.0, -2.0, -1.0]);
    let long = Sampling { dry_allowed_length: 3, ..s.clone() };
    assert_near(&left(long, &prompt, &[0.0; 6]), &[0.0, 0.0, 0.0, 0.0, -1.0, 0.0]);
    // Repetitions end at a 1, and at a 5 if 1 and 2 follow.
    let broken = |head, tail: &[u32]| Sampling { dry_breakers: vec![(head, tail.to_vec())], ..s.clone() };
    assert_near(&left(broken(1, &[]), &prompt, &[0.0; 6]), &[0.0, 0.0, 0.0, 0.0, -1.0, -1.0]);
    assert_near(&left(broken(5, &[1, 2]), &prompt, &[0.0; 6]), &[0.0; 6]);
    assert_near(&left(broken(5, &[2, 1]), &prompt, &[0.0; 6]), &[0.0, 0.0, 0.0, 0.0, -2.0, -1.0]);
    // A breaker itself is not penalised.
    assert_near(&left(broken(4, &[]), &prompt, &[0.0; 6]), &[0.0, 0.0, 0.0, 0.0, 0.0, -1.0]);
    let endless = left(Sampling { dry_base: 10.0, ..s }, &[1; 500], &[0.0; 2]);
    assert!(endless[1].logit < -1e37);
}

#[test]
fn mirostat_keeps_surprise_near_its_target() {
    let p = logs(&[0.1, 0.4, 0.2, 0.3]);
    // Version 2 at 2 bits: p of at least 0.25.
    let mut c = candidates(&p);
    mirostat::cut_2(&mut c, 2.0);
    assert_eq!(ids(&c), [1, 3]);
    mirostat::cut_2(&mut c, -3.0);
    assert_eq!(ids(&c), [1]);
    // A Zipf law of exponent 2 is recognised: k = (2^mu / (1 - 1/1000))^(1/2) at epsilon 1.
    let zipf: Vec<f32> = (1..=1000).map(|i| -2.0 * (i as f32).ln()).collect();
    let mut c = candidates(&zipf);
    mirostat::cut_1(&mut c, 6.2, 1000);
    assert_eq!(c.len(), 8);
    for mirostat in [1, 2] {
        let s = Sampling { mirostat, mirostat_tau: 3.0, temperature: 1.0, ..Sampling::default() };
        let mut chain = chain(s, 1, &[]);
        let zipf: Vec<f32> = (1..=1000).map(|i| -1.1 * (i as f32).ln()).collect();
        let all = filter::softmax(&candidates(&zipf));
        let surprise: f64 = (0..1000).map(|_| -all[chain.draw(&zipf) as usize].log2()).sum::<f64>() / 1000.0;
        assert!((2.0..5.5).contains(&surprise), "mirostat {mirostat}: {surprise} bits");
    }
}

#[test]
fn adaptive_p_draws_near_its_target() {
    let s = Sampling { order: vec![Sampler::AdaptiveP], adaptive_target: 0.3, ..Sampling::default() };
    let p = [0.02, 0.6, 0.08, 0.3];
    let mut chain = chain(s, 3, &[]);
    let mean = (0..2000).map(|_| p[chain.draw(&logs(&p)) as usize]).sum::<f32>() / 2000.0;
    assert!((mean - 0.3).abs() < 0.05, "{mean}");
    // The first aim is the target: logits 5 - 10 x^2 / (1 + x) at x = 0.28 / 0.3, 1, 0.22 / 0.3 and 0.
    let expected = [0.494_252_87f64, 0.0, 1.897_435_9, 5.0].map(f64::exp);
    let mut counts = [0u32; 4];
    for seed in 0..20_000 {
        let mut first = self::chain(chain.sampling.clone(), seed, &[]);
        counts[first.draw(&logs(&p)) as usize] += 1;
    }
    assert!(chi_square(&counts, &expected) < 16.27, "{counts:?}");
}

/// The statistic; with 3 degrees of freedom, 16.27 is exceeded once in a thousand.
fn chi_square(counts: &[u32], weights: &[f64]) -> f64 {
    let (n, total) = (f64::from(counts.iter().sum::<u32>()), weights.iter().sum::<f64>());
    counts.iter().zip(weights).map(|(&c, w)| (f64::from(c) - n * w / total).powi(2) / (n * w / total)).sum()
}

#[test]
fn draws_follow_the_softmax() {
    let s = Sampling { order: vec![Sampler::Temperature], temperature: 0.7, ..Sampling::default() };
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let mut chain = chain(s, 42, &[]);
    let mut counts = [0u32; 4];
    (0..20_000).for_each(|_| counts[chain.draw(&logits) as usize] += 1);
    let chi_square = chi_square(&counts, &logits.map(|l| f64::from(l / 0.7).exp()));
    assert!(chi_square < 16.27, "{chi_square}, {counts:?}");
}

#[test]
fn host_and_device_draw_the_same_tokens() {
    use segno_ir::sample::{SampleRow, sample};
    for case in 0..200u32 {
        let word = |i: u32| philox([i, case, 1, 0], [31, 32])[0];
        let share = |i| (word(i) % 101) as f32 / 100.0;
        let s = Sampling {
            temperature: (word(0) % 4) as f32 * 0.6,
            top_k: word(1) % 50,
            top_p: share(2),
            min_p: share(3) / 4.0,
            min_keep: word(4) as usize % 2,
            ..Sampling::default()
        };
        let params = s.device(case.into()).expect("the device has these");
        let mut chain = Chain::new(s, case.into(), vec![(3, 2.0), (9999, 1.0)], vec![0; 7]).expect("a chain");
        for position in 7..17 {
            let logits = rough(case * 100 + position, 500);
            let row = SampleRow { row: 0, params: params.clone(), position, bias: vec![(3, 2.0)], stop: Vec::new() };
            assert_eq!(chain.draw(&logits), sample(&logits, &row), "{params:?} at {position}");
        }
    }
}

#[test]
fn what_the_device_lacks_runs_on_the_host() {
    let d = Sampling::default();
    assert_eq!(d.device(0), Some(SampleParams::default()));
    use Sampler::{AdaptiveP, MinP, Temperature, TopK, TopP};
    let order = |order: &[Sampler]| Sampling { order: order.to_vec(), ..Sampling::default() };
    let params = order(&[TopP]).device(7).expect("top-p alone");
    assert_eq!(params, SampleParams { temperature: 1.0, top_k: 0, top_p: 0.95, min_p: 0.0, seed: 7 });
    for host in [
        order(&[Temperature, TopK]),
        order(&[TopK, TopK]),
        order(&[TopK, MinP, TopP, Temperature]),
        Sampling { adaptive_target: 0.5, ..order(&[AdaptiveP, TopK]) },
        Sampling { min_keep: 2, ..d.clone() },
        Sampling { typical_p: 0.9, ..d.clone() },
        Sampling { mirostat: 2, ..d.clone() },
        Sampling { dynatemp_range: 0.1, ..d.clone() },
        Sampling { penalty_repeat: 1.1, ..d.clone() },
    ] {
        assert_eq!(host.device(0), None, "{host}");
        assert!(host.to_string().ends_with("on the host"));
    }
    assert_eq!(d.to_string(), "top_k 40 -> top_p 0.95 -> min_p 0.05 -> temperature 0.8 -> draw, on the device");
}

/// Everything at once, or mirostat, or adaptive-p.
fn busy(case: u32) -> Sampling {
    let word = |i: u32| philox([i, case, 2, 0], [41, 42])[0];
    let share = |i| (word(i) % 101) as f32 / 100.0;
    let mut order = Sampler::default_order();
    (1..order.len()).for_each(|i| order.swap(i, word(100 + i as u32) as usize % (i + 1)));
    if case.is_multiple_of(3) {
        order.insert(word(20) as usize % order.len(), Sampler::AdaptiveP);
    }
    Sampling {
        order,
        min_keep: word(1) as usize % 5,
        temperature: share(2) * 2.0,
        dynatemp_range: share(3),
        top_k: word(4) % 30,
        top_p: share(5),
        min_p: share(6),
        typical_p: share(7),
        top_n_sigma: share(8) * 3.0,
        xtc_probability: share(9),
        xtc_threshold: share(10) / 2.0,
        penalty_last_n: (word(11) % 20) as i32 - 1,
        penalty_repeat: 0.5 + share(12),
        penalty_frequency: share(13) - 0.5,
        penalty_presence: share(14) - 0.5,
        dry_multiplier: share(15),
        dry_base: 1.0 + share(16),
        dry_last_n: -1,
        mirostat: if case.is_multiple_of(5) { 1 + (word(17) % 2) as u8 } else { 0 },
        adaptive_target: if case.is_multiple_of(3) { share(18) } else { -1.0 },
        ..Sampling::default()
    }
}

#[test]
fn something_is_always_left_and_it_is_drawn_again() {
    for case in 0..600 {
        let sampling = busy(case);
        let mut first = chain(sampling.clone(), case.into(), &[1, 2, 3, 1, 2]);
        let n = 1 + case % 60;
        let mut drawn = Vec::new();
        for step in 0..8 {
            let logits = rough(case * 8 + step, n);
            let left = first.candidates(&logits);
            let possible = logits.iter().any(|l| *l > f32::NEG_INFINITY);
            let mass: f64 = filter::softmax(&left).iter().sum();
            assert!(!possible || (!left.is_empty() && (mass - 1.0).abs() < 1e-9), "{sampling:?}: {left:?}");
            assert!(left.windows(2).all(|w| w[0].id < w[1].id), "out of order");
            let id = first.draw(&logits);
            assert!(!possible || logits[id as usize] > f32::NEG_INFINITY, "{id} cannot be drawn");
            drawn.push(id);
        }
        // Whoever reads the prompt and the first half of the reply again goes on the same way, if all state follows
        // from the tokens.
        let mut again = chain(sampling.clone(), case.into(), &[1, 2, 3, 1, 2]);
        let all: Vec<u32> = (0..8).map(|step| again.draw(&rough(case * 8 + step, n))).collect();
        assert_eq!(all, drawn);
        if sampling.mirostat == 0 && !sampling.is_adaptive() {
            let mut half = chain(sampling, case.into(), &[&[1, 2, 3, 1, 2], &drawn[..4]].concat());
            let tail: Vec<u32> = (4..8).map(|step| half.draw(&rough(case * 8 + step, n))).collect();
            assert_eq!(tail, drawn[4..]);
        }
    }
}

#[test]
fn min_keep_is_respected() {
    for case in 0..300 {
        let logits: Vec<f32> = rough(case, 40).into_iter().filter(|l| l.is_finite()).collect();
        for sampler in [Sampler::Typical, Sampler::TopP, Sampler::MinP, Sampler::Xtc] {
            let busy = busy(case);
            let s = Sampling { order: vec![sampler], mirostat: 0, adaptive_target: -1.0, ..busy };
            let min_keep = s.min_keep.min(logits.len());
            assert!(left(s, &[], &logits).len() >= min_keep, "{sampler:?}, case {case}");
        }
    }
}

#[test]
fn broken_logits_draw_what_is_documented() {
    let mut chain = chain(Sampling { penalty_repeat: 1.5, ..Sampling::default() }, 0, &[0]);
    assert_eq!(chain.draw(&[f32::NAN; 3]), 0);
    assert_eq!(chain.draw(&[f32::NAN, f32::NEG_INFINITY, f32::NEG_INFINITY]), 1);
    assert_eq!(chain.draw(&[f32::NAN, f32::NEG_INFINITY, 1.0]), 2);
    assert_eq!(chain.draw(&[1.0, f32::INFINITY, 1.0, 2.0]), 1);
    assert_eq!(chain.draw(&[]), 0);
}

#[test]
fn values_without_a_meaning_are_refused() {
    let d = Sampling::default;
    assert_eq!(d().check(), Ok(()));
    for (wrong, message) in [
        (Sampling { top_p: 1.5, ..d() }, "top-p is 1.5, expected a number from 0 to 1"),
        (Sampling { min_p: f32::NAN, ..d() }, "min-p is NaN, expected a number from 0 to 1"),
        (Sampling { temperature: -1.0, ..d() }, "temp is -1, expected 0 or more"),
        (Sampling { penalty_repeat: 0.0, ..d() }, "repeat-penalty is 0, expected a finite number above 0"),
        (
            Sampling { dry_last_n: -2, ..d() },
            "dry-penalty-last-n is -2, expected a number of tokens, 0 (off) or -1 (all)",
        ),
        (Sampling { mirostat: 3, ..d() }, "mirostat is 3, expected 0, 1 or 2"),
        (Sampling { adaptive_target: 0.5, ..d() }, "adaptive-target is 0.5, expected adaptive_p among the samplers"),
    ] {
        assert_eq!(wrong.check().map_err(|e| e.to_string()), Err(message.into()));
    }
    assert!("top".parse::<Sampler>().is_err_and(|e| e.to_string().contains("typ_p")));
    let letters: Result<Vec<_>, _> = "edskypmxt".chars().map(Sampler::from_letter).collect();
    assert_eq!(letters, Ok(Sampler::default_order()));
    assert!(Sampler::from_letter('q').is_err());
}
