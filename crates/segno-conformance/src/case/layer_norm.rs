//! Cases of `layer_norm`: whole rows and heads, with and without weight and bias.
//!
//! Bound: the mean is off by `e = sum(group) mean|x| + U |mean|`, which moves every difference alike, and
//! so each difference by `e + U |x - mean|`. With `D` the root of the variance and eps, the sum of
//! squares' relative error is [`sum`]`(group)`, and that of the differences moves `D` by at most their
//! root mean square `e + U D`; root, quotient and products as for `rms_norm`:
//! `|w| (e + U |x - mean|) / D + |y| (e / D + U + (sum(group) + 2 U) / 2 + 4 ULP + 2 U)`, then the bias's sum.

use segno_ir::op::LayerNorm;
use segno_ir::{Builder, WeightId};

use super::build::optional;
use super::{Batch, Cases, Errors, Setup, Trial};
use crate::bound::{TINY, U, ULP, sum};
use crate::random::Values;

fn errors(trial: &Trial<'_>, group: usize, eps: f32, weight: bool, bias: bool) -> Errors {
    let w = weight.then(|| trial.weight(WeightId(0)));
    let b = bias.then(|| trial.weight(WeightId(weight as u32)));
    let (n, count) = (trial.features, group as f64);
    let mut y = Vec::with_capacity(trial.inputs[0].len());
    for (g, x) in trial.inputs[0].chunks_exact(group).enumerate() {
        let mean = x.iter().sum::<f64>() / count;
        let e = sum(group) * x.iter().map(|v| v.abs()).sum::<f64>() / count + U * mean.abs();
        let d = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count + eps as f64).sqrt();
        let relative = e / d + U + 0.5 * (sum(group) + 2.0 * U + TINY / (d * d)) + 4.0 * ULP + 2.0 * U;
        for (i, v) in x.iter().enumerate() {
            let at = (g * group + i) % n;
            let (w, b) = (w.map_or(1.0, |w| w[at]).abs(), b.map_or(0.0, |b| b[at]).abs());
            let value = (v - mean).abs() / d * w;
            let error = w * (e + U * (v - mean).abs()) / d + value * relative;
            y.push(error + U * (value + b) + TINY * (1.0 + w));
        }
    }
    Errors { y, states: Vec::new() }
}

pub(super) fn cases(out: &mut Cases) {
    for (n, group, weight, bias, eps, values, batch) in [
        (1, 1, true, true, 1e-5, Values::Normal, "d1+p3"),
        (31, 31, true, true, 1e-5, Values::Normal, "p5+d1@4"),
        (65, 65, false, false, 1e-5, Values::Mixed, "p65+d1@64"),
        (256, 64, true, true, 64e-5, Values::Normal, "p7+d1"),
        (96, 3, true, false, 1e-6, Values::Sparse, "p33?odd+d1"),
        (257, 257, true, true, 1e-5, Values::Outlier, "d1+d1@1+p5"),
        (1024, 1024, true, false, 1e-5, Values::Scaled(1e6), "p3+d1@2"),
        (1024, 1024, false, true, 1e-5, Values::Scaled(1e-6), "p3+d1@2"),
        (2048, 128, true, true, 64e-5, Values::Normal, "p2+d1@77"),
        (5120, 5120, true, true, 1e-5, Values::Outlier, "d1+p2"),
    ] {
        let (w, b) = (weight as u8, bias as u8);
        let params = format!("n={n},group={group},w={w},b={b},eps={eps:e},x={values},batch={batch}");
        out.add("F32", params, move |rng| {
            let mut setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(values);
            if weight {
                setup.vector("w", &[n], |rng, _| 1.0 + 0.5 * rng.normal());
            }
            if bias {
                setup.vector("b", &[n], |rng, _| rng.normal());
            }
            let declare = move |b: &mut Builder<'_>, _| {
                let weight = optional(b, "w", &[n])?;
                Ok(LayerNorm { group, weight, bias: optional(b, "b", &[n])?, eps }.into())
            };
            setup.finish(declare, move |trial, _| errors(trial, group, eps, weight, bias))
        });
    }
}
