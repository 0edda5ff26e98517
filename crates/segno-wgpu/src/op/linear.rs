//! `linear`.

use segno_ir::DeviceError;
use segno_ir::op::Linear;

use super::{REDUCE_WG, of_rows};
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(LinearParams { x: u32, x_stride: u32, y: u32, y_stride: u32, rows: u32, first: u32, count: u32 });

/// Rows that a workgroup computes with one reading of its weights: where there are few, and where there are many.
const TILE: u32 = 4;
const MANY_TILE: u32 = 8;
/// Outputs that it computes with one reading of many rows.
const MANY_OUTPUTS: u32 = 4;

pub(super) fn compile(c: &mut Compile<'_>, op: &Linear) -> Result<(), DeviceError> {
    let placed = c.matrix(op.weight)?;
    let (x, y) = (c.input(0), c.out());
    let [n_in, _, groups] = c.sizes(op.weight);
    let mut variant = Variant {
        name: "linear",
        flags: Vec::new(),
        constants: vec![("WG", REDUCE_WG), ("N_IN", n_in)],
        format: None,
        params: LinearParams::wgsl(),
    };
    of_rows(&mut variant, &placed, n_in);
    let bias = op.bias.map(|id| c.vector(id)).transpose()?;
    if bias.is_some() {
        variant.flags.push("BIAS");
    }
    let mut many = variant.clone();
    variant.constants.push(("TILE", TILE));
    many.flags.push("MANY");
    many.constants.push(("TILE", MANY_TILE));
    if groups > 1 {
        variant.flags.push("GROUPS");
        variant.constants.push(("GROUP_WIDTH", y.features as u32 / groups));
    }
    for part in placed.parts {
        let (first, count) = (part.first_row as u32, part.rows as u32);
        let params =
            LinearParams { x: x.offset, x_stride: x.stride, y: y.offset, y_stride: y.stride, rows: 0, first, count };
        let bindings: Vec<_> = std::iter::once(Binding::weight(&part)).chain(bias.clone()).collect();
        let rows_at = LinearParams::offset("rows");
        let grid = |groups: u32, tile| Grid::Rows { x: groups.min(65_535), tile, z: groups.div_ceil(65_535) };
        // Outputs of one workgroup may read different features where there are groups.
        let few = if groups > 1 { 1..=u32::MAX } else { 1..=TILE };
        if groups == 1 {
            let grid = grid(count.div_ceil(MANY_OUTPUTS), MANY_TILE);
            c.push_for_rows(TILE + 1..=u32::MAX, many.clone(), bindings.clone(), params, grid, rows_at)?;
        }
        c.push_for_rows(few, variant.clone(), bindings, params, grid(count, TILE), rows_at)?;
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    LinearParams::wgsl()
}
