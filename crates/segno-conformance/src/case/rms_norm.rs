//! Cases of `rms_norm`: whole rows and heads, weights of one group and of all features.
//!
//! Bound, relative to the result: the sum of squares has positive terms only, so its relative error
//! is [`sum`]`(group)`; the mean and eps add 2 roundings; the root halves that; the root and its
//! inverse are good to 2 ulp each (by themselves or as `inverseSqrt`); two products follow. Squares
//! below [`TINY`] may vanish: `TINY / (mean + eps)` relatively.

use segno_ir::op::RmsNorm;
use segno_ir::{Builder, WeightId};
use segno_quant::TensorType;

use super::build::optional;
use super::{Batch, Cases, Errors, Setup, Trial};
use crate::bound::{TINY, U, ULP, sum};
use crate::random::Values;

/// Bounds of a division by the root of `sum(x^2) * factor + eps` over groups.
pub(super) fn norm_errors(trial: &Trial<'_>, group: usize, factor: f64, eps: f32, weight: Option<&[f64]>) -> Errors {
    let mut y = Vec::with_capacity(trial.inputs[0].len());
    for (g, x) in trial.inputs[0].chunks_exact(group).enumerate() {
        let square = x.iter().map(|v| v * v).sum::<f64>() * factor + eps as f64;
        let vanished = group as f64 * factor * TINY / square;
        let relative = 0.5 * (sum(group) + 2.0 * U + vanished) + 4.0 * ULP + 2.0 * U;
        for (i, v) in x.iter().enumerate() {
            let w = weight.map_or(1.0, |w| w[(g * group % trial.features + i) % w.len()]);
            y.push((v / square.sqrt() * w).abs() * relative + TINY * (1.0 + w.abs()));
        }
    }
    Errors { y, states: Vec::new() }
}

fn add(
    out: &mut Cases,
    ty: TensorType,
    n: usize,
    group: usize,
    elements: usize,
    eps: f32,
    values: Values,
    batch: &'static str,
) {
    let params = format!("n={n},group={group},w={elements},eps={eps:e},x={values},batch={batch}");
    out.add(ty.name(), params, move |rng| {
        let mut setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(values);
        if elements > 0 {
            match ty {
                TensorType::F32 => setup.vector("w", &[elements], |rng, _| 1.0 + 0.5 * rng.normal()),
                _ => setup.weight("w", ty, &[elements], 1.0),
            }
        }
        let declare =
            move |b: &mut Builder<'_>, _| Ok(RmsNorm { group, weight: optional(b, "w", &[elements])?, eps }.into());
        setup.finish(declare, move |trial, _| {
            let weight = (elements > 0).then(|| trial.weight(WeightId(0)));
            norm_errors(trial, group, 1.0 / group as f64, eps, weight)
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    for ty in [TensorType::F16, TensorType::BF16] {
        add(out, ty, 96, 32, 32, 1e-6, Values::Normal, "p3+d1@2");
    }
    // Elements of the weight: those of a group, those of a row, none.
    for (n, group, elements, eps, values, batch) in [
        (1, 1, 1, 1e-6, Values::Normal, "d1+p3"),
        (31, 31, 31, 1e-6, Values::Normal, "p5+d1@4"),
        (65, 65, 0, 1e-5, Values::Mixed, "p65+d1@64"),
        (256, 64, 64, 1e-6, Values::Normal, "p7+d1"),
        (384, 128, 384, 1e-6, Values::Normal, "p3+d1@9+d1"),
        (96, 3, 3, 1e-6, Values::Sparse, "p33?odd+d1"),
        (257, 257, 257, 1e-6, Values::Outlier, "d1+d1@1+p5"),
        (1024, 1024, 1024, 1e-6, Values::Scaled(1e6), "p3+d1@2"),
        (1024, 1024, 1024, 1e-6, Values::Scaled(1e-6), "p3+d1@2"),
        (127, 127, 127, 1e-12, Values::Scaled(1e-9), "p2+d1"),
        (2048, 256, 256, 1e-5, Values::Normal, "p2+d1@77"),
        (5120, 5120, 5120, 1e-6, Values::Outlier, "d1+p2"),
    ] {
        add(out, TensorType::F32, n, group, elements, eps, values, batch);
    }
}
