//! `rms_norm`.

use segno_ir::DeviceError;
use segno_ir::op::RmsNorm;

use super::{Unary, reduce_wg};
use crate::params::{Params, params};
use crate::program::{Compile, Grid};
use crate::shader::Variant;

params!(NormParams { x: u32, x_stride: u32, y: u32, y_stride: u32, eps: f32 });

pub(super) fn compile(c: &mut Compile<'_>, op: &RmsNorm) -> Result<(), DeviceError> {
    let mut variant = Variant {
        name: "rms_norm",
        flags: Vec::new(),
        constants: vec![("WG", reduce_wg(op.group)), ("GROUP", op.group as u32)],
        format: None,
        params: NormParams::wgsl(),
    };
    let mut bindings = Vec::new();
    if let Some(id) = op.weight {
        variant.flags.push("WEIGHT");
        variant.constants.push(("WEIGHT_LEN", c.elements(id)));
        bindings.push(c.vector(id)?);
    }
    let Unary { x, x_stride, y, y_stride } = Unary::of(c);
    let groups = (c.out().features / op.group) as u32;
    let params = NormParams { x, x_stride, y, y_stride, eps: op.eps };
    c.push(variant, bindings, params, Grid::Rows { x: groups, tile: 1, z: 1 })
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    NormParams::wgsl()
}
