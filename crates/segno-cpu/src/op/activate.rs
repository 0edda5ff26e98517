//! `activate`.

use segno_ir::op::Activate;
use segno_ir::op::activate::Activation;

use super::{elementwise, unary};
use crate::program::Cx;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu(x: f32) -> f32 {
    const ROOT: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (ROOT * (x + 0.044715 * x * x * x)).tanh())
}

pub(crate) fn run(cx: &Cx<'_>, op: &Activate) {
    let two = cx.inputs.len() == 2;
    macro_rules! go {
        ($f:expr) => {{
            let f = $f;
            if two { elementwise(cx, |g, x| f(g) * x) } else { unary(cx, f) }
        }};
    }
    match op.function {
        Activation::Silu => go!(|x: f32| x * sigmoid(x)),
        Activation::Gelu => go!(gelu),
        Activation::Relu2 => go!(|x: f32| x.max(0.0) * x.max(0.0)),
        Activation::Sigmoid => go!(sigmoid),
        Activation::Tanh => go!(f32::tanh),
        Activation::ClampedSwiglu { limit, alpha } => elementwise(cx, |g, u| {
            let g = g.min(limit);
            g * sigmoid(alpha * g) * (u.clamp(-limit, limit) + 1.0)
        }),
    }
}
