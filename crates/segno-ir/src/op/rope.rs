//! Rotary position embedding (arXiv:2104.09864): pair `i` of a head turns by `position * b^(-2i/n_rot)`.
//!
//! Backends take sine and cosine from [`Rope::table`], computed on the host in f64 from the rows'
//! positions, so that large positions lose nothing and every backend turns by the same angle.

use super::{Cost, OpContext, OpRule, Shapes};
use crate::weight::WeightId;

/// Which features form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(2i, 2i + 1)`.
    Norm,
    /// `(i, i + n_rot/2)`.
    Neox,
}

/// Attributes of `rope`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Features of a head.
    pub head_dim: usize,
    /// Features of a head that turn: the first ones.
    pub n_rot: usize,
    /// Which of them form a pair.
    pub pairing: Pairing,
    /// The base `b` of the frequencies.
    pub base: f32,
    /// Factor on the position: 1 over the linear scaling factor.
    pub freq_scale: f32,
    /// YaRN (arXiv:2309.00071), if the model has it.
    pub yarn: Option<Yarn>,
    /// Factor on sine and cosine.
    pub magnitude: f32,
    /// `[n_rot/2]`: divides the angle of each pair.
    pub factors: Option<WeightId>,
}

/// YaRN's blend of interpolated and extrapolated angles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Context that the model was first trained on, in tokens.
    pub original_context: u32,
    /// Rotations in that context above which a pair keeps its angle.
    pub beta_fast: f32,
    /// Rotations below which a pair is interpolated.
    pub beta_slow: f32,
    /// Whether the bounds of the blend are rounded outwards to whole pairs, as the paper's code and llama.cpp do.
    pub truncate: bool,
}

impl Rope {
    /// Inverse frequencies, `[n_rot/2]`: the angle of pair `i` at position `p` is `p` times its entry.
    /// `factors` is the content of [`Rope::factors`].
    pub fn frequencies(&self, factors: Option<&[f64]>) -> Vec<f64> {
        let (n, base) = (self.n_rot as f64, self.base as f64);
        (0..self.n_rot / 2)
            .map(|i| {
                let plain = base.powf(-2.0 * i as f64 / n) / factors.map_or(1.0, |f| f[i]);
                let scaled = plain * self.freq_scale as f64;
                let Some(yarn) = self.yarn else { return scaled };
                let correction = |rotations: f32| {
                    let wavelength = yarn.original_context as f64 / (rotations as f64 * std::f64::consts::TAU);
                    n * wavelength.ln() / (2.0 * base.ln())
                };
                let (low, high) = (correction(yarn.beta_fast), correction(yarn.beta_slow));
                let (low, high) = if yarn.truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(n - 1.0));
                let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                scaled * (1.0 - ramp) + plain * ramp
            })
            .collect()
    }

    /// `(cos, sin)` of every pair at a position, times the magnitude.
    pub fn table(&self, frequencies: &[f64], position: u32) -> impl Iterator<Item = (f64, f64)> {
        let magnitude = self.magnitude as f64;
        frequencies.iter().map(move |f| {
            let (sin, cos) = (f * position as f64).sin_cos();
            (cos * magnitude, sin * magnitude)
        })
    }

    /// Indices within a head of pair `i`.
    pub fn pair(&self, i: usize) -> (usize, usize) {
        match self.pairing {
            Pairing::Norm => (2 * i, 2 * i + 1),
            Pairing::Neox => (i, i + self.n_rot / 2),
        }
    }
}

impl OpRule for Rope {
    const NAME: &'static str = "rope";

    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> {
        shapes.expect_inputs(1)?;
        let n = shapes.inputs[0];
        if self.head_dim == 0 || !n.is_multiple_of(self.head_dim) {
            return Err(format!("{n} features do not divide into heads of {}", self.head_dim));
        }
        if !self.n_rot.is_multiple_of(2) || self.n_rot > self.head_dim {
            return Err(format!("n_rot is {}, expected an even number up to {}", self.n_rot, self.head_dim));
        }
        if !(self.base.is_finite() && self.base > 0.0 && self.freq_scale.is_finite()) {
            return Err(format!("base {} and freq_scale {} must be finite, base positive", self.base, self.freq_scale));
        }
        if let Some(id) = self.factors {
            shapes.expect_weight(id, &[self.n_rot / 2])?;
        }
        Ok(n)
    }

    fn weights(&self) -> Vec<WeightId> {
        self.factors.into_iter().collect()
    }

    fn cost(&self, shapes: &Shapes<'_>) -> Cost {
        Cost { flops_per_row: 3.0 * shapes.inputs[0] as f64, ..Cost::default() }
    }

    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> {
        let frequencies = self.frequencies(self.factors.map(|id| cx.weight(id)));
        let features = cx.features();
        let mut y = cx.input(0).to_vec();
        for (r, row) in y.chunks_exact_mut(features).enumerate() {
            let position = cx.position(r);
            for head in row.chunks_exact_mut(self.head_dim) {
                for (i, (cos, sin)) in self.table(&frequencies, position).enumerate() {
                    let (a, b) = self.pair(i);
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        }
        y
    }
}
