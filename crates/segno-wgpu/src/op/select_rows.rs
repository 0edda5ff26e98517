//! `select_rows`.

use segno_ir::DeviceError;
use segno_ir::op::SelectRows;

use super::{Unary, elementwise, per_feature};
use crate::params::params;
use crate::program::Compile;

params!(SelectRowsParams { x: u32, x_stride: u32, y: u32, y_stride: u32, outputs: u32 });

pub(super) fn compile(c: &mut Compile<'_>, _: &SelectRows) -> Result<(), DeviceError> {
    let n = c.out().features;
    let Unary { x, x_stride, y, y_stride } = Unary::of(c);
    let params = SelectRowsParams { x, x_stride, y, y_stride, outputs: c.outputs() };
    c.push(elementwise::<SelectRowsParams>("select_rows", n), Vec::new(), params, per_feature(n))
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    <SelectRowsParams as crate::params::Params>::wgsl()
}
