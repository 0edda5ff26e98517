//! `lfm2`: LFM2 and LFM2.5, dense. Gated short convolutions, some layers attention.

use segno_ir::op::rope::Pairing;
use segno_ir::op::{Add, Mul, ShortConv};
use segno_ir::{Builder, Graph, GraphError, Output, StateDecl, ValueId, WeightSource};

use crate::ModelError;
use crate::blocks::{AttentionBlock, GatedQueries, embed, linear, logits, rms_norm, slice, swiglu, tensor_name};
use crate::keys::Keys;

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let n_ff = keys.per_layer_u32("feed_forward_length")?;
    build_with(keys, source, &|b, layer, f| swiglu(b, layer, f, n_ff[layer as usize] as usize))
}

/// The family with a feed-forward block of one's choice.
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
    let n_head_kv = keys.per_layer_u32("attention.head_count_kv")?;
    let kernel = keys.required_usize("shortconv.l_cache")?;
    let d_head = keys.head_dim()?;
    let rope = keys.rope(d_head, Pairing::Neox)?;
    let window = keys.optional_u32("attention.sliding_window")?.filter(|&w| w > 0);
    if keys.optional_bool("attention.causal")? == Some(false) {
        return Err(keys.unfit("attention.causal", "false".into(), "a causal model").into());
    }

    let mut b = Builder::new(keys.architecture(), source);
    let mut x = embed(&mut b, n_embd, n_vocab, 1.0)?;
    for layer in 0..n_layer {
        b.set_scope(format!("blk.{layer}"));
        let name = |part: &str| tensor_name(layer, part);
        let i = layer as usize;
        let u = rms_norm(&mut b, x, &name("attn_norm.weight"), eps)?;
        let mixed = if n_head_kv[i] == 0 {
            short_conv(&mut b, layer, u, kernel)?
        } else {
            let block = AttentionBlock {
                layer,
                n_head: n_head[i] as usize,
                n_head_kv: n_head_kv[i] as usize,
                d_head,
                gated: GatedQueries::No,
                qk_norm_eps: Some(eps),
                rope: Some(rope.clone()),
                scale: 1.0 / (d_head as f32).sqrt(),
                window,
            };
            block.build(&mut b, u)?
        };
        x = b.push(Add, &[x, mixed])?;
        let f = rms_norm(&mut b, x, &name("ffn_norm.weight"), eps)?;
        let f = ffn(&mut b, layer, f)?;
        x = b.push(Add, &[x, f])?;
    }
    // The norm before the output has the embedding's name.
    let logits = logits(&mut b, x, "token_embd_norm.weight", n_vocab, eps)?;
    Ok(b.finish(&[(Output::Logits, logits)])?)
}

/// `out(C * conv(B * X))` with `[B | C | X] = in x`; the state holds the products.
fn short_conv(b: &mut Builder<'_>, layer: u32, u: ValueId, kernel: usize) -> Result<ValueId, GraphError> {
    let name = |part: &str| tensor_name(layer, part);
    let n_embd = b.features(u);
    let bcx = linear(b, u, &name("shortconv.in_proj"), 3 * n_embd)?;
    let gate_in = slice(b, bcx, 0, n_embd)?;
    let gate_out = slice(b, bcx, n_embd, n_embd)?;
    let x = slice(b, bcx, 2 * n_embd, n_embd)?;
    let x = b.push(Mul { weight: None }, &[gate_in, x])?;
    let shape = vec![n_embd as u32, kernel.saturating_sub(1) as u32];
    let state = b.state(StateDecl::Recurrent { name: name("conv"), shape });
    let weight = b.weight(&name("shortconv.conv.weight"), &[kernel, n_embd])?;
    let y = b.push(ShortConv { state, weight, bias: None, silu: false }, &[x])?;
    let y = b.push(Mul { weight: None }, &[gate_out, y])?;
    linear(b, y, &name("shortconv.out_proj"), n_embd)
}
