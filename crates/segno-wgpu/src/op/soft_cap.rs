//! `soft_cap`.

use segno_ir::DeviceError;
use segno_ir::op::SoftCap;

use super::{Unary, elementwise, per_feature};
use crate::params::params;
use crate::program::Compile;

params!(SoftCapParams { x: u32, x_stride: u32, y: u32, y_stride: u32, cap: f32 });

pub(super) fn compile(c: &mut Compile<'_>, op: &SoftCap) -> Result<(), DeviceError> {
    let n = c.out().features;
    let Unary { x, x_stride, y, y_stride } = Unary::of(c);
    let params = SoftCapParams { x, x_stride, y, y_stride, cap: op.cap };
    c.push(elementwise::<SoftCapParams>("soft_cap", n), Vec::new(), params, per_feature(n))
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    <SoftCapParams as crate::params::Params>::wgsl()
}
