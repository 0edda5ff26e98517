//! Mixtures of experts.

use segno_ir::op::activate::Activation;
use segno_ir::op::route::{ExpertGroups, Gating};
use segno_ir::op::{Activate, Add, ExpertLinear, Mul, Route, Slice};
use segno_ir::{Builder, GraphError, ValueId};

use super::{linear, swiglu_named, tensor_name};
use crate::keys::{KeyError, Keys};

/// The experts of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Experts {
    pub n_expert: usize,
    /// Experts that a row uses.
    pub n_used: usize,
    /// Width of an expert.
    pub n_ff: usize,
    pub gating: Gating,
    pub groups: Option<ExpertGroups>,
    /// Whether the weights of the chosen experts are made to sum to 1.
    pub normalise: bool,
    /// Factor of the weights.
    pub scale: f32,
    /// Of gate and up.
    pub activation: Activation,
}

impl Experts {
    /// The experts of each block (MTP blocks included), with softmax, normalised weights and SiLU.
    pub fn of(keys: &Keys<'_>) -> Result<Vec<Experts>, KeyError> {
        let n_expert = keys.required_usize("expert_count")?;
        let groups = match keys.optional_u32("expert_group_count")?.filter(|&n| n > 1) {
            Some(count) => {
                let n_used = keys.required_usize("expert_group_used_count")?;
                Some(ExpertGroups { count: count as usize, n_used })
            }
            None => None,
        };
        let gating = match keys.optional_u32("expert_gating_func")?.unwrap_or(0) {
            0 | 1 => Gating::Softmax,
            2 => Gating::Sigmoid,
            3 => Gating::SoftmaxChosen,
            4 => Gating::SqrtSoftplus,
            other => {
                let expected = "1 (softmax), 2 (sigmoid), 3 (softmax of the chosen) or 4 (root of softplus)";
                return Err(keys.unfit("expert_gating_func", other.to_string(), expected));
            }
        };
        let used = keys.per_layer_u32("expert_used_count")?;
        if let Some(n) = used.iter().find(|&&n| n as usize > n_expert) {
            return Err(keys.unfit("expert_used_count", n.to_string(), format!("at most {n_expert} experts")));
        }
        let widths = match keys.optional_per_layer_u32("expert_feed_forward_length")? {
            Some(widths) => widths,
            None => {
                let n_ff = keys.per_layer_u32("feed_forward_length")?;
                n_ff.iter().zip(&used).map(|(n_ff, used)| n_ff / (*used).max(1)).collect()
            }
        };
        let layer = |(&n_used, &n_ff): (&u32, &u32)| Experts {
            n_expert,
            n_used: n_used as usize,
            n_ff: n_ff as usize,
            gating,
            groups,
            normalise: true,
            scale: 1.0,
            activation: Activation::Silu,
        };
        Ok(used.iter().zip(&widths).map(layer).collect())
    }

    /// `sum_e w_e down_e(f(gate_e x) * up_e x)`, the router and the selection bias as the file has them.
    pub fn build(&self, b: &mut Builder<'_>, layer: u32, x: ValueId) -> Result<ValueId, GraphError> {
        let Experts { n_expert, n_used, n_ff, .. } = *self;
        let n_embd = b.features(x);
        let name = |part: &str| tensor_name(layer, part);
        let logits = linear(b, x, &name("ffn_gate_inp"), n_expert)?;
        let bias = b.optional_weight(&name("exp_probs_b.bias"), &[n_expert])?;
        let Experts { gating, groups, normalise, scale, .. } = *self;
        let route = Route { n_used, gating, bias, groups, normalise, scale };
        let route = b.push(route, &[logits])?;
        let (gate, up) = if b.has(&name("ffn_gate_up_exps.weight")) {
            let both = self.linear(b, x, route, &name("ffn_gate_up_exps"), 2 * n_ff, false)?;
            let part = |offset| Slice { offset, width: n_ff, stride: 2 * n_ff, count: n_used };
            (b.push(part(0), &[both])?, b.push(part(n_ff), &[both])?)
        } else {
            let gate = self.linear(b, x, route, &name("ffn_gate_exps"), n_ff, false)?;
            (gate, self.linear(b, x, route, &name("ffn_up_exps"), n_ff, false)?)
        };
        let y = b.push(Activate { function: self.activation }, &[gate, up])?;
        self.linear(b, y, route, &name("ffn_down_exps"), n_embd, true)
    }

    fn linear(
        &self,
        b: &mut Builder<'_>,
        x: ValueId,
        route: ValueId,
        prefix: &str,
        n_out: usize,
        combine: bool,
    ) -> Result<ValueId, GraphError> {
        // An input for each expert, unless all of a row share it.
        let n_in = if combine { b.features(x) / self.n_used.max(1) } else { b.features(x) };
        let weight = b.weight(&format!("{prefix}.weight"), &[n_in, n_out, self.n_expert])?;
        let bias = b.optional_weight(&format!("{prefix}.bias"), &[n_out, self.n_expert])?;
        b.push(ExpertLinear { weight, bias, factor: None, n_used: self.n_used, combine }, &[x, route])
    }
}

/// `y` plus the expert that every row uses, times the sigmoid of its own gate if the file has one;
/// `y` itself if the file has no such expert.
pub(crate) fn add_shared_expert(
    b: &mut Builder<'_>,
    layer: u32,
    x: ValueId,
    y: ValueId,
    n_ff: usize,
) -> Result<ValueId, GraphError> {
    let name = |part: &str| tensor_name(layer, part);
    if !b.has(&name("ffn_up_shexp.weight")) {
        return Ok(y);
    }
    let names = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"].map(name);
    let mut shared = swiglu_named(b, x, &names, n_ff)?;
    if b.has(&name("ffn_gate_inp_shexp.weight")) {
        let gate = linear(b, x, &name("ffn_gate_inp_shexp"), 1)?;
        let gate = b.push(Activate { function: Activation::Sigmoid }, &[gate])?;
        shared = b.push(Mul { weight: None }, &[shared, gate])?;
    }
    b.push(Add, &[y, shared])
}
