//! `route`.

use segno_ir::DeviceError;
use segno_ir::op::Route;
use segno_ir::op::route::Gating;

use super::REDUCE_WG;
use crate::params::{Params, params};
use crate::program::{Compile, Grid};
use crate::shader::Variant;

params!(RouteParams { x: u32, x_stride: u32, y: u32, y_stride: u32, scale: f32 });

/// Experts whose weights and scores, with those of groups, fit the 16 KiB that every device's workgroup has.
const MAX_EXPERTS: usize = 1900;

pub(super) fn compile(c: &mut Compile<'_>, op: &Route) -> Result<(), DeviceError> {
    let (x, y) = (c.input(0), c.out());
    // A group takes half the room of an expert.
    if x.features + op.groups.map_or(0, |g| g.count.div_ceil(2)) > MAX_EXPERTS {
        let reason = format!("it has {} experts, the kernel at most {MAX_EXPERTS}", x.features);
        return Err(c.unsupported(&op.clone().into(), &reason));
    }
    let mut variant = Variant {
        name: "route",
        flags: vec![match op.gating {
            Gating::Softmax => "SOFTMAX",
            Gating::Sigmoid => "SIGMOID",
            Gating::SqrtSoftplus => "SQRT_SOFTPLUS",
            Gating::SoftmaxChosen => "SOFTMAX_CHOSEN",
        }],
        constants: vec![("WG", REDUCE_WG), ("N", x.features as u32), ("K", op.n_used as u32)],
        format: None,
        params: RouteParams::wgsl(),
    };
    let mut bindings = Vec::new();
    if let Some(id) = op.bias {
        variant.flags.push("BIAS");
        bindings.push(c.vector(id)?);
    }
    if let Some(groups) = op.groups {
        variant.flags.push("GROUPS");
        variant.constants.extend([("EXPERT_GROUPS", groups.count as u32), ("GROUPS_USED", groups.n_used as u32)]);
    }
    if op.normalise {
        variant.flags.push("NORMALISE");
    }
    let params = RouteParams { x: x.offset, x_stride: x.stride, y: y.offset, y_stride: y.stride, scale: op.scale };
    c.push(variant, bindings, params, Grid::Rows { x: 1, tile: 1, z: 1 })
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    RouteParams::wgsl()
}
