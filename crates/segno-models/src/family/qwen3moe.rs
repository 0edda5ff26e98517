//! `qwen3moe`: Qwen3 with a mixture of experts in every layer.

use segno_ir::{Graph, WeightSource};

use super::llama;
use super::qwen35moe::FeedForward;
use crate::ModelError;
use crate::keys::Keys;

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let ffn = FeedForward::of(keys)?;
    llama::build_with(keys, source, &|b, layer, f| ffn.build(b, layer, f))
}
