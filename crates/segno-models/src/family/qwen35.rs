//! `qwen35`: Qwen3.5 and 3.6, dense. Gated delta nets, every few layers gated attention.

use segno_ir::op::Add;
use segno_ir::op::delta_rule::HeadMap;
use segno_ir::op::rope::Pairing;
use segno_ir::{Builder, Graph, GraphError, Output, ValueId, WeightSource};

use crate::ModelError;
use crate::blocks::{
    AttentionBlock, BetaDecay, GatedDeltaNet, GatedQueries, embed, linear, logits, rms_norm, swiglu, tensor_name,
};
use crate::keys::{KeyError, Keys};

pub(super) fn build(keys: &mut Keys<'_>, source: &dyn WeightSource) -> Result<Graph, ModelError> {
    let n_ff = keys.per_layer_u32("feed_forward_length")?;
    let ffn = |b: &mut Builder<'_>, layer: u32, f| swiglu(b, layer, f, n_ff[layer as usize] as usize);
    build_with(keys, source, HeadMap::Tiled, project, &ffn)
}

/// What the delta net of a layer is computed from: queries, keys and values; the gate; beta and decay.
pub(super) type Projections = (ValueId, ValueId, BetaDecay);

/// The families of delta nets and gated attention: they differ in how the delta net's inputs are stored,
/// in which key head a value head has, and in the feed-forward block.
pub(super) fn build_with(
    keys: &mut Keys<'_>,
    source: &dyn WeightSource,
    head_map: HeadMap,
    project: fn(&mut Builder<'_>, &GatedDeltaNet, ValueId) -> Result<Projections, GraphError>,
    ffn: &dyn Fn(&mut Builder<'_>, u32, ValueId) -> Result<ValueId, GraphError>,
) -> Result<Graph, ModelError> {
    let n_embd = keys.required_usize("embedding_length")?;
    let n_layer = keys.n_layer()?;
    let n_vocab = keys.n_vocab()?;
    let eps = keys.required_f32("attention.layer_norm_rms_epsilon")?;
    let n_head = keys.per_layer_u32("attention.head_count")?;
    let recurrent = recurrent_layers(keys)?;
    let n_head_kv = keys.per_layer_u32("attention.head_count_kv")?;
    let d_head = keys.required_usize("attention.key_length")?;
    // For text all positions of the multi-axis rotation are equal: plain pairs (i, i + n_rot/2).
    let rope = keys.rope(d_head, Pairing::Neox)?;
    let delta = GatedDeltaNet {
        layer: 0,
        n_head_k: keys.required_usize("ssm.group_count")?,
        n_head_v: keys.required_usize("ssm.time_step_rank")?,
        d_head: keys.required_usize("ssm.state_size")?,
        d_conv: keys.required_usize("ssm.conv_kernel")?,
        // As the family's converter orders the value heads, unless the file says otherwise.
        head_map: match keys.optional_bool("ssm.v_head_reordered")? {
            Some(true) => HeadMap::Tiled,
            Some(false) => HeadMap::Grouped,
            None => head_map,
        },
        eps,
    };
    if !delta.n_head_v.is_multiple_of(delta.n_head_k) {
        let expected = format!("a multiple of ssm.group_count = {}", delta.n_head_k);
        return Err(keys.unfit("ssm.time_step_rank", delta.n_head_v.to_string(), expected).into());
    }
    let inner = keys.required_usize("ssm.inner_size")?;
    if inner != delta.n_head_v * delta.d_head || delta.d_conv < 2 {
        let expected = format!("ssm.time_step_rank * ssm.state_size = {}", delta.n_head_v * delta.d_head);
        return Err(keys.unfit("ssm.inner_size", inner.to_string(), expected).into());
    }

    let mut b = Builder::new(keys.architecture(), source);
    let mut x = embed(&mut b, n_embd, n_vocab, 1.0)?;
    for layer in 0..n_layer {
        b.set_scope(format!("blk.{layer}"));
        let name = |part: &str| tensor_name(layer, part);
        let i = layer as usize;
        let u = rms_norm(&mut b, x, &name("attn_norm.weight"), eps)?;
        let mixed = if recurrent[i] {
            let delta = GatedDeltaNet { layer, ..delta };
            let (qkv, z, inputs) = project(&mut b, &delta, u)?;
            delta.build(&mut b, qkv, z, inputs, n_embd)?
        } else {
            let block = AttentionBlock {
                layer,
                n_head: n_head[i] as usize,
                n_head_kv: n_head_kv[i] as usize,
                d_head,
                gated: GatedQueries::Yes,
                qk_norm_eps: Some(eps),
                rope: Some(rope.clone()),
                scale: 1.0 / (d_head as f32).sqrt(),
                window: None,
            };
            block.build(&mut b, u)?
        };
        x = b.push(Add, &[x, mixed])?;
        let f = rms_norm(&mut b, x, &name("post_attention_norm.weight"), eps)?;
        let f = ffn(&mut b, layer, f)?;
        x = b.push(Add, &[x, f])?;
    }
    let logits = logits(&mut b, x, "output_norm.weight", n_vocab, eps)?;
    keys.ignore_mtp(&mut b, source)?;
    Ok(b.finish(&[(Output::Logits, logits)])?)
}

/// One matrix each for queries, keys and values, for the gate, beta and decay.
pub(super) fn project(b: &mut Builder<'_>, net: &GatedDeltaNet, u: ValueId) -> Result<Projections, GraphError> {
    let (qkv, z) = project_qkvz(b, net, u)?;
    let beta = linear(b, u, &tensor_name(net.layer, "ssm_beta"), net.n_head_v)?;
    let alpha = linear(b, u, &tensor_name(net.layer, "ssm_alpha"), net.n_head_v)?;
    Ok((qkv, z, BetaDecay { beta, alpha }))
}

/// The first two of [`project`].
pub(super) fn project_qkvz(
    b: &mut Builder<'_>,
    net: &GatedDeltaNet,
    u: ValueId,
) -> Result<(ValueId, ValueId), GraphError> {
    let GatedDeltaNet { layer, n_head_k, n_head_v, d_head, .. } = *net;
    let qkv = linear(b, u, &tensor_name(layer, "attn_qkv"), (2 * n_head_k + n_head_v) * d_head)?;
    Ok((qkv, linear(b, u, &tensor_name(layer, "attn_gate"), n_head_v * d_head)?))
}

/// Which layers are delta nets: as the file lists them, or else all but every n-th.
fn recurrent_layers(keys: &mut Keys<'_>) -> Result<Vec<bool>, KeyError> {
    let n_layer = keys.n_layer()?;
    if let Some(flags) = keys.optional_per_layer_u32("attention.recurrent_layers")? {
        return Ok(flags.into_iter().map(|f| f != 0).collect());
    }
    // The other dialect: an array of head counts with 0 for delta nets.
    if keys.is_array("attention.head_count_kv") {
        return Ok(keys.per_layer_u32("attention.head_count_kv")?.into_iter().map(|n| n == 0).collect());
    }
    let interval = keys.optional_u32("full_attention_interval")?.unwrap_or(4).max(1);
    Ok((0..n_layer).map(|layer| !(layer + 1).is_multiple_of(interval)).collect())
}
