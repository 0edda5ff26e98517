//! One number for each group of neighbouring features.
//!
//! ```text
//! sum:        y[g] = sum x
//! norm:       y[g] = sqrt(sum x^2)
//! deviation:  y[g] = sqrt(mean((x - mean(x))^2))
//! ```

use super::{Cost, OpContext, OpRule, Shapes};

/// Which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The sum.
    Sum,
    /// The Euclidean norm.
    Norm,
    /// The standard deviation of the population.
    Deviation,
}

/// Attributes of `reduce`. The result has one feature for each group.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    /// Which number.
    pub function: Reduction,
    /// Features that give one number: all of them, or a head's.
    pub group: usize,
}

impl OpRule for Reduce {
    const NAME: &'static str = "reduce";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n = shapes.inputs[0];
        match self.group != 0 && n.is_multiple_of(self.group) {
            true => Ok(n / self.group),
            false => Err(format!("{n} features do not divide into groups of {}", self.group)),
        }
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 4.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let norm = |x: &[f64], centre: f64| x.iter().map(|v| (v - centre).powi(2)).sum::<f64>().sqrt();
        let reduce = |x: &[f64]| {
            let (sum, n) = (x.iter().sum::<f64>(), self.group as f64);
            match self.function {
                Reduction::Sum => sum,
                Reduction::Norm => norm(x, 0.0),
                Reduction::Deviation => norm(x, sum / n) / n.sqrt(),
            }
        };
        cx.input(0).chunks_exact(self.group).map(reduce).collect()
    }
}
