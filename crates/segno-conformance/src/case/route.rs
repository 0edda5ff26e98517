//! Cases of `route`: every gating, with and without bias, groups and normalisation, few and many experts, equal logits.
//!
//! Bounds: the numbers of the experts are exact, as logits are, and scores with a bias, and sums of scores of groups,
//! lie apart by more than they can be off. A weight is relatively off by that of the exponential of a difference `d`
//! ([`exp_rel`], and `|d| U` for the difference), that of the sum of all, weighted by them, the sum's own
//! ([`sum`]) and a quotient (2.5 ulp); normalising adds the same of the chosen ones, scaling one rounding. The root of
//! softplus keeps half of its relative error and adds 5 ulp.

use segno_ir::WeightId;
use segno_ir::op::Route;
use segno_ir::op::route::{ExpertGroups, Gating, MIN_WEIGHT_SUM};

use super::build::optional;
use super::softplus::softplus;
use super::{Batch, Cases, Errors, Setup, Trial};
use crate::bound::{TINY, U, ULP, exp_rel, sigmoid, sigmoid_rel, sum};
use crate::random::Values;

/// Softmax, each with its relative error.
fn softmax(x: &[f64]) -> Vec<(f64, f64)> {
    let peak = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let terms: Vec<(f64, f64)> = x.iter().map(|x| x - peak).map(|d| (d.exp(), exp_rel(d) + d.abs() * U)).collect();
    divided(&terms, 0.0)
}

/// Terms over their sum, or over `least` if that is larger.
fn divided(terms: &[(f64, f64)], least: f64) -> Vec<(f64, f64)> {
    let total: f64 = terms.iter().map(|(t, _)| t).sum();
    let of_total = terms.iter().map(|(t, e)| t * e).sum::<f64>() / total + sum(terms.len()) + 2.5 * ULP;
    terms.iter().map(|(t, e)| (t / total.max(least), e + of_total)).collect()
}

fn errors(trial: &Trial<'_>, op: &Route) -> Errors {
    let x = &trial.inputs[0];
    let n = x.len() / trial.rows;
    let mut y = Vec::new();
    for x in x.chunks_exact(n) {
        let p: Vec<(f64, f64)> = match op.gating {
            Gating::Softmax => softmax(x),
            Gating::Sigmoid => x.iter().map(|&x| (sigmoid(x), sigmoid_rel(x))).collect(),
            Gating::SqrtSoftplus => {
                x.iter().map(|&x| softplus(x)).map(|(y, e)| (y.sqrt(), e / y / 2.0 + 5.0 * ULP)).collect()
            }
            Gating::SoftmaxChosen => x.iter().map(|&x| (x, 0.0)).collect(),
        };
        let values: Vec<f64> = p.iter().map(|p| p.0).collect();
        let experts = op.choose(x, &values, op.bias.map(|id| trial.weight(id)));
        let mut w: Vec<(f64, f64)> = experts.iter().map(|&e| p[e]).collect();
        if op.gating == Gating::SoftmaxChosen {
            w = softmax(&w.iter().map(|w| w.0).collect::<Vec<_>>());
        }
        if op.normalise {
            w = divided(&w, MIN_WEIGHT_SUM.into());
        }
        // What is too small for f32 may be zero before it is divided by a small sum.
        let tiny = TINY * if op.normalise { 1.0 / f64::from(MIN_WEIGHT_SUM) } else { 1.0 };
        y.extend(w.iter().map(|(w, e)| f64::from(op.scale) * (w * (e + 4.0 * ULP) + tiny)));
        y.extend(vec![0.0; op.n_used]);
    }
    Errors { y, states: Vec::new() }
}

struct Sizes {
    n: usize,
    n_used: usize,
    gating: Gating,
    bias: bool,
    groups: Option<ExpertGroups>,
    normalise: bool,
    scale: f32,
    values: Values,
    batch: &'static str,
}

