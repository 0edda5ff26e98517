//! Cases of `softplus`: with and without bias and factor, the factor of features or of groups of them.
//!
//! Bound, absolute, for `a ln(1 + exp(s))`, `s = x + b`: the sum's rounding `U |s|` comes through by
//! `sigmoid(s)`, as does [`exp_rel`]; `1 + exp(s)` is rounded, which moves the logarithm by U; the
//! logarithm itself is good to 2^-21 or 3 ulp. Times `|a|`, and a product. Above 20 the result is `s`;
//! within rounding of 20 either form may be taken, and they differ by 2.1e-9.

use segno_ir::op::Softplus;
use segno_ir::{Builder, WeightId};

use super::build::optional;
use super::{Batch, Cases, Setup, Trial, each_elementwise, elementwise};
use crate::bound::{TINY, U, ULP, exp_rel, sigmoid};
use crate::random::Values;

/// `ln(1 + exp(s))` of a sum that is rounded, and what it may be off by.
pub(super) fn softplus(s: f64) -> (f64, f64) {
    let (value, mut error) = match s > 20.0 {
        true => (s, U * s),
        false => {
            let value = s.exp().ln_1p();
            let log = (1.0f64 / 2_097_152.0).max(3.0 * ULP * value);
            (value, sigmoid(s) * (U * s.abs() + exp_rel(s)) + U + log)
        }
    };
    if (s - 20.0).abs() < 1e-4 {
        error += 2.1e-9;
    }
    (value, error)
}

fn error(trial: &Trial<'_>, bias: bool, factor: bool, x: f64, feature: usize) -> f64 {
    let b = if bias { trial.weight(WeightId(0))[feature] } else { 0.0 };
    let a = match factor {
        true => {
            let factors = trial.weight(WeightId(bias as u32));
            factors[feature / (trial.features / factors.len())]
        }
        false => 1.0,
    };
    let (value, error) = softplus(x + b);
    a.abs() * (error + U * value) + TINY
}

pub(super) fn cases(out: &mut Cases) {
    for (bias, factor, width) in
        [(true, true, 1), (false, false, 1), (true, false, 1), (false, true, 1), (true, true, 31)]
    {
        let add = |out: &mut Cases, params: String, n: usize, batch: Batch, values: Values| {
            out.add("F32", params, move |rng| {
                let mut setup = Setup::new(rng, &[n], &batch).values(values);
                if bias {
                    setup.vector("bias", &[n], |rng, i| if i % 5 == 4 { 20.0 } else { rng.normal() });
                }
                if factor {
                    // As models have it: minus the exponential of a learnt logarithm.
                    setup.vector("factor", &[n / width], |rng, _| -rng.between(-6.0, 3.0).exp());
                }
                let declare = move |b: &mut Builder<'_>, _| {
                    let bias = optional(b, "bias", &[n])?;
                    Ok(Softplus { bias, factor: optional(b, "factor", &[n / width])? }.into())
                };
                setup.finish(declare, move |trial, _| {
                    elementwise(trial, |at, feature| error(trial, bias, factor, at[0], feature))
                })
            });
        };
        let what = format!("bias={},factor={}", bias as u8, factor as u8);
        let batch = "p3+d1@2";
        match bias == factor && width == 1 {
            true => each_elementwise(out, &what, add),
            false => {
                let n = 31 * if width > 1 { 5 } else { 1 };
                add(out, format!("{what},n={n},x=normal,batch={batch}"), n, Batch::parse(batch), Values::Normal)
            }
        }
    }
}
