//! Cases of `wkv6`: with and without a bonus, decays near 0 and 1, snapshots in mid-scan, chunk borders.
//!
//! Bound: that of [`scan`](super::scan).

use segno_ir::op::Wkv6;
use segno_ir::{Builder, WeightId};

use super::build::{declare_state, optional};
use super::scan::{self, Token};
use super::{Batch, Cases, Setup};

fn add(out: &mut Cases, n_head: usize, d: usize, bonus: bool, low: f32, copies: usize, batch: &'static str) {
    let b = bonus as u8;
    let params = format!("heads={n_head},d={d},bonus={b},g={low:e}..0,copies={copies},batch={batch}");
    out.add("F32", params, move |rng| {
        let mut setup =
            Setup::new(rng, &[n_head * d; 4], &Batch::parse(batch)).copies(copies).fill(move |rng, part, _, out| {
                out.iter_mut().for_each(|x| *x = if part == 3 { rng.between(low, 0.0) } else { rng.normal() });
                if part == 3 && low < -10.0 {
                    // One channel forgets everything, one nothing.
                    (out[0], out[1]) = (f32::NEG_INFINITY, 0.0);
                }
            });
        if bonus {
            setup.vector("u", &[d, n_head], |rng, _| rng.normal());
        }
        let declare = move |b: &mut Builder<'_>, copy| {
            let state = declare_state(b, copy, &[n_head, d, d]);
            Ok(Wkv6 { state, bonus: optional(b, "u", &[d, n_head])?, n_head, d }.into())
        };
        setup.finish(declare, move |trial, _| {
            let inputs = trial.inputs;
            scan::errors(trial, scan::Sizes { heads: n_head, d_v: d, d_k: d }, |t, head| {
                let part = |i: usize| &inputs[i][(t * n_head + head) * d..][..d];
                let (r, k) = (part(0), part(1));
                let terms = bonus.then(|| {
                    let u = &trial.weight(WeightId(0))[head * d..][..d];
                    r.iter().zip(u).zip(k).map(|((r, u), k)| r * u * k).collect()
                });
                Token {
                    log: part(3).to_vec(),
                    log_roundings: 0.0,
                    k,
                    r,
                    values: part(2).to_vec(),
                    change: None,
                    bonus: terms,
                    skip: Vec::new(),
                }
            })
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    for bonus in [true, false] {
        for batch in ["p1+d1@1", "p3!1!2!3+d1@3+d2@9!1", "p65!1!64!65?odd+p7@61!3", "p129!64!100!128?last+d1@128+d1"] {
            add(out, 2, 32, bonus, -2.0, 1, batch);
        }
        for (n_head, d) in [(1, 16), (3, 64), (2, 33), (1, 128), (5, 7)] {
            add(out, n_head, d, bonus, -2.0, 2, "p9!4+d1@9+d1@2");
        }
        for low in [-1e-6, -0.01, -60.0] {
            add(out, 2, 32, bonus, low, 1, "p129!64?last+d1@66");
        }
    }
}
