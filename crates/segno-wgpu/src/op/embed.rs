//! `embed`.

use segno_ir::DeviceError;
use segno_ir::op::Embed;

use super::{WG, of_rows};
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(EmbedParams { y: u32, y_stride: u32, first: u32, count: u32, scale: f32, n_in: u32, weight_row: u32 });

pub(super) fn compile(c: &mut Compile<'_>, op: &Embed) -> Result<(), DeviceError> {
    let n = op.features as u32;
    let mut variant = Variant {
        name: "embed",
        flags: Vec::new(),
        constants: vec![("WG", WG)],
        format: None,
        params: EmbedParams::wgsl(),
    };
    let grid = Grid::Rows { x: n.div_ceil(8).div_ceil(WG), tile: 1, z: 1 };
    let y = c.out();
    let params = EmbedParams { y: y.offset, y_stride: y.stride, scale: op.scale, n_in: n, ..Default::default() };
    let Some(id) = op.weight else { return c.push(variant, Vec::new(), params, grid) };
    let placed = c.matrix(id)?;
    variant.flags.push("WEIGHT");
    of_rows(&mut variant, &placed, n, None);
    let params = EmbedParams { weight_row: placed.row_words, ..params };
    for part in placed.parts {
        let params = EmbedParams { first: part.first_row as u32, count: part.rows as u32, ..params };
        c.push(variant.clone(), vec![Binding::weight(&part)], params, grid)?;
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    EmbedParams::wgsl()
}
