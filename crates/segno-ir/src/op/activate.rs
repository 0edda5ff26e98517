//! Elementwise activations: `f(x)` of one input, or `f(gate) * x` of two.

use super::{Cost, OpContext, OpRule, Shapes, same_domain};

/// The function `f`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `e^x`.
    Exp,
    /// Of a gate only: `g = min(gate, limit)`, `u = clamp(x, -limit, limit)`, `g sigmoid(alpha g) (u + 1)` (gpt-oss).
    ClampedSwiglu {
        /// Limit of the gate from above, of the other input on both sides.
        limit: f32,
        /// Factor inside the sigmoid.
        alpha: f32,
    },
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Activation {
    /// The function in f64. `up` is the second input, if there is one.
    pub fn apply(self, x: f64, up: Option<f64>) -> f64 {
        let f = match self {
            Activation::Silu => x * sigmoid(x),
            Activation::Gelu => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Relu2 => x.max(0.0).powi(2),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::Exp => x.exp(),
            Activation::ClampedSwiglu { limit, alpha } => {
                let (limit, alpha) = (limit as f64, alpha as f64);
                let g = x.min(limit);
                return g * sigmoid(alpha * g) * (up.unwrap_or(0.0).clamp(-limit, limit) + 1.0);
            }
        };
        f * up.unwrap_or(1.0)
    }
}

/// Attributes of `activate`. Inputs: x, or gate and x of the same size.
#[derive(Clone, Debug, PartialEq)]
pub struct Activate {
    /// The function.
    pub function: Activation,
}

impl OpRule for Activate {
    const NAME: &'static str = "activate";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        let two = matches!(self.function, Activation::ClampedSwiglu { .. });
        if shapes.inputs.len() != 1 || two {
            shapes.expect_inputs(2)?;
            shapes.expect_features(1, "x", shapes.inputs[0])?;
        }
        same_domain(shapes.domains)?;
        Ok(shapes.inputs[0])
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 6.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let up = (cx.n_inputs() == 2).then(|| cx.input(1));
        cx.input(0).iter().enumerate().map(|(i, &x)| self.function.apply(x, up.map(|u| u[i]))).collect()
    }
}