fn add(out: &mut Cases, sizes: Sizes) {
    let Sizes { n, n_used, gating, bias, groups, normalise, scale, values, batch } = sizes;
    let of_groups = groups.map_or(String::new(), |g| format!(",groups={}/{}", g.n_used, g.count));
    let params = format!(
        "{gating:?},n={n},used={n_used},bias={}{of_groups},normalise={},scale={scale},x={values},batch={batch}",
        bias as u8, normalise as u8
    );
    out.add("F32", params, move |rng| {
        let mut setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(values);
        if bias {
            // In steps that weights (at most 1) do not bridge by chance.
            setup.vector("b", &[n], |rng, i| (i * 7 % n) as f32 * 0.37 + rng.uniform() * 0.1);
        }
        let op = Route { n_used, gating, bias: bias.then_some(WeightId(0)), groups, normalise, scale };
        let bounds = op.clone();
        let declare =
            move |b: &mut segno_ir::Builder<'_>, _| Ok(Route { bias: optional(b, "b", &[n])?, ..op.clone() }.into());
        setup.finish(declare, move |trial, _| errors(trial, &bounds))
    });
}

pub(super) fn cases(out: &mut Cases) {
    use Gating::{Sigmoid, Softmax, SoftmaxChosen, SqrtSoftplus};
    for (n, n_used, gating, bias, normalise, scale, values, batch) in [
        (1, 1, Softmax, false, true, 1.0, Values::Normal, "d1+p3"),
        (4, 2, Softmax, false, true, 1.0, Values::Normal, "p65+d1@64"),
        (8, 8, Softmax, false, false, 1.0, Values::Normal, "p3+d1@2"),
        (31, 3, Softmax, false, false, 2.5, Values::Sparse, "p7?odd+d1@3+d1"),
        (128, 8, Softmax, false, true, 1.0, Values::Scaled(4.0), "p5+d1@9"),
        (512, 10, Softmax, false, true, 1.0, Values::Outlier, "p3+d1"),
        (64, 6, Softmax, false, false, 1.0, Values::Scaled(1e6), "p3+d1"),
        (16, 4, Softmax, true, true, 1.0, Values::Normal, "p9+d1"),
        (4, 1, Sigmoid, true, true, 1.0, Values::Normal, "p3+d1@1"),
        (33, 5, Sigmoid, true, false, 2.446, Values::Normal, "p33+d1@1+d1"),
        (256, 8, Sigmoid, false, true, 2.5, Values::Scaled(3.0), "p3+d1@7"),
        (6, 2, Sigmoid, false, true, 1.0, Values::Scaled(-30.0), "p5+d1"),
        (4, 3, SoftmaxChosen, false, false, 1.0, Values::Normal, "p3+d1"),
        (32, 4, SoftmaxChosen, false, false, 1.0, Values::Mixed, "p17+d1@5"),
        (32, 3, SqrtSoftplus, false, true, 1.0, Values::Normal, "p17+d1@5"),
        (64, 6, SqrtSoftplus, true, false, 2.5, Values::Scaled(8.0), "p5+d1"),
        (65, 4, SoftmaxChosen, true, true, 1.5, Values::Normal, "p3+d1"),
    ] {
        add(out, Sizes { n, n_used, gating, bias, groups: None, normalise, scale, values, batch });
    }
    for (n, n_used, gating, bias, [count, best], normalise, values, batch) in [
        (8, 1, Softmax, false, [8, 1], true, Values::Normal, "p9+d1"),
        (64, 6, Softmax, false, [8, 3], false, Values::Normal, "p33?odd+d1@64"),
        (256, 8, Sigmoid, true, [8, 4], true, Values::Normal, "p17+d1@3+d1"),
        (160, 6, SqrtSoftplus, true, [32, 3], true, Values::Scaled(3.0), "p5+d1"),
        (36, 4, SoftmaxChosen, false, [3, 3], false, Values::Normal, "p7+d1"),
        (1024, 8, Sigmoid, true, [256, 2], true, Values::Normal, "p3+d1"),
    ] {
        let groups = Some(ExpertGroups { count, n_used: best });
        add(out, Sizes { n, n_used, gating, bias, groups, normalise, scale: 1.0, values, batch });
    }
}
