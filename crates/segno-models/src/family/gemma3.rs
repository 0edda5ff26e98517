//! `gemma3`: sliding-window layers, every few a global one; norms before and after each part.

use segno_ir::op::activate::Activation;
use segno_ir::op::rope::Pairing;
use segno_ir::op::{Add, Rope, SoftCap};
use segno_ir::{Builder, Graph, Output, WeightSource};

use crate::ModelError;
use crate::blocks::{AttentionBlock, GatedQueries, embed, gated_ffn, logits, rms_norm, tensor_name};
use crate::keys::Keys;

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let n_embd = keys.required_usize("embedding_length")?;
    let n_layer = keys.n_layer()?;
    let n_vocab = keys.n_vocab()?;
    let eps = keys.required_f32("attention.layer_norm_rms_epsilon")?;
    let n_ff = keys.per_layer_u32("feed_forward_length")?;
    let n_head = keys.per_layer_u32("attention.head_count")?;
    let n_head_kv = keys.optional_per_layer_u32("attention.head_count_kv")?.unwrap_or_else(|| n_head.clone());
    let d_head = keys.head_dim()?;
    let windows = keys.windows(None, 6)?;
    let global = keys.rope(d_head, Pairing::Neox)?;
    // Sliding layers have a base of their own and are never scaled.
    let base = keys.optional_f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let sliding = Rope { base, freq_scale: 1.0, yarn: None, magnitude: 1.0, ..global.clone() };
    // The largest model (62 layers) scales by the width per head, which is not the head's size.
    let per_head = if n_layer == 62 { n_embd as f32 / n_head[0] as f32 } else { d_head as f32 };

    let mut b = Builder::new(keys.architecture(), source);
    let mut x = embed(&mut b, n_embd, n_vocab, (n_embd as f32).sqrt())?;
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
            qk_norm_eps: Some(eps),
            rope: Some(if windows[i].is_some() { sliding.clone() } else { global.clone() }),
            scale: 1.0 / per_head.sqrt(),
            window: windows[i],
        };
        let mixed = block.build(&mut b, u)?;
        let mixed = rms_norm(&mut b, mixed, &name("post_attention_norm.weight"), eps)?;
        x = b.push(Add, &[x, mixed])?;
        let f = rms_norm(&mut b, x, &name("ffn_norm.weight"), eps)?;
        let f = gated_ffn(&mut b, layer, f, n_ff[i] as usize, Activation::Gelu)?;
        let f = rms_norm(&mut b, f, &name("post_ffw_norm.weight"), eps)?;
        x = b.push(Add, &[x, f])?;
    }
    let mut logits = logits(&mut b, x, "output_norm.weight", n_vocab, eps)?;
    if let Some(cap) = keys.optional_f32("final_logit_softcapping")?.filter(|&c| c > 0.0) {
        logits = b.push(SoftCap { cap }, &[logits])?;
    }
    Ok(b.finish(&[(Output::Logits, logits)])?)
}
