//! `reduce`.

use segno_ir::DeviceError;
use segno_ir::op::Reduce;
use segno_ir::op::reduce::Reduction;

use super::{Unary, reduce_wg};
use crate::params::Params;
use crate::program::{Compile, Grid};
use crate::shader::Variant;

pub(super) fn compile(c: &mut Compile<'_>, op: &Reduce) -> Result<(), DeviceError> {
    let variant = Variant {
        name: "reduce",
        flags: vec![match op.function {
            Reduction::Sum => "SUM",
            Reduction::Norm => "NORM",
            Reduction::Deviation => "DEVIATION",
        }],
        constants: vec![("WG", reduce_wg(op.group)), ("GROUP", op.group as u32)],
        format: None,
        params: Unary::wgsl(),
    };
    let groups = c.out().features as u32;
    let params = Unary::of(c);
    c.push(variant, Vec::new(), params, Grid::Rows { x: groups, tile: 1, z: 1 })
}
