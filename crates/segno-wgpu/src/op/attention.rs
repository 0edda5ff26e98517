//! `attention`.

use segno_ir::op::Attention;
use segno_ir::op::attention::KvDims;
use segno_ir::{DeviceError, Graph, KvType, Op, PAGE_TOKENS, ProgramLimits};

use super::{REDUCE_WG, WG, per_feature};
use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(AppendParams { k: u32, k_stride: u32, v: u32, v_stride: u32, k_row: u32, v_row: u32, group: u32 });
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
    group: u32,
    n_head: u32,
    n_kv: u32,
    k_row: u32,
    v_row: u32,
    d_k: u32,
    d_v: u32,
    v_head: u32,
    window: u32,
    parts: u32,
    max_parts: u32,
    n_parts: u32,
    has_sinks: u32,
});

/// Steps of at most so many rows have a workgroup for each part of what a row of a head sees, others for so many rows:
/// those find enough work for a GPU without.
const FEW: u32 = 4;
const TILE: u32 = 4;
/// Pages whose keys are added up on their own before parts are.
const PART_PAGES: u32 = 2;
const PART: u32 = PART_PAGES * PAGE_TOKENS;

/// Parts that rows at positions `first` to `last` see together.
pub(crate) fn n_parts(window: Option<u32>, first: u32, last: u32) -> u32 {
    last / PART - window.map_or(0, |w| (first + 1).saturating_sub(w)) / PART + 1
}

/// Most parts that a row sees.
fn max_parts(window: Option<u32>, limits: &ProgramLimits) -> u32 {
    limits.max_context.div_ceil(PART).min(window.map_or(u32::MAX, |w| w.div_ceil(PART) + 1)).max(1)
}

/// Floats of all parts of few rows, the most that an op of the graph needs: a maximum, a sum of weights and `d_v` channels
/// each.
pub(crate) fn part_floats(graph: &Graph, limits: &ProgramLimits) -> usize {
    let of = |op: &Attention| {
        let dims = KvDims::of(&graph.states[op.state.0 as usize])?;
        let n = max_parts(dims.window, limits) as usize;
        Some(if n > 1 { limits.max_rows.min(FEW as usize) * op.n_head * n * (dims.d_v + 2) } else { 0 })
    };
    let ops = graph.nodes.iter().filter_map(|node| if let Op::Attention(op) = &node.op { of(op) } else { None });
    ops.max().unwrap_or(0)
}

pub(super) fn compile(c: &mut Compile<'_>, op: &Attention) -> Result<(), DeviceError> {
    let kv = c.key_value(op.state)?;
    let dims = kv.dims;
    let (k_row, v_row) = (dims.n_head_kv * dims.d_k, dims.n_head_kv * dims.d_v_stored());
    // Where values are part of the keys they are read from those, and none are stored.
    let (v_read, v_type, v_head) =
        if dims.v_in_k { (k_row, kv.k_type, dims.d_k) } else { (v_row, kv.v_type, dims.d_v) };
    let mut flags = Vec::new();
    let (group, k_type) = (kv.group as u32, kv.k_type);
    let mut constants = Vec::new();
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
    let (k_pages, v_pages) = (kv.k.clone(), kv.v.clone());
    let threads = (k_row / kv.k_type.block_len()).max(v_row / v_type.block_len());
    if c.n_inputs() > 1 {
        let (k, v) = (c.input(1), c.input(c.n_inputs() - 1));
        let variant = Variant {
            name: "attention",
            flags: [&["APPEND"][..], &flags].concat(),
            constants: [&[("WG", WG)][..], &constants].concat(),
            format: None,
            params: AppendParams::wgsl(),
        };
        let params = AppendParams {
            k: k.offset,
            k_stride: k.stride,
            v: v.offset,
            v_stride: v.stride,
            k_row: k_row as u32,
            v_row: v_row as u32,
            group,
        };
        let bindings = vec![Binding::written(k_pages.clone()), Binding::written(v_pages.clone())];
        c.push(variant, bindings, params, per_feature(threads))?;
    }
    constants.extend([
        ("WG", REDUCE_WG),
        ("CHANNELS", (dims.d_v as u32).div_ceil(REDUCE_WG)),
        ("PART_PAGES", PART_PAGES),
    ]);
    let v_pages = if dims.v_in_k { k_pages.clone() } else { v_pages };
    let mut bindings = vec![Binding::read(k_pages), Binding::read(v_pages)];
    if dims.d_k.is_multiple_of(4) {
        flags.push("FOURS");
        if k_type == KvType::F32 {
            flags.push("K_WIDE");
        }
        if c.input(0).is_wide() {
            flags.push("WIDE");
        }
    }
    let sinks = op.sinks.map(|id| c.vector(id)).transpose()?;
    bindings.push(sinks.clone().unwrap_or_else(|| bindings[0].clone()));
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
        group,
        n_head: op.n_head as u32,
        n_kv: dims.n_head_kv as u32,
        k_row: k_row as u32,
        v_row: v_read as u32,
        d_k: dims.d_k as u32,
        d_v: dims.d_v as u32,
        v_head: v_head as u32,
        window: dims.window.unwrap_or(0),
        parts: c.parts(),
        max_parts: max_parts(dims.window, c.limits()),
        n_parts: 1,
        has_sinks: sinks.is_some().into(),
    };
    let variant = |flag: &[&'static str], tile| Variant {
        name: "attention",
        flags: [&flags[..], flag].concat(),
        constants: [&constants[..], &[("TILE", tile)]].concat(),
        format: None,
        params: AttentionParams::wgsl(),
    };
    let (x, window) = (op.n_head as u32, dims.window);
    let many = Grid::Rows { x, tile: TILE, z: 1 };
    let rows_at = AttentionParams::offset("rows");
    c.push_for_rows(FEW + 1..=u32::MAX, variant(&[], TILE), bindings.clone(), params, many, rows_at)?;
    let split = Grid::Parts { x, window, parts_at: AttentionParams::offset("n_parts") };
    c.push_for_rows(1..=FEW, variant(&["SPLIT"], 1), bindings.clone(), params, split, None)?;
    if params.max_parts > 1 {
        let mut merge = variant(&["MERGE"], 1);
        merge.flags.retain(|flag| ["MERGE", "WIDE"].contains(flag));
        let grid = Grid::Merge { x: x * (dims.d_v as u32).div_ceil(REDUCE_WG), window };
        c.push_for_rows(1..=FEW, merge, bindings, params, grid, None)?;
    }
    Ok(())
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params(append: bool) -> String {
    if append { AppendParams::wgsl() } else { AttentionParams::wgsl() }
}
