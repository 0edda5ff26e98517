//! `y[r] = [weights of the chosen experts | their numbers]`, best first, from the router's logits.
//!
//! ```text
//! p   = softmax(x) | sigmoid(x) | sqrt(softplus(x)) | x
//! e_1..e_k = the k largest of p + bias, the lowest number among equals
//!            (with groups: of those in the groups whose two largest have the largest sums)
//! w_j = p[e_j];  of `SoftmaxChosen`: w = softmax(w)
//! w   = scale * w / max(sum w, 2^-14)     (divided only where `normalise` says so)
//! ```
//! Without bias and groups the logits themselves are compared, as p grows with them. NaN counts as the least.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// How logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function of each.
    Sigmoid,
    /// The root of softplus of each.
    SqrtSoftplus,
    /// Softmax over the chosen experts only.
    SoftmaxChosen,
}

/// A first choice among groups of neighbouring experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Number of groups, of equal size.
    pub count: usize,
    /// Groups whose experts can be chosen.
    pub n_used: usize,
}

/// What weights are divided by at least when they are normalised.
pub const MIN_WEIGHT_SUM: f32 = 1.0 / 16384.0;

/// Attributes of `route`. The result has `2 n_used` features; numbers of experts are exact as f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Experts that are chosen.
    pub n_used: usize,
    /// How logits become weights.
    pub gating: Gating,
    /// Added to `p` for the choice only, `[n_expert]`.
    pub bias: Option<WeightId>,
    /// The choice among groups that comes first, if there is one.
    pub groups: Option<ExpertGroups>,
    /// Whether the chosen weights are made to sum to 1.
    pub normalise: bool,
    /// Factor of the weights at the end.
    pub scale: f32,
}

impl Route {
    /// The chosen experts, best first, from a row's logits and their `p`.
    pub fn choose(&self, x: &[f64], p: &[f64], bias: Option<&[f64]>) -> Vec<usize> {
        let raw = if self.groups.is_some() { p } else { x };
        let score = |e: usize| {
            let score = bias.map_or(raw[e], |bias| p[e] + bias[e]);
            if score.is_nan() { f64::NEG_INFINITY } else { score }
        };
        let mut experts: Vec<usize> = (0..x.len()).collect();
        if let Some(ExpertGroups { count, n_used }) = self.groups {
            let size = x.len() / count;
            let best_two = |group: usize| {
                let scores = (group * size..(group + 1) * size).map(score).collect();
                best_first(scores).iter().take(2).map(|&(_, score)| score).sum::<f64>()
            };
            let groups = best_first((0..count).map(best_two).collect());
            experts.retain(|e| groups[..n_used].iter().any(|&(group, _)| group == e / size));
        }
        let order = best_first(experts.iter().map(|&e| score(e)).collect());
        order[..self.n_used].iter().map(|&(i, _)| experts[i]).collect()
    }
}

impl OpRule for Route {
    const NAME: &'static str = "route";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n_expert = shapes.inputs[0];
        if self.n_used == 0 || self.n_used > n_expert {
            return Err(format!("chooses {} of {n_expert} experts", self.n_used));
        }
        if let Some(ExpertGroups { count, n_used }) = self.groups {
            let size = n_expert.checked_div(count).unwrap_or(0);
            if size * count != n_expert || n_used > count || n_used * size < self.n_used {
                let chosen = format!("{n_used} of {count} groups");
                return Err(format!("{chosen} do not hold {} of {n_expert} experts", self.n_used));
            }
        }
        match self.bias {
            Some(bias) => shapes.expect_weight(bias, &[n_expert]).map(|()| 2 * self.n_used),
            None => Ok(2 * self.n_used),
        }
    }

    fn weights(&self) -> Vec<WeightId> {
        self.bias.into_iter().collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: (6 + self.n_used) as f64 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let bias = self.bias.map(|id| cx.weight(id));
        let mut y = Vec::with_capacity(cx.rows() * cx.features());
        for x in cx.input(0).chunks_exact(cx.input_features(0)) {
            let p = match self.gating {
                Gating::Softmax => softmax(x),
                Gating::Sigmoid => x.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
                Gating::SqrtSoftplus => x.iter().map(|&x| super::softplus::softplus(x).sqrt()).collect(),
                Gating::SoftmaxChosen => x.to_vec(),
            };
            let experts = self.choose(x, &p, bias);
            let mut w: Vec<f64> = experts.iter().map(|&e| p[e]).collect();
            if self.gating == Gating::SoftmaxChosen {
                w = softmax(&w);
            }
            let sum = if self.normalise { w.iter().sum::<f64>().max(MIN_WEIGHT_SUM.into()) } else { 1.0 };
            y.extend(w.iter().map(|w| f64::from(self.scale) * w / sum));
            y.extend(experts.iter().map(|&e| e as f64));
        }
        y
    }
}

/// Indices and scores, the largest score first. The sort is stable: equals stay in order.
fn best_first(scores: Vec<f64>) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal));
    all
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let peak = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let e: Vec<f64> = x.iter().map(|x| (x - peak).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}
