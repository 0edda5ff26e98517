//! `linear`.

use segno_ir::DeviceError;
use segno_ir::op::Linear;

use super::REDUCE_WG;
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(LinearParams { x: u32, x_stride: u32, y: u32, y_stride: u32, rows: u32, first: u32, count: u32 });

/// Rows that a workgroup computes with one reading of its weights.
const TILE: u32 = 4;

pub(super) fn compile(c: &mut Compile<'_>, op: &Linear) -> Result<(), DeviceError> {
    let placed = c.matrix(op.weight)?;
    let (x, y) = (c.input(0), c.out());
    let [n_in, _, groups] = c.sizes(op.weight);
    let mut variant = Variant {
        name: "linear",
        flags: Vec::new(),
        constants: vec![("WG", REDUCE_WG), ("TILE", TILE), ("N_IN", n_in), ("WEIGHT_ROW", placed.row_words)],
        format: Some(placed.format),
        params: LinearParams::wgsl(),
    };
    if groups > 1 {
        variant.flags.push("GROUPS");
        variant.constants.push(("GROUP_WIDTH", y.features as u32 / groups));
    }
    let bias = op.bias.map(|id| c.vector(id)).transpose()?;
    if bias.is_some() {
        variant.flags.push("BIAS");
    }
    for part in placed.parts {
        let (first, count) = (part.first_row as u32, part.rows as u32);
        let params =
            LinearParams { x: x.offset, x_stride: x.stride, y: y.offset, y_stride: y.stride, rows: 0, first, count };
        let bindings = std::iter::once(Binding::weight(&part)).chain(bias.clone()).collect();
        let grid = Grid::Rows { x: count.min(65_535), tile: TILE, z: count.div_ceil(65_535) };
        c.push_with_rows(variant.clone(), bindings, params, grid, LinearParams::offset("rows"))?;
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    LinearParams::wgsl()
}
