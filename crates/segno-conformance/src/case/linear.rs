//! Cases of `linear`: every weight type, odd sizes, tokens of both kinds, output rows, a matrix for each group.
//!
//! Bound of a result, tight: a sum of `n_in` products ([`sum`]), each weight as decoded
//! ([`Trial::decode_errors`]), block scales applied to partial sums (2 more roundings), the bias
//! added (one more): `(sum(n) + 2 U) sum |w x| + spread(n) sum |decode x| + U (|y| + |b|)`.
//!
//! Stated, in addition: beside a block type the input may be rounded to 8 bits with one scale for as
//! many features as the weight's block has (at most 256): half a step is `max |x| / 254`, and a scale
//! kept in f16 shifts a value by `|x| 2^-11`. Beside f16 and bf16 it may be rounded to the weight's own
//! type, `|x| 2^-11` and `|x| 2^-8`.

use segno_ir::op::Linear;
use segno_ir::{Builder, WeightId};
use segno_quant::TensorType;

use super::build::optional;
use super::{Batch, Cases, Comparison, Errors, Setup, Trial};
use crate::bound::{TINY, U, spread, sum};
use crate::random::Values;

/// What a format may round away of each input feature.
pub(super) fn input_rounding(x: &[f64], ty: TensorType) -> Vec<f64> {
    let relative = |r: f64| x.iter().map(|v| v.abs() * r).collect();
    match ty {
        TensorType::F32 => vec![0.0; x.len()],
        TensorType::F16 => relative(1.0 / 2048.0),
        TensorType::BF16 => relative(1.0 / 256.0),
        _ => {
            let error = |block: &[f64]| {
                let step = block.iter().fold(0f64, |m, v| m.max(v.abs())) / 254.0;
                block.iter().map(|v| step * 1.001 + v.abs() / 2048.0).collect::<Vec<f64>>()
            };
            x.chunks(ty.block_len().min(256)).flat_map(error).collect()
        }
    }
}

/// A product of a weight's row with `x`, and what it may be off by before a bias is added.
pub(super) fn dot_error(w: &[f64], decode: &[f64], x: &[f64], rounding: &[f64]) -> (f64, f64) {
    let n = x.len();
    let (mut total, mut magnitude, mut error) = (0.0, 0.0, 0.0);
    for i in 0..n {
        total += w[i] * x[i];
        magnitude += (w[i] * x[i]).abs();
        error += spread(n) * decode[i] * x[i].abs() + w[i].abs() * rounding[i];
    }
    // Rounded inputs make the sum's own error larger in the same proportion.
    (total, (sum(n) + 2.0 * U) * (magnitude + error) + TINY * n as f64 + error)
}

fn errors(trial: &Trial<'_>, comparison: Comparison, has_bias: bool, groups: usize) -> Errors {
    let (w, decode, x) = (trial.weight(WeightId(0)), trial.decode_errors(WeightId(0)), &trial.inputs[0]);
    let n_in = x.len() / trial.rows / groups;
    let n_out = trial.features;
    let ty = trial.types[0];
    let mut y = Vec::with_capacity(trial.rows * n_out);
    for row in x.chunks_exact(groups * n_in) {
        let rounding = match comparison {
            Comparison::Tight => vec![0.0; row.len()],
            Comparison::Stated => input_rounding(row, ty),
        };
        for o in 0..n_out {
            let (place, read) = (o * n_in..(o + 1) * n_in, o / (n_out / groups) * n_in);
            let (row, rounding) = (&row[read..][..n_in], &rounding[read..][..n_in]);
            let (total, error) = dot_error(&w[place.clone()], &decode[place], row, rounding);
            let bias = if has_bias { trial.weight(WeightId(1))[o] } else { 0.0 };
            y.push(error + U * ((total + bias).abs() + bias.abs()));
        }
    }
    Errors { y, states: Vec::new() }
}

struct Sizes {
    n_in: usize,
    n_out: usize,
    bias: bool,
    after_select: bool,
    /// The weight has one dimension (and one output).
    flat: bool,
    groups: usize,
    values: Values,
    weights: f32,
    batch: &'static str,
}

