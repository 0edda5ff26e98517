//! `activate`.

use segno_ir::DeviceError;
use segno_ir::op::Activate;

use segno_ir::op::activate::Activation;

use super::{Binary, elementwise, per_feature};
use crate::params::params;
use crate::program::Compile;

params!(ActivateParams { a: u32, a_stride: u32, b: u32, b_stride: u32, y: u32, y_stride: u32, limit: f32, alpha: f32 });

pub(super) fn compile(c: &mut Compile<'_>, op: &Activate) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<ActivateParams>("activate", n);
    let (flag, limit, alpha) = match op.function {
        Activation::Silu => ("SILU", 0.0, 0.0),
        Activation::Gelu => ("GELU", 0.0, 0.0),
        Activation::Relu => ("RELU", 0.0, 0.0),
        Activation::Relu2 => ("RELU2", 0.0, 0.0),
        Activation::Sigmoid => ("SIGMOID", 0.0, 0.0),
        Activation::Tanh => ("TANH", 0.0, 0.0),
        Activation::Exp => ("EXP", 0.0, 0.0),
        Activation::ClampedSwiglu { limit, alpha } => ("CLAMPED_SWIGLU", limit, alpha),
    };
    variant.flags.push(flag);
    if c.n_inputs() == 2 {
        variant.flags.push("GATED");
    }
    let Binary { a, a_stride, b, b_stride, y, y_stride } = Binary::of(c);
    let params = ActivateParams { a, a_stride, b, b_stride, y, y_stride, limit, alpha };
    c.push(variant, Vec::new(), params, per_feature(n))
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    <ActivateParams as crate::params::Params>::wgsl()
}
