//! Cases of `activate`: each function alone and as a gate.
//!
//! Bounds, with [`sigmoid_rel`] and [`tanh_abs`] for the functions, relative unless said otherwise:
//!
//! - SiLU: `sigmoid_rel` and a product. Sigmoid: `sigmoid_rel`. Tanh: `tanh_abs`, absolute.
//! - GELU: the inner polynomial is good to 6 roundings, and the tangent's slope is `1 - tanh^2`; the
//!   result is off by `|x|/2 (tanh_abs + (1 - tanh^2) 6 U |inner| + 2 U)`: absolute, since
//!   `1 + tanh` cancels for negative x.
//! - Exponential: `exp_rel`; inputs are small, so that it does not overflow.
//! - ReLU: exact. ReLU squared: one product.
//! - Clamped SwiGLU: alpha's product moves the sigmoid by `alpha |g| (1 - sigmoid) U`; then
//!   `sigmoid_rel`, two products and `u + 1`.
//! - As a gate: the bound times `|up|`, and a product.

use segno_ir::op::Activate;
use segno_ir::op::activate::Activation;

use super::{Batch, Cases, Setup, each_elementwise, elementwise};
use crate::bound::{TINY, U, exp_rel, sigmoid, sigmoid_rel, tanh_abs};
use crate::random::Values;

/// Bound of `f(x)`, absolute.
fn function_error(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Silu => (x * sigmoid(x)).abs() * (sigmoid_rel(x) + U) + TINY * (1.0 + x.abs()),
        Activation::Sigmoid => sigmoid(x) * sigmoid_rel(x) + TINY,
        Activation::Tanh => tanh_abs(x),
        Activation::Exp => x.exp() * exp_rel(x) + TINY,
        Activation::Relu => TINY,
        Activation::Relu2 => x.max(0.0).powi(2) * U + TINY,
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let t = inner.tanh();
            0.5 * x.abs() * (tanh_abs(inner) + (1.0 - t * t) * 6.0 * U * inner.abs() + 2.0 * U) + TINY
        }
        Activation::ClampedSwiglu { .. } => 0.0,
    }
}

fn error(f: Activation, at: &[f64]) -> f64 {
    let x = at[0];
    if let Activation::ClampedSwiglu { limit, alpha } = f {
        let (limit, alpha) = (limit as f64, alpha as f64);
        let (g, up) = (x.min(limit), at[1].clamp(-limit, limit));
        let s = alpha * g;
        let relative = sigmoid_rel(s) + s.abs() * (1.0 - sigmoid(s)) * U + 3.0 * U;
        return (g * sigmoid(s)).abs() * ((up + 1.0).abs() * relative + U * (up.abs() + 1.0))
            + TINY * (1.0 + g.abs()) * (2.0 + up.abs());
    }
    match at.get(1) {
        Some(up) => function_error(f, x) * up.abs() + f.apply(x, Some(*up)).abs() * U + TINY,
        None => function_error(f, x),
    }
}

fn add(out: &mut Cases, name: &str, function: Activation, gate: bool) {
    let what = format!("{name}{}", if gate { ",gate" } else { "" });
    let add = |out: &mut Cases, params: String, n: usize, batch: Batch, values: Values| {
        out.add("F32", params, move |rng| {
            let widths = [n, n];
            let setup = Setup::new(rng, if gate { &widths } else { &widths[..1] }, &batch).values(values);
            let rule = move |at: &[f64], _: usize| error(function, at);
            setup.finish(move |_, _| Ok(Activate { function }.into()), move |trial, _| elementwise(trial, rule))
        });
    };
    if gate || matches!(function, Activation::Tanh) {
        each_elementwise(out, &what, add);
    } else {
        for (n, batch, values) in [(33, "p3+d1@5", Values::Normal), (257, "d1+p2", Values::Scaled(1e4))] {
            add(out, format!("{what},n={n},x={values},batch={batch}"), n, Batch::parse(batch), values);
        }
    }
}

pub(super) fn cases(out: &mut Cases) {
    for (name, function) in [
        ("silu", Activation::Silu),
        ("gelu", Activation::Gelu),
        ("relu", Activation::Relu),
        ("relu2", Activation::Relu2),
        ("sigmoid", Activation::Sigmoid),
        ("tanh", Activation::Tanh),
    ] {
        add(out, name, function, false);
        add(out, name, function, true);
    }
    for (n, gate, values, batch) in [
        (33, false, Values::Normal, "p3+d1@5"),
        (257, true, Values::Normal, "p33?odd+d1@7+d1"),
        (64, true, Values::Scaled(1e-6), "d1+p2"),
    ] {
        let (function, inputs) = (Activation::Exp, if gate { 2 } else { 1 });
        out.add("F32", format!("exp,inputs={inputs},n={n},x={values},batch={batch}"), move |rng| {
            let setup = Setup::new(rng, &[n, n][..inputs], &Batch::parse(batch)).values(values);
            let rule = move |at: &[f64], _: usize| error(function, at);
            setup.finish(move |_, _| Ok(Activate { function }.into()), move |trial, _| elementwise(trial, rule))
        });
    }
    add(out, "clamped_swiglu", Activation::ClampedSwiglu { limit: 7.0, alpha: 1.702 }, true);
}
