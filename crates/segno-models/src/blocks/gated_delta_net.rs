//! The gated delta net of Qwen3-Next and Qwen3.5 (arXiv:2412.06464).

use segno_ir::op::activate::Activation;
use segno_ir::op::delta_rule::{Decay, HeadMap};
use segno_ir::op::{Activate, DeltaRule, L2Norm, RmsNorm, ShortConv, Softplus};
use segno_ir::{Builder, GraphError, StateDecl, ValueId};

use super::{linear, slice, tensor_name};

/// Where the correction strength and the step of the decay come from.
pub(crate) struct BetaDecay {
    /// Before the sigmoid, `[n_head_v]`.
    pub beta: ValueId,
    /// Before the softplus, `[n_head_v]`.
    pub alpha: ValueId,
}

/// One gated delta net of a layer.
pub(crate) struct GatedDeltaNet {
    pub layer: u32,
    pub n_head_k: usize,
    pub n_head_v: usize,
    /// Length of keys and values.
    pub d_head: usize,
    /// Rows that the convolution sees.
    pub d_conv: usize,
    pub head_map: HeadMap,
    pub eps: f32,
}

impl GatedDeltaNet {
    /// Builds the block from the joint projection `qkv` (queries, keys, values), the gate `z` and
    /// the inputs of beta and decay; the result has `n_embd` features.
    pub fn build(
        &self,
        b: &mut Builder<'_>,
        qkv: ValueId,
        z: ValueId,
        inputs: BetaDecay,
        n_embd: usize,
    ) -> Result<ValueId, GraphError> {
        let GatedDeltaNet { layer, n_head_k, n_head_v, d_head, d_conv, eps, .. } = *self;
        let name = |part: &str| tensor_name(layer, part);
        let (key_dim, value_dim) = (n_head_k * d_head, n_head_v * d_head);
        let channels = 2 * key_dim + value_dim;

        let conv_state =
            b.state(StateDecl::Recurrent { name: name("conv"), shape: vec![channels as u32, d_conv as u32 - 1] });
        let weight = b.weight(&name("ssm_conv1d.weight"), &[d_conv, channels])?;
        let x = b.push(ShortConv { state: conv_state, weight, bias: None, silu: true }, &[qkv])?;
        let q = slice(b, x, 0, key_dim)?;
        let k = slice(b, x, key_dim, key_dim)?;
        let v = slice(b, x, 2 * key_dim, value_dim)?;
        let q = b.push(L2Norm { group: d_head, eps }, &[q])?;
        let k = b.push(L2Norm { group: d_head, eps }, &[k])?;

        let beta = b.push(Activate { function: Activation::Sigmoid }, &[inputs.beta])?;
        // Some converters leave the suffix out.
        let bias = if b.has(&name("ssm_dt.bias")) { name("ssm_dt.bias") } else { name("ssm_dt") };
        let bias = Some(b.weight(&bias, &[n_head_v])?);
        let factor = Some(b.weight(&name("ssm_a"), &[n_head_v])?);
        let decay = b.push(Softplus { bias, factor }, &[inputs.alpha])?;

        let shape = vec![n_head_v as u32, d_head as u32, d_head as u32];
        let state = b.state(StateDecl::Recurrent { name: name("delta"), shape });
        let op = DeltaRule {
            state,
            n_head_k,
            n_head_v,
            d_k: d_head,
            d_v: d_head,
            head_map: self.head_map,
            decay: Decay::Head,
            scale: 1.0 / (d_head as f32).sqrt(),
        };
        let y = b.push(op, &[q, k, v, decay, beta])?;
        let weight = Some(b.weight(&name("ssm_norm.weight"), &[d_head])?);
        let y = b.push(RmsNorm { group: d_head, weight, eps }, &[y])?;
        let y = b.push(Activate { function: Activation::Silu }, &[z, y])?;
        linear(b, y, &name("ssm_out"), n_embd)
    }
}