fn add(out: &mut Cases, ty: TensorType, sizes: Sizes) {
    let Sizes { n_in, n_out, bias, after_select, flat, groups, values, weights, batch } = sizes;
    let at = match (after_select, flat, groups) {
        (true, _, _) => ",outputs".into(),
        (_, true, _) => ",flat".into(),
        (_, _, 1) => String::new(),
        _ => format!(",groups={groups}"),
    };
    let shape = match (flat, groups) {
        (true, _) => vec![n_in],
        (_, 1) => vec![n_in, n_out],
        _ => vec![n_in, n_out, groups],
    };
    let params =
        format!("in={n_in},out={n_out},bias={bias},x={values},w={weights:e}{at},batch={batch}", bias = bias as u8);
    out.add(ty.name(), params, move |rng| {
        let mut setup = Setup::new(rng, &[groups * n_in], &Batch::parse(batch)).values(values);
        if after_select {
            setup = setup.after_select();
        }
        setup.weight("w", ty, &shape, weights);
        if bias {
            setup.vector("b", &[n_out * groups], |rng, _| rng.normal() * weights);
        }
        let shape = shape.clone();
        let declare = move |b: &mut Builder<'_>, _| {
            Ok(Linear { weight: b.weight("w", &shape)?, bias: optional(b, "b", &[n_out * groups])? }.into())
        };
        setup.finish(declare, move |trial, comparison| errors(trial, comparison, bias, groups))
    });
}

pub(super) fn cases(out: &mut Cases) {
    for ty in TensorType::ALL.iter().copied() {
        let block = ty.block_len();
        let case = |n_in, n_out, bias, values, weights, batch| Sizes {
            n_in,
            n_out,
            bias,
            after_select: false,
            flat: false,
            groups: 1,
            values,
            weights,
            batch,
        };
        if block == 1 {
            add(out, ty, case(1, 1, true, Values::Normal, 1.0, "d1+p3"));
            add(out, ty, case(3, 65, false, Values::Mixed, 1.0, "p65+d1@65"));
            add(out, ty, case(31, 33, true, Values::Normal, 1.0, "p7+d1@3+d1"));
            add(out, ty, case(127, 31, false, Values::Sparse, 1.0, "p33+d3@1"));
            add(out, ty, case(257, 3, true, Values::Outlier, 0.02, "d1+p2"));
        } else {
            add(out, ty, case(block, 1, true, Values::Normal, 1.0, "d1+p3"));
            add(out, ty, case(block, 65, false, Values::Outlier, 0.1, "p65+d1@65"));
            add(out, ty, case(block * 3, 33, true, Values::Mixed, 1.0, "p7+d1@3+d1"));
            add(out, ty, case(block * 5, 31, false, Values::Sparse, 0.02, "p33+d3@1"));
        }
        add(out, ty, case(256, 3, false, Values::Scaled(1e6), 100.0, "p5+d1@9"));
        // Few random blocks have scales this small.
        let rows = if block < 256 { 127 } else { 17 };
        add(out, ty, case(256, rows, false, Values::Scaled(1e-6), 1e-3, "d1+d1@1+p1"));
        add(out, ty, case(512, 100, true, Values::Normal, 0.05, "p17+d1@4+d1@8"));
        add(out, ty, case(1024, 257, false, Values::Normal, 0.02, "d1+d1@64"));
        add(out, ty, case(2048, 5, false, Values::Outlier, 0.02, "p3+d1"));
        add(out, ty, case(256, 64, false, Values::Normal, 1.0, "p129+d1"));
        let logits = case(256, 300, false, Values::Normal, 0.05, "p65?last+d1@5+p3?odd");
        add(out, ty, Sizes { after_select: true, ..logits });
        let (one, size) = (if block == 1 { 33 } else { block }, if block == 1 { 17 } else { 2 * block });
        add(out, ty, Sizes { groups: 5, ..case(one, 19, true, Values::Outlier, 0.1, "p33+d1@3+d1") });
        add(out, ty, Sizes { groups: 3, ..case(size, 64, false, Values::Normal, 0.1, "d1+p5@1") });
        add(out, ty, Sizes { flat: true, ..case(512, 1, true, Values::Normal, 0.05, "p3+d1") });
    }
}
