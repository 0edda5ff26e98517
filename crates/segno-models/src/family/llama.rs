//! `llama` (Llama 1 to 3.x, Mistral and many others), `qwen2` and `qwen3`: attention and a
//! feed-forward block in every layer.

use segno_ir::op::Add;
use segno_ir::op::rope::Pairing;
use segno_ir::{Builder, Graph, GraphError, Output, ValueId, WeightSource};

use super::qwen35moe::FeedForward;
use crate::ModelError;
use crate::blocks::{AttentionBlock, GatedQueries, embed, logits, rms_norm, swiglu, tensor_name};
use crate::keys::Keys;

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    // Mixtral has the name `llama`.
    if keys.optional_u32("expert_count")?.unwrap_or(0) > 0 {
        let ffn = FeedForward::of(keys)?;
        return build_with(keys, source, &|b, layer, f| ffn.build(b, layer, f));
    }
    let n_ff = keys.per_layer_u32("feed_forward_length")?;
    build_with(keys, source, &|b, layer, f| swiglu(b, layer, f, n_ff[layer as usize] as usize))
}

/// The families with a feed-forward block of one's choice.
pub(super) fn build_with(
    keys: &mut Keys<'_>,
    source: &dyn WeightSource,
    ffn: &dyn Fn(&mut Builder<'_>, u32, ValueId) -> Result<ValueId, GraphError>,
) -> Result<Graph, ModelError> {
    let n_embd = keys.required_usize("embedding_length")?;
    let n_layer = keys.n_layer()?;
    let n_vocab = keys.n_vocab()?;
    let eps = keys.required_f32("attention.layer_norm_rms_epsilon")?;
    let n_head = keys.per_layer_u32("attention.head_count")?;
    let n_head_kv = keys.optional_per_layer_u32("attention.head_count_kv")?.unwrap_or_else(|| n_head.clone());
    let d_head = keys.head_dim()?;
    let (pairing, qk_norm) = match keys.architecture() {
        "llama" => (Pairing::Norm, false),
        "qwen2" => (Pairing::Neox, false),
        _ => (Pairing::Neox, true),
    };
    let scale = keys.optional_f32("attention.scale")?.filter(|&s| s != 0.0).unwrap_or(1.0 / (d_head as f32).sqrt());
    let mut rope = keys.rope(d_head, pairing)?;

    let mut b = Builder::new(keys.architecture(), source);
    let mut x = embed(&mut b, n_embd, n_vocab, 1.0)?;
    if keys.architecture() == "llama" {
        rope.factors = b.optional_weight("rope_freqs.weight", &[rope.n_rot / 2])?;
    }
    for layer in 0..n_layer {
        b.set_scope(format!("blk.{layer}"));
        let name = |part: &str| tensor_name(layer, part);
        let i = layer as usize;
        let u = rms_norm(&mut b, x, &name("attn_norm.weight"), eps)?;
        let block = AttentionBlock {
            layer,
            n_head: n_head[i] as usize,
            n_head_kv: n_head_kv[i] as usize,
            d_head,
            gated: GatedQueries::No,
            qk_norm_eps: qk_norm.then_some(eps),
            rope: Some(rope.clone()),
            scale,
            window: None,
        };
        let mixed = block.build(&mut b, u)?;
        x = b.push(Add, &[x, mixed])?;
        let f = rms_norm(&mut b, x, &name("ffn_norm.weight"), eps)?;
        let f = ffn(&mut b, layer, f)?;
        x = b.push(Add, &[x, f])?;
    }
    let logits = logits(&mut b, x, "output_norm.weight", n_vocab, eps)?;
    Ok(b.finish(&[(Output::Logits, logits)])?)
}
