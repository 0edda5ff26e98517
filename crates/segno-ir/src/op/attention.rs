//! Softmax attention of each row over the keys and values that its sequence has so far.
//!
//! Head `h` reads key/value head `h / (n_head / n_head_kv)`:
//! `z_j = scale * q_h . k_j`, capped as `cap * tanh(z / cap)` if asked, for positions
//! `p - window < j <= p`; weights are `exp(z_j - m) / (sum_j exp(z_j - m) + exp(sink_h - m))`.
//!
//! In the absorbed form of multi-head latent attention (MLA, arXiv:2405.04434) a key is the latent and the part
//! that turns, and the value is the latent: the first numbers of the key, stored once
//! ([`v_in_k`](crate::StateDecl::KeyValue::v_in_k)).

use super::{Cost, OpContext, OpRule, Shapes, same_domain};
use crate::state::{StateDecl, StateId};
use crate::weight::WeightId;

/// Attributes of `attention`. Inputs: q `[n_head * d_k]`, then k `[n_head_kv * d_k]` and, unless values are part
/// of the keys, v `[n_head_kv * d_v]`, which are appended to the state first; without them it only reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The keys and values; its declaration gives sizes and window.
    pub state: StateId,
    /// Number of query heads.
    pub n_head: usize,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// `[n_head]`: logit of a sink that takes weight but has no value.
    pub sinks: Option<WeightId>,
    /// Smooth limit of the scaled products.
    pub soft_cap: Option<f32>,
    /// Growth of the scale beyond the context that the model was first trained on.
    pub temperature: Option<Temperature>,
}

/// A factor on the scale of a query at position `p`: `1 + growth ln(1 + floor(p / original_context))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Factor of the logarithm.
    pub growth: f32,
    /// Tokens up to which the factor is 1; at least 1.
    pub original_context: u32,
}

impl Attention {
    /// Factor on the products of a query at a position.
    pub fn scale_at(&self, position: u32) -> f64 {
        let factor = self.temperature.map_or(1.0, |Temperature { growth, original_context }| {
            1.0 + f64::from(growth) * f64::from(position / original_context.max(1)).ln_1p()
        });
        f64::from(self.scale) * factor
    }
}

/// Sizes of a key/value state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvDims {
    /// Number of key/value heads.
    pub n_head_kv: usize,
    /// Length of a key.
    pub d_k: usize,
    /// Length of a value.
    pub d_v: usize,
    /// Whether a value is the first `d_v` numbers of its key.
    pub v_in_k: bool,
    /// Tokens that a query sees; `None`: all.
    pub window: Option<u32>,
}

impl KvDims {
    /// Sizes of `decl`, or `None` if it is recurrent.
    pub fn of(decl: &StateDecl) -> Option<KvDims> {
        match *decl {
            StateDecl::KeyValue { n_head_kv, d_k, d_v, v_in_k, window, .. } => {
                Some(KvDims { n_head_kv: n_head_kv as usize, d_k: d_k as usize, d_v: d_v as usize, v_in_k, window })
            }
            StateDecl::Recurrent { .. } => None,
        }
    }

    /// Numbers of a value that are stored beside its key.
    pub fn d_v_stored(&self) -> usize {
        if self.v_in_k { 0 } else { self.d_v }
    }

    /// First position that a query at `position` sees.
    pub fn first_seen(&self, position: u32) -> u32 {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

impl OpRule for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        same_domain(shapes.domains)?;
        let decl = shapes.states.get(self.state.0 as usize).ok_or("its state is not declared")?;
        let dims = KvDims::of(decl).ok_or_else(|| format!("state {} is recurrent, expected keys and values", decl.name()))?;
        if dims.n_head_kv == 0 || self.n_head == 0 || !self.n_head.is_multiple_of(dims.n_head_kv) {
            return Err(format!("{} query heads do not divide over {} key/value heads", self.n_head, dims.n_head_kv));
        }
        if dims.v_in_k && dims.d_v > dims.d_k {
            return Err(format!("values of {} numbers are not part of keys of {}", dims.d_v, dims.d_k));
        }
        shapes.expect_features(0, "q", self.n_head * dims.d_k)?;
        if shapes.inputs.len() != 1 {
            shapes.expect_inputs(if dims.v_in_k { 2 } else { 3 })?;
            shapes.expect_features(1, "k", dims.n_head_kv * dims.d_k)?;
            if !dims.v_in_k {
                shapes.expect_features(2, "v", dims.n_head_kv * dims.d_v)?;
            }
        }
        if self.temperature.is_some_and(|t| t.original_context == 0) {
            return Err("original_context of its temperature is 0, expected 1 or more".into());
        }
        if let Some(id) = self.sinks {
            shapes.expect_weight(id, &[self.n_head])?;
        }
        Ok(self.n_head * dims.d_v)
    }

    fn weights(&self) -> Vec<WeightId> {
        self.sinks.into_iter().collect()
    }

    fn state(&self) -> Option<StateId> {
        Some(self.state)
    }

    fn cost(&self, _: &Shapes<'_>) -> Cost {
        // Depends on the context; callers add it per visible token.
        Cost::default()
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let dims = cx.kv_dims(self.state);
        let KvDims { n_head_kv, d_k, d_v, v_in_k, .. } = dims;
        let rows = cx.rows();
        if cx.n_inputs() > 1 {
            cx.append_kv(self.state, 1, 2);
        }
        let sinks = self.sinks.map(|id| cx.weight(id));
        let (q, (keys, values)) = (cx.input(0), cx.keys_and_values(self.state));
        let (values, v_row) = if v_in_k { (keys, d_k) } else { (values, d_v) };
        let mut y = vec![0.0; rows * self.n_head * d_v];
        for r in 0..rows {
            let last = cx.position(r) as usize;
            let first = dims.first_seen(last as u32) as usize;
            for h in 0..self.n_head {
                let kv = h / (self.n_head / n_head_kv);
                let query = &q[(r * self.n_head + h) * d_k..][..d_k];
                let z: Vec<f64> = (first..=last)
                    .map(|j| {
                        let key = &keys[(j * n_head_kv + kv) * d_k..][..d_k];
                        let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                        let z = dot * self.scale_at(last as u32);
                        self.soft_cap.map_or(z, |cap| cap as f64 * (z / cap as f64).tanh())
                    })
                    .collect();
                let sink = sinks.map_or(f64::NEG_INFINITY, |s| s[h]);
                let max = z.iter().copied().fold(sink, f64::max);
                let total = z.iter().map(|z| (z - max).exp()).sum::<f64>() + (sink - max).exp();
                let out = &mut y[(r * self.n_head + h) * d_v..][..d_v];
                for (j, z) in (first..=last).zip(&z) {
                    let weight = (z - max).exp() / total;
                    let value = &values[(j * n_head_kv + kv) * v_row..][..d_v];
                    out.iter_mut().zip(value).for_each(|(o, v)| *o += weight * v);
                }
            }
        }
        y
    }
}
