//! Both forms agree for any length, start, chunk and decay, and a broken one would not.

use proptest::prelude::*;

use super::{delta_rule, selective_scan, ssd, wkv6, wkv7};

/// Relative to the largest element.
const BOUND: f64 = 1e-11;

/// Numbers from a seed (xorshift64*).
struct Draw(u64);

impl Draw {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn values(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| 2.0 * self.unit() - 1.0).collect()
    }

    fn units(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.unit()).collect()
    }

    fn normalised(&mut self, tokens: usize, d: usize) -> Vec<f64> {
        let mut x = self.values(tokens * d);
        for row in x.chunks_exact_mut(d) {
            let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|v| *v /= length);
        }
        x
    }

    /// Log decays, or with `extreme` also those that keep or forget everything.
    fn decays(&mut self, n: usize, extreme: bool) -> Vec<f64> {
        let one = |u: f64, v: f64| match (v * 8.0) as u32 {
            0 if extreme => 0.0,
            1 if extreme => -1e-9,
            2 if extreme => -60.0,
            3 if extreme => -1e5,
            4 if extreme => f64::NEG_INFINITY,
            _ => -u,
        };
        (0..n).map(|_| one(self.unit(), self.unit())).collect()
    }
}

/// Runs both forms from the same state and compares results and states.
fn agree(
    state: &[f64],
    sequential: impl Fn(&mut [f64]) -> Vec<f64>,
    chunked: impl Fn(&mut [f64]) -> Vec<f64>,
) -> Result<(), TestCaseError> {
    let (mut s, mut c) = (state.to_vec(), state.to_vec());
    let (y_s, y_c) = (sequential(&mut s), chunked(&mut c));
    for (what, expected, found) in [("y", &y_s, &y_c), ("state", &s, &c)] {
        let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (i, (e, f)) in expected.iter().zip(found).enumerate() {
            let close = (e - f).abs() <= BOUND * largest;
            prop_assert!(close, "{what}[{i}]: sequential {e}, chunked {f}, largest {largest}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_do_not_change_a_recurrence(
        seed in 1u64.., n in 1usize..150, chunk in 1usize..70, d_k in 1usize..12, d_v in 1usize..6, extreme: bool,
    ) {
        let mut rng = Draw(seed);
        let state = rng.values(d_v * d_k);
        let (q, k, v) = (rng.values(n * d_k), rng.normalised(n, d_k), rng.values(n * d_v));
        let beta = rng.units(n);
        for width in [1, d_k] {
            let g = rng.decays(n * width, extreme);
            let x = delta_rule::Tokens { q: &q, k: &k, v: &v, g: &g, beta: &beta, d_k, d_v, scale: 0.3 };
            agree(&state, |s| delta_rule::sequential(&x, s), |s| delta_rule::chunked(&x, s, chunk))?;
        }

        let log_w = rng.decays(n * d_k, extreme);
        let u = rng.values(d_k);
        for bonus in [None, Some(&u[..])] {
            let x = wkv6::Tokens { r: &q, k: &k, v: &v, log_w: &log_w, bonus, d_k, d_v };
            agree(&state, |s| wkv6::sequential(&x, s), |s| wkv6::chunked(&x, s, chunk))?;
        }

        let a: Vec<f64> = k.iter().map(|k| -k).collect();
        let b: Vec<f64> = k.iter().enumerate().map(|(i, k)| k * beta[i / d_k]).collect();
        let key = rng.values(n * d_k);
        // Down to exp(-0.606531), as the model has them.
        let log_w: Vec<f64> = rng.units(n * d_k).iter().map(|u| -0.606531 * u).collect();
        let x = wkv7::Tokens { r: &q, k: &key, v: &v, log_w: &log_w, a: &a, b: &b, d_k, d_v };
        agree(&state, |s| wkv7::sequential(&x, s), |s| wkv7::chunked(&x, s, chunk))?;

        let dt: Vec<f64> = rng.units(n).iter().map(|u| if extreme && *u < 0.2 { 1e-7 } else { 4.0 * u }).collect();
        let a: Vec<f64> = rng.units(d_k).iter().map(|u| if extreme { -1e4 * u * u } else { -u }).collect();
        let x = ssd::Tokens { x: &v, dt: &dt, a: a[0], b: &k, c: &q, d: 0.7, d_k, d_v };
        agree(&state, |s| ssd::sequential(&x, s), |s| ssd::chunked(&x, s, chunk))?;
        let channel = &v[..n];
        let x = selective_scan::Tokens { x: channel, dt: &dt, a: &a, b: &k, c: &q, d: 0.7 };
        agree(&state[..d_k], |s| selective_scan::sequential(&x, s), |s| selective_scan::chunked(&x, s, chunk))?;
    }
}
