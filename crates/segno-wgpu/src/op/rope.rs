//! `rope`.

use segno_ir::DeviceError;
use segno_ir::op::Rope;

use segno_ir::op::rope::Pairing;

use super::{Unary, elementwise, per_feature};
use crate::params::params;
use crate::program::Compile;

params!(RopeParams { x: u32, x_stride: u32, y: u32, y_stride: u32, table: u32 });

pub(super) fn compile(c: &mut Compile<'_>, op: &Rope) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<RopeParams>("rope", n);
    variant.constants.extend([("HEAD_DIM", op.head_dim as u32), ("N_ROT", op.n_rot as u32)]);
    if op.pairing == Pairing::Neox {
        variant.flags.push("NEOX");
    }
    let Unary { x, x_stride, y, y_stride } = Unary::of(c);
    let params = RopeParams { x, x_stride, y, y_stride, table: c.rope_table(op)? };
    c.push(variant, Vec::new(), params, per_feature(n))
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    <RopeParams as crate::params::Params>::wgsl()
}
