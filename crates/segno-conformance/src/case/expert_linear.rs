//! Cases of `expert_linear`: every weight type; one input or one an expert; results or their weighted sum.
//!
//! Bound of a product: as of `linear`, times its expert's factor, and one rounding more. Of a weighted sum of `k`
//! products: theirs times the weights, and a sum of `k` products ([`sum`]).

use segno_ir::op::ExpertLinear;
use segno_ir::{Builder, WeightId};
use segno_quant::TensorType;

use super::build::optional;
use super::linear::{dot_error, input_rounding};
use super::{Batch, Cases, Comparison, Errors, Setup, Trial};
use crate::bound::{TINY, U, sum};
use crate::random::Values;

#[derive(Clone, Copy)]
struct Sizes {
    n_in: usize,
    n_out: usize,
    n_expert: usize,
    n_used: usize,
    per_slot: bool,
    combine: bool,
    bias: bool,
    /// On the products of each expert.
    factor: bool,
    values: Values,
    batch: &'static str,
}

fn errors(trial: &Trial<'_>, comparison: Comparison, sizes: Sizes) -> Errors {
    let Sizes { n_in, n_out, n_used: k, .. } = sizes;
    let (w, decode) = (trial.weight(WeightId(0)), trial.decode_errors(WeightId(0)));
    let n_x = trial.inputs[0].len() / trial.rows;
    let mut y = Vec::with_capacity(trial.rows * trial.features);
    for (x, route) in trial.inputs[0].chunks_exact(n_x).zip(trial.inputs[1].chunks_exact(2 * k)) {
        let mut each = Vec::with_capacity(k * n_out);
        for s in 0..k {
            let x = if sizes.per_slot { &x[s * n_in..][..n_in] } else { x };
            let rounding = match comparison {
                Comparison::Tight => vec![0.0; n_in],
                Comparison::Stated => input_rounding(x, trial.types[0]),
            };
            for o in 0..n_out {
                let row = route[k + s] as usize * n_out + o;
                let place = row * n_in..(row + 1) * n_in;
                let (total, error) = dot_error(&w[place.clone()], &decode[place], x, &rounding);
                let bias = if sizes.bias { trial.weight(WeightId(1))[row] } else { 0.0 };
                let (total, error) = match sizes.factor {
                    true => {
                        let f = trial.weight(WeightId(1 + sizes.bias as u32))[route[k + s] as usize];
                        (f * total, f.abs() * (error + U * (total.abs() + error)) + TINY)
                    }
                    false => (total, error),
                };
                each.push((total + bias, error + U * ((total + bias).abs() + bias.abs())));
            }
        }
        match sizes.combine {
            false => y.extend(each.iter().map(|(_, error)| error)),
            true => y.extend((0..n_out).map(|o| {
                let term = |s: usize| {
                    let (value, error) = each[s * n_out + o];
                    let weight = route[s].abs();
                    weight * error + sum(k) * weight * (value.abs() + error) + TINY
                };
                (0..k).map(term).sum::<f64>()
            })),
        }
    }
    Errors { y, states: Vec::new() }
}

fn add(out: &mut Cases, ty: TensorType, sizes: Sizes) {
    let Sizes { n_in, n_out, n_expert, n_used, per_slot, combine, bias, factor, values, batch } = sizes;
    let form = match (per_slot, combine) {
        (false, false) => "shared",
        (true, false) => "each",
        (false, true) => "shared,combined",
        (true, true) => "each,combined",
    };
    let params = format!(
        "{form},in={n_in},out={n_out},experts={n_expert},used={n_used},bias={}{},x={values},batch={batch}",
        bias as u8,
        if factor { ",factor" } else { "" }
    );
    out.add(ty.name(), params, move |rng| {
        let n_x = if per_slot { n_used * n_in } else { n_in };
        let fill = move |rng: &mut crate::random::Random, part: usize, row: usize, out: &mut [f32]| {
            if part == 0 {
                return values.fill(rng, row, out);
            }
            let mut experts: Vec<f32> = (0..n_expert).map(|e| e as f32).collect();
            rng.shuffle(&mut experts);
            out[..n_used].iter_mut().for_each(|w| *w = rng.between(-0.5, 1.0));
            out[n_used..].copy_from_slice(&experts[..n_used]);
        };
        let mut setup = Setup::new(rng, &[n_x, 2 * n_used], &Batch::parse(batch)).fill(fill);
        setup.weight("w", ty, &[n_in, n_out, n_expert], 0.1);
        if bias {
            setup.vector("b", &[n_out, n_expert], |rng, _| rng.normal());
        }
        if factor {
            setup.vector("f", &[n_expert], |rng, _| rng.normal());
        }
        let declare = move |b: &mut Builder<'_>, _| {
            let weight = b.weight("w", &[n_in, n_out, n_expert])?;
            let (bias, factor) = (optional(b, "b", &[n_out, n_expert])?, optional(b, "f", &[n_expert])?);
            Ok(ExpertLinear { weight, bias, factor, n_used, combine }.into())
        };
        setup.finish(declare, move |trial, comparison| errors(trial, comparison, sizes))
    });
}

pub(super) fn cases(out: &mut Cases) {
    for ty in TensorType::ALL.iter().copied() {
        let block = ty.block_len();
        let odd = if block == 1 { 33 } else { block };
        for (n_in, n_out, n_expert, n_used, per_slot, combine, bias, values, batch) in [
            (odd, 1, 1, 1, false, false, false, Values::Normal, "d1+p3"),
            (odd, 7, 5, 2, false, false, true, Values::Outlier, "p33+d1@3+d1"),
            (odd * 3, 9, 4, 3, true, false, false, Values::Mixed, "p17?odd+d1@64"),
            (256, 33, 6, 2, true, true, true, Values::Normal, "p65+d1@64+d3@1"),
            (512, 5, 16, 8, true, true, false, Values::Sparse, "p9+d1"),
            (256, 17, 3, 3, false, true, false, Values::Normal, "p5+d1@9"),
        ] {
            let sizes = Sizes { n_in, n_out, n_expert, n_used, per_slot, combine, bias, factor: false, values, batch };
            add(out, ty, sizes);
            if n_in == 256 && per_slot {
                add(out, ty, Sizes { factor: true, ..sizes });
                add(out, ty, Sizes { factor: true, bias: false, combine: false, ..sizes });
            }
        }
    }
    // More than some devices bind at once.
    for combine in [false, true] {
        let (bias, values, batch) = (true, Values::Normal, "p3+d1@5");
        let (n_in, n_out, n_expert, n_used, factor) = (512, 65, 16, 6, false);
        let sizes = Sizes { n_in, n_out, n_expert, n_used, per_slot: combine, combine, bias, factor, values, batch };
        add(out, TensorType::F32, sizes);
    }
}
