//! `lfm2moe`: LFM2 with a mixture of experts in all blocks but the first few.

use segno_ir::op::route::Gating;
use segno_ir::{Graph, WeightSource};

use super::lfm2;
use crate::ModelError;
use crate::blocks::{Experts, swiglu};
use crate::keys::Keys;

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let n_dense = keys.optional_u32("leading_dense_block_count")?.unwrap_or(0);
    let n_ff = keys.per_layer_u32("feed_forward_length")?;
    let mut experts = Experts::of(keys)?;
    if keys.optional_u32("expert_gating_func")?.unwrap_or(0) == 0 {
        experts.iter_mut().for_each(|e| e.gating = Gating::Sigmoid);
    }
    lfm2::build_with(keys, source, &|b, layer, f| match layer < n_dense {
        true => swiglu(b, layer, f, n_ff[layer as usize] as usize),
        false => experts[layer as usize].build(b, layer, f),
    })
}
