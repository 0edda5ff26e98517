//! Cases of `rope`: both pairings, part of a head, YaRN with whole and exact bounds, factors, large positions.
//!
//! Bound: sine and cosine come from the host's f64 table and are rounded to f32, each product is
//! rounded, and the sum: `3 U (|a cos| + |b sin|)`. Features that do not turn are exact.

use segno_ir::op::Rope;
use segno_ir::op::rope::{Pairing, Yarn};
use segno_ir::{Builder, WeightId};

use super::build::optional;
use super::{Batch, Cases, Errors, Setup, Trial};
use crate::bound::{TINY, U};
use crate::random::Values;

fn errors(trial: &Trial<'_>, op: &Rope, has_factors: bool) -> Errors {
    let frequencies = op.frequencies(has_factors.then(|| trial.weight(WeightId(0))));
    let mut y = vec![0.0; trial.inputs[0].len()];
    for (r, row) in trial.inputs[0].chunks_exact(trial.features).enumerate() {
        for (h, head) in row.chunks_exact(op.head_dim).enumerate() {
            for (i, (cos, sin)) in op.table(&frequencies, trial.start + r as u32).enumerate() {
                let (a, b) = op.pair(i);
                let at = r * trial.features + h * op.head_dim;
                y[at + a] = 3.0 * U * ((head[a] * cos).abs() + (head[b] * sin).abs()) + 4.0 * TINY;
                y[at + b] = 3.0 * U * ((head[a] * sin).abs() + (head[b] * cos).abs()) + 4.0 * TINY;
            }
        }
    }
    Errors { y, states: Vec::new() }
}

pub(super) fn cases(out: &mut Cases) {
    let yarn = Some(Yarn { original_context: 4096, beta_fast: 32.0, beta_slow: 1.0, truncate: true });
    let exact = yarn.map(|yarn| Yarn { truncate: false, ..yarn });
    for pairing in [Pairing::Norm, Pairing::Neox] {
        for (heads, head_dim, n_rot, base, freq_scale, yarn, magnitude, factors, values, batch) in [
            (1, 2, 2, 1e4, 1.0, None, 1.0, false, Values::Normal, "p3+d1@2"),
            (3, 16, 16, 1e4, 1.0, None, 1.0, false, Values::Normal, "p65+d1@65+d1"),
            (2, 64, 64, 1e6, 1.0, None, 1.0, false, Values::Mixed, "p7@61+d1@1000000"),
            (4, 256, 64, 1e7, 1.0, None, 1.0, false, Values::Normal, "p3+d1@131071+p2@262143"),
            (1, 33, 10, 1e4, 0.25, None, 1.0, false, Values::Normal, "d1@7+p5"),
            (2, 128, 128, 1e6, 0.25, yarn, 1.138_629_4, false, Values::Normal, "p5@4094+d1@40000"),
            (2, 96, 80, 5e5, 1.0, None, 1.0, true, Values::Outlier, "p5+d1@8191"),
            (2, 64, 64, 1.5e5, 0.03125, exact, 1.346_573_6, false, Values::Normal, "p5@4094+d1@40000"),
            (5, 128, 128, 1e4, 0.125, yarn, 1.2, true, Values::Scaled(1e4), "p33@4080?odd+d1@32767"),
        ] {
            let name = match pairing {
                Pairing::Norm => "norm",
                Pairing::Neox => "neox",
            };
            let features = heads * head_dim;
            let params = format!(
                "{name},heads={heads},dim={head_dim},rot={n_rot},base={base:e},scale={freq_scale},\
                 yarn={},magnitude={magnitude},factors={},x={values},batch={batch}",
                yarn.map_or(0, |y| 2 - y.truncate as u8),
                factors as u8,
            );
            out.add("F32", params, move |rng| {
                let op = Rope { head_dim, n_rot, pairing, base, freq_scale, yarn, magnitude, factors: None };
                let mut setup = Setup::new(rng, &[features], &Batch::parse(batch)).values(values);
                if factors {
                    setup.vector("factors", &[n_rot / 2], |rng, _| rng.between(1.0, 8.0));
                }
                let rule = op.clone();
                let declare = move |b: &mut Builder<'_>, _| {
                    Ok(Rope { factors: optional(b, "factors", &[n_rot / 2])?, ..op.clone() }.into())
                };
                setup.finish(declare, move |trial, _| errors(trial, &rule, factors))
            });
        }
    }
}
