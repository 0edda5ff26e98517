//! Matrix products with the experts that [`route`](super::route) chose.
//!
//! `y[r, s, o] = f[e] sum_i W[e, o, i] x[r, s, i] + b[e, o]` with `e` the s-th expert of row `r`; or their
//! weighted sum in the router's order, `y[r, o] = sum_s w[r, s] y[r, s, o]`.

use super::{Cost, OpContext, OpRule, Shapes, same_domain};
use crate::weight::WeightId;

/// Attributes of `expert_linear`. Inputs: x, and a result of `route`. x has the features of one input
/// that all experts of a row share, or `n_used` times as many: one input for each.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertLinear {
    /// `[in, out, n_expert]`.
    pub weight: WeightId,
    /// `[out, n_expert]`.
    pub bias: Option<WeightId>,
    /// f, `[n_expert]`.
    pub factor: Option<WeightId>,
    /// Experts of a row.
    pub n_used: usize,
    /// The weighted sum (`out` features) instead of each result (`n_used * out`).
    pub combine: bool,
}

impl OpRule for ExpertLinear {
    const NAME: &'static str = "expert_linear";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(2)?;
        same_domain(shapes.domains)?;
        let decl = shapes.weight(self.weight)?;
        let [n_in, n_out, n_expert] = decl.shape[..] else {
            return Err(format!("{} has shape {:?}, expected [in, out, experts]", decl.name, decl.shape));
        };
        let (n_in, n_out, n_expert) = (n_in as usize, n_out as usize, n_expert as usize);
        if self.n_used == 0 || self.n_used > n_expert {
            return Err(format!("{} has {n_expert} experts, of which {} are used", decl.name, self.n_used));
        }
        if shapes.inputs[0] != n_in && shapes.inputs[0] != self.n_used * n_in {
            let expected = format!("{n_in}, or {} times as many", self.n_used);
            return Err(format!("x has {} features, expected {expected}", shapes.inputs[0]));
        }
        shapes.expect_features(1, "the choice of experts", 2 * self.n_used)?;
        if let Some(bias) = self.bias {
            shapes.expect_weight(bias, &[n_out, n_expert])?;
        }
        if let Some(factor) = self.factor {
            shapes.expect_weight(factor, &[n_expert])?;
        }
        Ok(if self.combine { n_out } else { self.n_used * n_out })
    }

    fn weights(&self) -> Vec<WeightId> {
        std::iter::once(self.weight).chain(self.bias).chain(self.factor).collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        let Ok(decl) = shapes.weight(self.weight) else { return Cost::default() };
        let [n_in, n_out, _] = decl.shape[..] else { return Cost::default() };
        // Of one row's experts: how many more a step reads depends on its rows.
        let bytes = decl.ty.row_bytes(n_in as usize).unwrap_or(0) as f64 * n_out as f64;
        let n_used = self.n_used as f64;
        Cost { flops_per_row: 2.0 * n_used * (n_in * n_out) as f64, weight_bytes: n_used * bytes, state_bytes: 0.0 }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let (k, n_x, n_y) = (self.n_used, cx.input_features(0), cx.features());
        let n_in = cx.weight_shape(self.weight)[0] as usize;
        let n_out = cx.weight_shape(self.weight)[1] as usize;
        let w = cx.weight(self.weight);
        let (bias, factor) = (self.bias.map(|id| cx.weight(id)), self.factor.map(|id| cx.weight(id)));
        let mut y = vec![0.0; cx.rows() * n_y];
        let rows = cx.input(0).chunks_exact(n_x).zip(cx.input(1).chunks_exact(2 * k));
        for ((x, route), y) in rows.zip(y.chunks_exact_mut(n_y)) {
            for s in 0..k {
                let e = route[k + s] as usize;
                let x = if n_x == n_in { x } else { &x[s * n_in..][..n_in] };
                for o in 0..n_out {
                    let dot: f64 = w[(e * n_out + o) * n_in..][..n_in].iter().zip(x).map(|(w, x)| w * x).sum();
                    let result = dot * factor.map_or(1.0, |f| f[e]) + bias.map_or(0.0, |b| b[e * n_out + o]);
                    match self.combine {
                        true => y[o] += route[s] * result,
                        false => y[s * n_out + o] = result,
                    }
                }
            }
        }
        y
    }
}
