//! `y[o] = sum_i W[o, i] x[i] + b[o]`; or the same for each group of features with a matrix of its own,
//! `y[g, o] = sum_i W[g, o, i] x[g, i] + b[g, o]`.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// Attributes of `linear`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[in, out]` (one-dimensional `[in]` gives one output), or `[in, out, groups]`.
    pub weight: WeightId,
    /// As many elements as the result has features.
    pub bias: Option<WeightId>,
}

impl OpRule for Linear {
    const NAME: &'static str = "linear";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let decl = shapes.weight(self.weight)?;
        if decl.shape.len() > 3 || decl.n_elements() == 0 {
            return Err(format!("{} has shape {:?}, expected a matrix, or one for each group", decl.name, decl.shape));
        }
        shapes.expect_features(0, "the input", decl.row_len() * decl.n_groups())?;
        let out = decl.n_rows();
        match self.bias {
            Some(bias) => shapes.expect_elements(bias, out).map(|()| out),
            None => Ok(out),
        }
    }

    fn weights(&self) -> Vec<WeightId> {
        std::iter::once(self.weight).chain(self.bias).collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        let Ok(decl) = shapes.weight(self.weight) else { return Cost::default() };
        let n = decl.n_elements();
        let bytes = decl.ty.row_bytes(decl.row_len()).unwrap_or(0) * decl.n_rows();
        Cost { flops_per_row: 2.0 * n as f64, weight_bytes: bytes as f64, state_bytes: 0.0 }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let (x, n_in, n_out) = (cx.input(0), cx.input_features(0), cx.features());
        let w = cx.weight(self.weight);
        let bias = self.bias.map(|id| cx.weight(id));
        let mut y = Vec::with_capacity(cx.rows() * n_out);
        let n_row = w.len() / n_out;
        let per_group = n_out * n_row / n_in;
        for row in x.chunks_exact(n_in) {
            for o in 0..n_out {
                let x = &row[o / per_group * n_row..][..n_row];
                let dot: f64 = w[o * n_row..][..n_row].iter().zip(x).map(|(w, x)| w * x).sum();
                y.push(dot + bias.map_or(0.0, |b| b[o]));
            }
        }
        y
    }
}
