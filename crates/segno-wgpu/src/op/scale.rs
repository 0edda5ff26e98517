//! `scale`.

use segno_ir::DeviceError;
use segno_ir::op::Scale;

use super::{Unary, elementwise, per_feature};
use crate::params::params;
use crate::program::Compile;

params!(ScaleParams { x: u32, x_stride: u32, y: u32, y_stride: u32, factor: f32 });

pub(super) fn compile(c: &mut Compile<'_>, op: &Scale) -> Result<(), DeviceError> {
    let n = c.out().features;
    let Unary { x, x_stride, y, y_stride } = Unary::of(c);
    let params = ScaleParams { x, x_stride, y, y_stride, factor: op.factor };
    c.push(elementwise::<ScaleParams>("scale", n), Vec::new(), params, per_feature(n))
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    <ScaleParams as crate::params::Params>::wgsl()
}
