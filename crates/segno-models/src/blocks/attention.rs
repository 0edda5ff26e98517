//! Softmax attention with grouped key/value heads.

use segno_ir::op::activate::Activation;
use segno_ir::op::{Activate, Attention, RmsNorm, Rope, Slice};
use segno_ir::{Builder, GraphError, StateDecl, ValueId};

use super::{linear, slice, tensor_name};

/// Whether the query projection carries a gate for the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GatedQueries {
    /// Queries only.
    No,
    /// Per head `d` rows of query, then `d` rows of gate; the output is multiplied by `sigmoid(gate)`.
    Yes,
}

/// One attention block of a layer, projections included.
pub(crate) struct AttentionBlock {
    pub layer: u32,
    pub n_head: usize,
    pub n_head_kv: usize,
    /// Length of a query, key and value.
    pub d_head: usize,
    pub gated: GatedQueries,
    /// `attn_q_norm` and `attn_k_norm` before the rotation.
    pub qk_norm_eps: Option<f32>,
    pub rope: Option<Rope>,
    pub scale: f32,
    pub window: Option<u32>,
}

impl AttentionBlock {
    /// Builds the block on the normed input `x`; the result has `n_embd` features.
    pub fn build(&self, b: &mut Builder<'_>, x: ValueId) -> Result<ValueId, GraphError> {
        let AttentionBlock { layer, n_head, n_head_kv, d_head, .. } = *self;
        let n_embd = b.features(x);
        let name = |part: &str| tensor_name(layer, part);
        let per_query = if self.gated == GatedQueries::Yes { 2 * d_head } else { d_head };
        let (n_q, n_kv) = (n_head * per_query, n_head_kv * d_head);

        let (q, k, v) = if b.has(&name("attn_qkv.weight")) {
            let qkv = linear(b, x, &name("attn_qkv"), n_q + 2 * n_kv)?;
            (slice(b, qkv, 0, n_q)?, slice(b, qkv, n_q, n_kv)?, slice(b, qkv, n_q + n_kv, n_kv)?)
        } else {
            let q = linear(b, x, &name("attn_q"), n_q)?;
            (q, linear(b, x, &name("attn_k"), n_kv)?, linear(b, x, &name("attn_v"), n_kv)?)
        };
        let (q, gate) = match self.gated {
            GatedQueries::No => (q, None),
            GatedQueries::Yes => {
                let part = |offset| Slice { offset, width: d_head, stride: per_query, count: n_head };
                (b.push(part(0), &[q])?, Some(b.push(part(d_head), &[q])?))
            }
        };
        let q = self.norm_and_turn(b, q, &name("attn_q_norm.weight"))?;
        let k = self.norm_and_turn(b, k, &name("attn_k_norm.weight"))?;
        let state = b.state(StateDecl::KeyValue {
            name: name("kv"),
            n_head_kv: n_head_kv as u32,
            d_k: d_head as u32,
            d_v: d_head as u32,
            v_in_k: false,
            window: self.window,
        });
        let op = Attention { state, n_head, scale: self.scale, sinks: None, soft_cap: None, temperature: None };
        let mut y = b.push(op, &[q, k, v])?;
        if let Some(gate) = gate {
            y = b.push(Activate { function: Activation::Sigmoid }, &[gate, y])?;
        }
        linear(b, y, &name("attn_output"), n_embd)
    }

    fn norm_and_turn(&self, b: &mut Builder<'_>, x: ValueId, norm: &str) -> Result<ValueId, GraphError> {
        let mut x = x;
        if let Some(eps) = self.qk_norm_eps {
            let weight = Some(b.weight(norm, &[self.d_head])?);
            x = b.push(RmsNorm { group: self.d_head, weight, eps }, &[x])?;
        }
        match &self.rope {
            Some(rope) => b.push(rope.clone(), &[x]),
            None => Ok(x),
        }
    }
}
