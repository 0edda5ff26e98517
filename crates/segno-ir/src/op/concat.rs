//! `y[g] = [a[g] | b[g] | ...]`: the features of several values beside each other, group by group.
//!
//! With one group the values follow each other; with more, each group of the result has that group of
//! every input: the reverse of [`slice`](super::slice).

use super::{Cost, OpContext, OpRule, Shapes, same_domain};

/// Attributes of `concat`. Inputs: one or more values, whose features divide into groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// Number of groups.
    pub count: usize,
}

impl OpRule for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        if shapes.inputs.is_empty() || self.count == 0 {
            return Err(format!("has {} inputs in {} groups, expected 1 or more", shapes.inputs.len(), self.count));
        }
        same_domain(shapes.domains)?;
        if let Some(n) = shapes.inputs.iter().find(|n| !n.is_multiple_of(self.count)) {
            return Err(format!("{n} features do not divide into {} groups", self.count));
        }
        Ok(shapes.inputs.iter().sum())
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        Cost::default()
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let mut y = Vec::with_capacity(cx.rows() * cx.features());
        for group in 0..cx.rows() * self.count {
            for i in 0..cx.n_inputs() {
                let width = cx.input_features(i) / self.count;
                y.extend_from_slice(&cx.input(i)[group * width..][..width]);
            }
        }
        y
    }
}
