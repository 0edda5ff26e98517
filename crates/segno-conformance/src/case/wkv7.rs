//! Cases of `wkv7`: learning rates from 0 to 1, snapshots in mid-scan, chunk borders.
//!
//! Bound: that of [`scan`](super::scan) with a change of rank one.

use segno_ir::Builder;
use segno_ir::op::Wkv7;

use super::build::declare_state;
use super::scan::{self, Token};
use super::{Batch, Cases, Setup};
use crate::random::Random;

/// The normalised keys of a row: `a` is their negative, `b` they times learning rates up to `rate`.
fn keys(row: usize, d: usize, out: &mut [f32]) {
    let mut rng = Random::of(&format!("wkv7 {row}"));
    for head in out.chunks_exact_mut(d) {
        head.iter_mut().for_each(|x| *x = rng.normal());
        let length = head.iter().map(|x| x * x).sum::<f32>().sqrt();
        head.iter_mut().for_each(|x| *x /= length.max(1e-6));
    }
}

fn add(out: &mut Cases, n_head: usize, d: usize, rate: f32, low: f32, copies: usize, batch: &'static str) {
    let params = format!("heads={n_head},d={d},rate={rate},g={low:e}..0,copies={copies},batch={batch}");
    out.add("F32", params, move |rng| {
        let setup =
            Setup::new(rng, &[n_head * d; 6], &Batch::parse(batch)).copies(copies).fill(move |rng, part, row, out| {
                match part {
                    3 => out.iter_mut().for_each(|x| *x = rng.between(low, 0.0)),
                    4 | 5 => {
                        keys(row, d, out);
                        out.iter_mut().for_each(|x| *x *= if part == 4 { -1.0 } else { rng.between(0.0, rate) });
                    }
                    _ => out.iter_mut().for_each(|x| *x = rng.normal()),
                }
            });
        let declare = move |b: &mut Builder<'_>, copy| {
            Ok(Wkv7 { state: declare_state(b, copy, &[n_head, d, d]), n_head, d }.into())
        };
        setup.finish(declare, move |trial, _| {
            let inputs = trial.inputs;
            scan::errors(trial, scan::Sizes { heads: n_head, d_v: d, d_k: d }, |t, head| {
                let part = |i: usize| &inputs[i][(t * n_head + head) * d..][..d];
                Token {
                    log: part(3).to_vec(),
                    log_roundings: 0.0,
                    k: part(1),
                    r: part(0),
                    values: part(2).to_vec(),
                    change: Some((part(4), part(5))),
                    bonus: None,
                    skip: Vec::new(),
                }
            })
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    for batch in ["p1+d1@1", "p3!1!2!3+d1@3+d2@9!1", "p65!1!64!65?odd+p7@61!3", "p129!64!100!128?last+d1@128+d1"] {
        add(out, 2, 32, 1.0, -0.606531, 1, batch);
    }
    for (n_head, d) in [(1, 16), (3, 64), (2, 33), (5, 7)] {
        add(out, n_head, d, 1.0, -0.606531, 2, "p9!4+d1@9+d1@2");
    }
    for (rate, low) in [(0.0, -0.6), (1.0, -0.05), (0.1, -0.05), (1.0, -20.0)] {
        add(out, 2, 32, rate, low, 1, "p66!64?last+d1@66");
    }
}
