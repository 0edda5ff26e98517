//! Cases of `ssd`: decays near 0 and 1, groups, snapshots in mid-scan, chunk borders.
//!
//! Bound: that of [`scan`](super::scan), with `g = dt a` and `dt x` rounded, and `D x`.

use segno_ir::op::Ssd;
use segno_ir::{Builder, WeightId};

use super::build::declare_state;
use super::scan::{self, Token};
use super::{Batch, Cases, Setup};

/// Heads, groups, d_k, d_v; the time steps lie between 0 and `dt`, `-a` between `a.0` and `a.1`.
fn add(out: &mut Cases, sizes: [usize; 4], dt: f32, a: (f32, f32), copies: usize, batch: &'static str) {
    let [n_head, n_group, d_k, d_v] = sizes;
    let params = format!("heads={n_head}/{n_group},d={d_k}/{d_v},dt={dt:e},a={a:?},copies={copies},batch={batch}");
    out.add("F32", params, move |rng| {
        let widths = [n_head * d_v, n_head, n_group * d_k, n_group * d_k];
        let mut setup = Setup::new(rng, &widths, &Batch::parse(batch)).copies(copies).fill(move |rng, part, _, out| {
            out.iter_mut().for_each(|x| *x = if part == 1 { rng.between(0.0, dt) } else { rng.normal() });
        });
        setup.vector("a", &[1, n_head], |rng, _| -rng.between(a.0, a.1));
        setup.vector("d", &[1, n_head], |rng, _| rng.normal());
        let declare = move |b: &mut Builder<'_>, copy| {
            let state = declare_state(b, copy, &[n_head, d_v, d_k]);
            let (a, d) = (b.weight("a", &[1, n_head])?, b.weight("d", &[1, n_head])?);
            Ok(Ssd { state, a, d, n_head, n_group, d_k, d_v }.into())
        };
        setup.finish(declare, move |trial, _| {
            let [x, dt, b, c] = trial.inputs else { return Default::default() };
            let (a, d) = (trial.weight(WeightId(0)), trial.weight(WeightId(1)));
            scan::errors(trial, scan::Sizes { heads: n_head, d_v, d_k }, |t, head| {
                let key = (t * n_group + head / (n_head / n_group)) * d_k;
                let (dt, x) = (dt[t * n_head + head], &x[(t * n_head + head) * d_v..][..d_v]);
                Token {
                    log: vec![dt * a[head]],
                    log_roundings: 1.0,
                    k: &b[key..][..d_k],
                    r: &c[key..][..d_k],
                    values: x.iter().map(|x| dt * x).collect(),
                    change: None,
                    bonus: None,
                    skip: x.iter().map(|x| d[head] * x).collect(),
                }
            })
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    for batch in ["p1+d1@1", "p3!1!2!3+d1@3+d2@9!1", "p65!1!64!65?odd+p7@61!3", "p129!64!100!128?last+d1@128+d1"] {
        add(out, [2, 1, 32, 24], 1.0, (0.1, 4.0), 1, batch);
    }
    for sizes in [[1, 1, 16, 16], [6, 2, 64, 64], [3, 3, 48, 80], [4, 1, 128, 64], [2, 1, 256, 33], [8, 8, 5, 3]] {
        add(out, sizes, 1.0, (0.1, 4.0), 2, "p9!4+d1@9+d1@2");
    }
    for (dt, a) in [(1e-3, (1e-4, 1e-3)), (20.0, (1.0, 16.0)), (0.1, (0.0, 0.1))] {
        add(out, [2, 1, 32, 24], dt, a, 1, "p129!64?last+d1@66");
    }
}
