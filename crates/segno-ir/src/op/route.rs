//! `y[r] = [weights of the chosen experts | their numbers]`, best first, from the router's logits.
//!
//! ```text
//! p   = softmax(x) | sigmoid(x) | x
//! e_1..e_k = the k largest of p + bias, the lowest number among equals
//! w_j = p[e_j];  of `SoftmaxChosen`: w = softmax(w)
//! w   = scale * w / max(sum w, 2^-14)     (divided only where `normalise` says so)
//! ```
//! Without a bias the logits themselves are compared, as p grows with them. NaN counts as the least.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// How logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function of each.
    Sigmoid,
    /// Softmax over the chosen experts only.
    SoftmaxChosen,
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
    /// Whether the chosen weights are made to sum to 1.
    pub normalise: bool,
    /// Factor of the weights at the end.
    pub scale: f32,
}

impl OpRule for Route {
    const NAME: &'static str = "route";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n_expert = shapes.inputs[0];
        if self.n_used == 0 || self.n_used > n_expert {
            return Err(format!("chooses {} of {n_expert} experts", self.n_used));
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
                Gating::SoftmaxChosen => x.to_vec(),
            };
            let score = |e: usize| {
                let score = bias.map_or(x[e], |bias| p[e] + bias[e]);
                if score.is_nan() { f64::NEG_INFINITY } else { score }
            };
            let mut experts: Vec<usize> = (0..x.len()).collect();
            // The sort is stable: equals stay in order.
            experts.sort_by(|&a, &b| score(b).partial_cmp(&score(a)).unwrap_or(std::cmp::Ordering::Equal));
            experts.truncate(self.n_used);
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

fn softmax(x: &[f64]) -> Vec<f64> {
    let peak = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
    let e: Vec<f64> = x.iter().map(|x| (x - peak).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}
