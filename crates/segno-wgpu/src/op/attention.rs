//! `attention`.

use segno_ir::DeviceError;
use segno_ir::op::Attention;

use segno_ir::KvType;

use super::{REDUCE_WG, WG, per_feature};
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(AppendParams { k: u32, k_stride: u32, v: u32, v_stride: u32 });
params!(AttentionParams {
    q: u32,
    q_stride: u32,
    y: u32,
    y_stride: u32,
    scale: f32,
    cap: f32,
    growth: f32,
    context: u32,
    rows: u32,
    d_k: u32,
});

/// Steps of at most so many rows have a workgroup for each row of a head, others for so many rows: those find enough work
/// for a GPU without.
const FEW: u32 = 4;
const TILE: u32 = 4;

pub(super) fn compile(c: &mut Compile<'_>, op: &Attention) -> Result<(), DeviceError> {
    let kv = c.key_value(op.state)?;
    let dims = kv.dims;
    let (k_row, v_row) = (dims.n_head_kv * dims.d_k, dims.n_head_kv * dims.d_v_stored());
    // Where values are part of the keys they are read from those, and none are stored.
    let (v_read, v_type, v_head) =
        if dims.v_in_k { (k_row, kv.k_type, dims.d_k) } else { (v_row, kv.v_type, dims.d_v) };
    let mut flags = Vec::new();
    let mut constants = vec![("K_ROW", k_row as u32), ("GROUP", kv.group as u32)];
    for (ty, [f16, blocks, q8_0, halves]) in [
        (kv.k_type, ["K_F16", "K_BLOCKS", "K_Q8_0", "K_HALVES"]),
        (v_type, ["V_F16", "V_BLOCKS", "V_Q8_0", "V_HALVES"]),
    ] {
        match ty {
            KvType::F32 => {}
            KvType::F16 => flags.push(f16),
            KvType::Q8_0 => flags.extend([blocks, q8_0]),
            KvType::Q4_0 => flags.push(blocks),
        }
        constants.push((halves, (ty.tensor_type().block_bytes() / 2) as u32));
    }
    constants.extend(c.step_constants());
    let (k_pages, v_pages) = (kv.k.clone(), kv.v.clone());
    let threads = (k_row / kv.k_type.block_len()).max(v_row / v_type.block_len());
    if c.n_inputs() > 1 {
        let (k, v) = (c.input(1), c.input(c.n_inputs() - 1));
        let variant = Variant {
            name: "attention",
            flags: [&["APPEND"][..], &flags].concat(),
            constants: [&[("WG", WG), ("V_ROW", v_row as u32)][..], &constants].concat(),
            format: None,
            params: AppendParams::wgsl(),
        };
        let params = AppendParams { k: k.offset, k_stride: k.stride, v: v.offset, v_stride: v.stride };
        let bindings = vec![Binding::written(k_pages.clone()), Binding::written(v_pages.clone())];
        c.push(variant, bindings, params, per_feature(threads))?;
    }
    constants.extend([
        ("WG", REDUCE_WG),
        ("V_ROW", v_read as u32),
        ("V_HEAD", v_head as u32),
        ("D_K", dims.d_k as u32),
        ("D_V", dims.d_v as u32),
        ("N_HEAD", op.n_head as u32),
        ("N_KV", dims.n_head_kv as u32),
        ("WINDOW", dims.window.unwrap_or(0)),
    ]);
    let v_pages = if dims.v_in_k { k_pages.clone() } else { v_pages };
    let mut bindings = vec![Binding::read(k_pages), Binding::read(v_pages)];
    if let Some(id) = op.sinks {
        flags.push("SINKS");
        bindings.push(c.vector(id)?);
    }
    if op.soft_cap.is_some() {
        flags.push("SOFT_CAP");
    }
    if op.temperature.is_some() {
        flags.push("GROWS");
    }
    let (q, y) = (c.input(0), c.out());
    let params = AttentionParams {
        q: q.offset,
        q_stride: q.stride,
        y: y.offset,
        y_stride: y.stride,
        scale: op.scale,
        cap: op.soft_cap.unwrap_or(0.0),
        growth: op.temperature.map_or(0.0, |t| t.growth),
        context: op.temperature.map_or(1, |t| t.original_context),
        rows: 0,
        d_k: dims.d_k as u32,
    };
    for (rows, tile) in [(1..=FEW, 1), (FEW + 1..=u32::MAX, TILE)] {
        let constants = [&constants[..], &[("TILE", tile)]].concat();
        let (flags, params_text) = (flags.clone(), AttentionParams::wgsl());
        let variant = Variant { name: "attention", flags, constants, format: None, params: params_text };
        let grid = Grid::Rows { x: op.n_head as u32, tile, z: 1 };
        c.push_for_rows(rows, variant, bindings.clone(), params, grid, AttentionParams::offset("rows"))?;
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params(append: bool) -> String {
    if append { AppendParams::wgsl() } else { AttentionParams::wgsl() }
}
