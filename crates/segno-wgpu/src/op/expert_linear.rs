//! `expert_linear`.

use segno_ir::DeviceError;
use segno_ir::op::ExpertLinear;

use super::{REDUCE_WG, of_rows};
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(ExpertLinearParams {
    x: u32,
    x_stride: u32,
    x_slot: u32,
    route: u32,
    route_stride: u32,
    y: u32,
    y_stride: u32,
    first: u32,
    count: u32,
    slot: u32,
    slots: u32,
    n_in: u32,
    n_out: u32,
    n_expert: u32,
    k: u32,
    weight_row: u32,
    has_bias: u32,
    has_factor: u32,
});

/// Steps of at most so many rows have a workgroup for every output, others for so many outputs: those find enough work
/// for a GPU without.
const FEW: u32 = 4;
const TILE: u32 = 8;

pub(super) fn compile(c: &mut Compile<'_>, op: &ExpertLinear) -> Result<(), DeviceError> {
    let placed = c.matrix(op.weight)?;
    let (x, route, y) = (c.input(0), c.input(1), c.out());
    let [n_in, n_out, n_expert] = c.sizes(op.weight);
    if n_out > 65_535 {
        return Err(c.unsupported(&op.clone().into(), &format!("experts have {n_out} outputs, at most 65535 fit")));
    }
    let n_used = op.n_used as u32;
    let mut variant = Variant {
        name: "expert_linear",
        flags: Vec::new(),
        constants: vec![("WG", REDUCE_WG)],
        format: None,
        params: ExpertLinearParams::wgsl(),
    };
    of_rows(&mut variant, &placed, n_in, Some(x));
    if op.combine {
        variant.flags.push("COMBINE");
    }
    let bias = op.bias.map(|id| c.vector(id)).transpose()?;
    let factor = op.factor.map(|id| c.vector(id)).transpose()?;
    // Slots are added in order even where each lies in another part of the weight.
    let in_turn = op.combine && placed.parts.len() > 1;
    let (turns, slots) = match (in_turn, op.combine) {
        (true, _) => (n_used, 1),
        (false, true) => (1, n_used),
        (false, false) => (1, 1),
    };
    for slot in 0..turns {
        for part in &placed.parts {
            let params = ExpertLinearParams {
                x: x.offset,
                x_stride: x.stride,
                x_slot: if x.features as u32 == n_in { 0 } else { n_in },
                route: route.offset,
                route_stride: route.stride,
                y: y.offset,
                y_stride: y.stride,
                first: part.first_row as u32,
                count: part.rows as u32,
                slot,
                slots,
                n_in,
                n_out,
                n_expert,
                k: n_used,
                weight_row: placed.row_words,
                has_bias: bias.is_some().into(),
                has_factor: factor.is_some().into(),
            };
            let weight = Binding::weight(part);
            let or_weight = |vector: &Option<Binding>| vector.clone().unwrap_or_else(|| weight.clone());
            let bindings = vec![weight.clone(), or_weight(&bias), or_weight(&factor)];
            for (rows, tile) in [(1..=FEW, 1), (FEW + 1..=u32::MAX, TILE)] {
                let mut variant = variant.clone();
                variant.constants.push(("TILE", tile));
                let grid = Grid::Rows { x: n_out.div_ceil(tile), tile: 1, z: if op.combine { 1 } else { n_used } };
                c.push_for_rows(rows, variant, bindings.clone(), params, grid, None)?;
            }
        }
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    ExpertLinearParams::wgsl()
}
