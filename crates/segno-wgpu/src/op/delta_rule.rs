//! `delta_rule`.

use segno_ir::DeviceError;
use segno_ir::op::DeltaRule;

use segno_ir::op::delta_rule::{Decay, HeadMap};

use crate::params::{Params, params};
use crate::program::{Binding, Compile, Grid};
use crate::shader::Variant;

params!(DeltaRuleParams {
    q: u32,
    q_stride: u32,
    k: u32,
    k_stride: u32,
    v: u32,
    v_stride: u32,
    g: u32,
    g_stride: u32,
    beta: u32,
    beta_stride: u32,
    y: u32,
    y_stride: u32,
    scale: f32,
    spans: u32,
    span_words: u32,
});

/// Most threads that share a column of the state, and values of each: few enough to stay in registers.
const LANES: u32 = 16;
const PER_LANE: u32 = 8;

/// Most threads of a workgroup: several columns of one head.
const WG: u32 = 128;

pub(super) fn compile(c: &mut Compile<'_>, op: &DeltaRule) -> Result<(), DeviceError> {
    let (state, len) = c.recurrent(op.state)?;
    let (d_k, d_v) = (op.d_k as u32, op.d_v as u32);
    let lanes = d_k.div_ceil(PER_LANE).next_power_of_two().min(LANES);
    let wg = (lanes * d_v.next_power_of_two()).min(WG);
    let mut variant = Variant {
        name: "delta_rule",
        flags: Vec::new(),
        constants: vec![
            ("WG", wg),
            ("LANES", lanes),
            ("D_K", d_k),
            ("D_V", d_v),
            ("N_HEAD_K", op.n_head_k as u32),
            ("N_HEAD_V", op.n_head_v as u32),
            ("STATE", len),
        ],
        format: None,
        params: DeltaRuleParams::wgsl(),
    };
    if op.head_map == HeadMap::Tiled {
        variant.flags.push("TILED");
    }
    if op.decay == Decay::Channel {
        variant.flags.push("CHANNEL_DECAY");
    }
    let (q, k, v, g, beta, y) = (c.input(0), c.input(1), c.input(2), c.input(3), c.input(4), c.out());
    let (spans, span_words) = c.spans();
    let params = DeltaRuleParams {
        q: q.offset,
        q_stride: q.stride,
        k: k.offset,
        k_stride: k.stride,
        v: v.offset,
        v_stride: v.stride,
        g: g.offset,
        g_stride: g.stride,
        beta: beta.offset,
        beta_stride: beta.stride,
        y: y.offset,
        y_stride: y.stride,
        scale: op.scale,
        spans,
        span_words,
    };
    let blocks = d_v.div_ceil(wg / lanes);
    c.push(variant, vec![Binding::written(state)], params, Grid::Spans { x: op.n_head_v as u32 * blocks })
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(super) fn params() -> String {
    DeltaRuleParams::wgsl()
}
