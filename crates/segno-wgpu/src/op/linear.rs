//! `linear`.

use segno_ir::DeviceError;
use segno_ir::op::Linear;

use super::{REDUCE_WG, of_rows};
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(LinearParams {
    x: u32,
    x_stride: u32,
    y: u32,
    y_stride: u32,
    rows: u32,
    first: u32,
    count: u32,
    n_in: u32,
    weight_row: u32,
    group_width: u32,
});

/// Outputs, and rows, that a workgroup computes with one reading of weights and features: for one row, where only many
/// workgroups keep a GPU busy, and for more.
const ONE: (u32, u32) = (1, 1);
const MORE: (u32, u32) = (2, 8);

pub(super) fn compile(c: &mut Compile<'_>, op: &Linear) -> Result<(), DeviceError> {
    let placed = c.matrix(op.weight)?;
    let (x, y) = (c.input(0), c.out());
    let [n_in, _, groups] = c.sizes(op.weight);
    let mut variant = Variant {
        name: "linear",
        flags: Vec::new(),
        constants: vec![("WG", REDUCE_WG)],
        format: None,
        params: LinearParams::wgsl(),
    };
    of_rows(&mut variant, &placed, n_in, Some(x));
    let bias = op.bias.map(|id| c.vector(id)).transpose()?;
    if bias.is_some() {
        variant.flags.push("BIAS");
    }
    if groups > 1 {
        variant.flags.push("GROUPS");
    }
    // Outputs of one workgroup may read different features where there are groups.
    let more = if groups > 1 { (1, MORE.1) } else { MORE };
    let params = LinearParams {
        x: x.offset,
        x_stride: x.stride,
        y: y.offset,
        y_stride: y.stride,
        n_in,
        weight_row: placed.row_words,
        group_width: y.features as u32 / groups,
        ..Default::default()
    };
    for part in placed.parts {
        let (first, count) = (part.first_row as u32, part.rows as u32);
        let params = LinearParams { first, count, ..params };
        let bindings: Vec<_> = std::iter::once(Binding::weight(&part)).chain(bias.clone()).collect();
        for (rows, (outputs, tile)) in [(1..=1, ONE), (2..=u32::MAX, more)] {
            let mut variant = variant.clone();
            variant.constants.extend([("OUTPUTS", outputs), ("TILE", tile)]);
            let x = count.div_ceil(outputs);
            let grid = Grid::Rows { x: x.min(65_535), tile, z: x.div_ceil(65_535) };
            c.push_for_rows(rows, variant, bindings.clone(), params, grid, LinearParams::offset("rows"))?;
        }
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    LinearParams::wgsl()
}
