//! `qwen3next`: Qwen3-Next. As Qwen3.5 with experts, but value heads are grouped and beta and decay interleaved;
//! in files of older converters the delta net's other inputs as well.

use segno_ir::op::delta_rule::HeadMap;
use segno_ir::op::{Concat, Slice};
use segno_ir::{Builder, Graph, GraphError, ValueId, WeightSource};

use super::qwen35::{self, Projections};
use super::qwen35moe::FeedForward;
use crate::ModelError;
use crate::blocks::{BetaDecay, GatedDeltaNet, linear, tensor_name};
use crate::keys::Keys;

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let ffn = FeedForward::of(keys)?;
    qwen35::build_with(keys, source, HeadMap::Grouped, project, &|b, layer, f| ffn.build(b, layer, f))
}

/// As of Qwen3.5, or with beta and decay in one matrix: for each key head the numbers of its value heads,
/// first of beta, then of the decay.
fn project(b: &mut Builder<'_>, net: &GatedDeltaNet, u: ValueId) -> Result<Projections, GraphError> {
    let name = tensor_name(net.layer, "ssm_ba");
    if !b.has(&format!("{name}.weight")) {
        return qwen35::project(b, net, u);
    }
    let (qkv, z) = match b.has(&tensor_name(net.layer, "ssm_in.weight")) {
        true => project_interleaved(b, net, u)?,
        false => qwen35::project_qkvz(b, net, u)?,
    };
    let ba = linear(b, u, &name, 2 * net.n_head_v)?;
    let width = net.n_head_v / net.n_head_k;
    let part = |offset| Slice { offset, width, stride: 2 * width, count: net.n_head_k };
    let (beta, alpha) = (b.push(part(0), &[ba])?, b.push(part(width), &[ba])?);
    Ok((qkv, z, BetaDecay { beta, alpha }))
}

/// Queries, keys and values, and the gate, of one matrix: for each key head its query and key, then the values of
/// its value heads, then their gates.
fn project_interleaved(b: &mut Builder<'_>, net: &GatedDeltaNet, u: ValueId) -> Result<(ValueId, ValueId), GraphError> {
    let GatedDeltaNet { layer, n_head_k, n_head_v, d_head, .. } = *net;
    let values = n_head_v / n_head_k * d_head;
    let stride = 2 * (d_head + values);
    let all = linear(b, u, &tensor_name(layer, "ssm_in"), n_head_k * stride)?;
    let mut part = |offset, width| b.push(Slice { offset, width, stride, count: n_head_k }, &[all]);
    let (q, k) = (part(0, d_head)?, part(d_head, d_head)?);
    let (v, z) = (part(2 * d_head, values)?, part(2 * d_head + values, values)?);
    Ok((b.push(Concat { count: 1 }, &[q, k, v])?, z))
}
