//! `qwen35moe`: Qwen3.5 with a mixture of experts and a gated shared expert in every block.

use segno_ir::op::delta_rule::HeadMap;
use segno_ir::{Builder, Graph, GraphError, ValueId, WeightSource};

use super::qwen35;
use crate::ModelError;
use crate::blocks::{Experts, add_shared_expert, swiglu, tensor_name};
use crate::keys::{KeyError, Keys};

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let ffn = FeedForward::of(keys)?;
    qwen35::build_with(keys, source, HeadMap::Tiled, qwen35::project, &|b, layer, f| ffn.build(b, layer, f))
}

/// Experts, the shared one among them; a dense block where a layer has no router.
pub(super) struct FeedForward {
    experts: Vec<Experts>,
    n_ff: Vec<u32>,
    n_ff_shared: Vec<u32>,
}

impl FeedForward {
    pub fn of(keys: &Keys<'_>) -> Result<Self, KeyError> {
        let n_ff = match keys.optional_per_layer_u32("feed_forward_length")? {
            Some(n_ff) => n_ff,
            // Only dense blocks and defaults need it.
            None => keys.per_layer_u32("expert_feed_forward_length")?,
        };
        let shared = keys.optional_per_layer_u32("expert_shared_feed_forward_length")?;
        Ok(FeedForward { experts: Experts::of(keys)?, n_ff_shared: shared.unwrap_or_else(|| n_ff.clone()), n_ff })
    }

    pub fn build(&self, b: &mut Builder<'_>, layer: u32, x: ValueId) -> Result<ValueId, GraphError> {
        let i = layer as usize;
        if !b.has(&tensor_name(layer, "ffn_gate_inp.weight")) && b.has(&tensor_name(layer, "ffn_gate.weight")) {
            return swiglu(b, layer, x, self.n_ff[i] as usize);
        }
        let y = self.experts[i].build(b, layer, x)?;
        add_shared_expert(b, layer, x, y, self.n_ff_shared[i] as usize)
    }
}
