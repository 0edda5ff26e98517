//! Cases of `selective_scan`: decays near 0 and 1, snapshots in mid-scan, chunk borders.
//!
//! Bound: that of [`scan`](super::scan) with a channel for a head, `g = dt a` and `dt x` rounded, and `D x`.

use segno_ir::op::SelectiveScan;
use segno_ir::{Builder, WeightId};

use super::build::declare_state;
use super::scan::{self, Token};
use super::{Batch, Cases, Setup};

/// The time steps lie between 0 and `dt`, `-a` between `a.0` and `a.1`.
fn add(out: &mut Cases, channels: usize, d_state: usize, dt: f32, a: (f32, f32), copies: usize, batch: &'static str) {
    let params = format!("channels={channels},n={d_state},dt={dt:e},a={a:?},copies={copies},batch={batch}");
    out.add("F32", params, move |rng| {
        let widths = [channels, channels, d_state, d_state];
        let mut setup = Setup::new(rng, &widths, &Batch::parse(batch)).copies(copies).fill(move |rng, part, _, out| {
            out.iter_mut().for_each(|x| *x = if part == 1 { rng.between(0.0, dt) } else { rng.normal() });
        });
        setup.vector("a", &[d_state, channels], |rng, _| -rng.between(a.0, a.1));
        setup.vector("d", &[channels], |rng, _| rng.normal());
        let declare = move |b: &mut Builder<'_>, copy| {
            let state = declare_state(b, copy, &[channels, d_state]);
            let (a, d) = (b.weight("a", &[d_state, channels])?, b.weight("d", &[channels])?);
            Ok(SelectiveScan { state, a, d, d_state }.into())
        };
        setup.finish(declare, move |trial, _| {
            let [x, dt, b, c] = trial.inputs else { return Default::default() };
            let (a, d) = (trial.weight(WeightId(0)), trial.weight(WeightId(1)));
            scan::errors(trial, scan::Sizes { heads: channels, d_v: 1, d_k: d_state }, |t, channel| {
                let (dt, x) = (dt[t * channels + channel], x[t * channels + channel]);
                Token {
                    log: a[channel * d_state..][..d_state].iter().map(|a| dt * a).collect(),
                    log_roundings: 1.0,
                    k: &b[t * d_state..][..d_state],
                    r: &c[t * d_state..][..d_state],
                    values: vec![dt * x],
                    change: None,
                    bonus: None,
                    skip: vec![d[channel] * x],
                }
            })
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    for batch in ["p1+d1@1", "p3!1!2!3+d1@3+d2@9!1", "p65!1!64!65?odd+p7@61!3", "p129!64!100!128?last+d1@128+d1"] {
        add(out, 33, 16, 1.0, (0.1, 16.0), 1, batch);
    }
    for (channels, d_state) in [(1, 16), (7, 1), (96, 8), (257, 16), (40, 33)] {
        add(out, channels, d_state, 1.0, (0.1, 16.0), 2, "p9!4+d1@9+d1@2");
    }
    for (dt, a) in [(1e-3, (1e-4, 1e-3)), (20.0, (1.0, 16.0)), (0.1, (0.0, 0.1))] {
        add(out, 33, 16, dt, a, 1, "p129!64?last+d1@66");
    }
}
