//! `y[g * width + i] = x[offset + g * stride + i]`: some of the features, in `count` runs.
//!
//! With one run it is a view into the input, and a backend need not copy. With stride 0 it repeats a run.

use super::{Cost, OpContext, OpRule, Shapes};

/// Attributes of `slice`.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// First feature.
    pub offset: usize,
    /// Features of a run.
    pub width: usize,
    /// From the start of one run to that of the next.
    pub stride: usize,
    /// Number of runs.
    pub count: usize,
}

impl OpRule for Slice {
    const NAME: &'static str = "slice";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let Slice { offset, width, stride, count } = *self;
        let end = count.checked_sub(1).map(|n| offset + n * stride + width);
        match end {
            Some(end) if end <= shapes.inputs[0] && width > 0 => Ok(width * count),
            _ => Err(format!("{self:?} does not fit {} features", shapes.inputs[0])),
        }
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        Cost::default()
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let n = cx.input_features(0);
        let mut y = Vec::with_capacity(cx.rows() * cx.features());
        for row in cx.input(0).chunks_exact(n) {
            for g in 0..self.count {
                y.extend_from_slice(&row[self.offset + g * self.stride..][..self.width]);
            }
        }
        y
    }
}
