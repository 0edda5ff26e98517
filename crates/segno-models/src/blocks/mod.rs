//! Parts that several families share. Each takes the builder and hands back a value.

mod attention;
mod ffn;
mod gated_delta_net;
mod moe;

pub(crate) use attention::{AttentionBlock, GatedQueries};
pub(crate) use ffn::{gated_ffn, swiglu, swiglu_named};
pub(crate) use gated_delta_net::{BetaDecay, GatedDeltaNet};
pub(crate) use moe::{Experts, add_shared_expert};

use segno_ir::op::{Embed, Linear, RmsNorm, SelectRows, Slice};
use segno_ir::{Builder, Domain, GraphError, ValueId};

/// `blk.{layer}.{name}`.
pub(crate) fn tensor_name(layer: u32, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

/// Rows of `token_embd.weight`.
pub(crate) fn embed(b: &mut Builder<'_>, n_embd: usize, n_vocab: usize, scale: f32) -> Result<ValueId, GraphError> {
    b.set_scope("token_embd");
    let weight = b.weight("token_embd.weight", &[n_embd, n_vocab])?;
    b.push(Embed { weight: Some(weight), features: n_embd, scale }, &[])
}

/// RMS norm over all features, with the weight `name`.
pub(crate) fn rms_norm(b: &mut Builder<'_>, x: ValueId, name: &str, eps: f32) -> Result<ValueId, GraphError> {
    let group = b.features(x);
    let weight = Some(b.weight(name, &[group])?);
    b.push(RmsNorm { group, weight, eps }, &[x])
}

/// Product with the weight `{prefix}.weight`, and `{prefix}.bias` if the file has it.
pub(crate) fn linear(b: &mut Builder<'_>, x: ValueId, prefix: &str, n_out: usize) -> Result<ValueId, GraphError> {
    let weight = b.weight(&format!("{prefix}.weight"), &[b.features(x), n_out])?;
    let bias = b.optional_weight(&format!("{prefix}.bias"), &[n_out])?;
    b.push(Linear { weight, bias }, &[x])
}

/// `width` features from `offset` on.
pub(crate) fn slice(b: &mut Builder<'_>, x: ValueId, offset: usize, width: usize) -> Result<ValueId, GraphError> {
    b.push(Slice { offset, width, stride: width, count: 1 }, &[x])
}

/// The final norm called `norm`, then the output matrix: `output.weight`, or the embedding if the
/// file has none.
pub(crate) fn logits(
    b: &mut Builder<'_>,
    x: ValueId,
    norm: &str,
    n_vocab: usize,
    eps: f32,
) -> Result<ValueId, GraphError> {
    b.set_scope("output");
    let x = b.push(SelectRows, &[x])?;
    let x = rms_norm(b, x, norm, eps)?;
    debug_assert_eq!(b.domain(x), Domain::Output);
    let prefix = if b.has("output.weight") { "output" } else { "token_embd" };
    linear(b, x, prefix, n_vocab)
}
