//! Cases of `delta_rule`: decays near 0 and 1, both head maps, decay a head and a channel, snapshots
//! in mid-scan, chunk borders.
//!
//! Bound: of each column of the state (one value index, all key indices) the Euclidean norm of its
//! error is followed through the scan. One step is `S <- (I - beta k k^T) diag(a) S + beta v k`. The
//! error so far is multiplied by at most `max a` and by `m = max(1, |1 - beta |k|^2|)`, the norm of the
//! matrix: following it element by element instead would double it every step. What a step adds:
//!
//! - `a = exp(g)`: [`exp_rel`] and a product, `rho |a S|`. The same `g` repeats the same error: added up
//!   as it is.
//! - the prediction `p = S.k`, its difference from `v` and the product with beta:
//!   `|beta| (sum(d_k) sum |S k| + U (|v| + |p|)) + 2 U |delta|`, which enters along `k`;
//! - the update: `U (|delta| |k| + |S|)`.
//!
//! The last two are roundings of independent sign: their squares are added up (as in
//! [`sum`], whose lambda they carry). The result is read by `q`:
//! `|scale| (error |q| + sum(d_k) sum |S q|) + 2 U |y|`.
//! A chunked form multiplies the same matrices in another order and has to meet the same bound.

use segno_ir::Builder;
use segno_ir::op::DeltaRule;
use segno_ir::op::delta_rule::{Decay, HeadMap};
use segno_ir::reference::RefState;

use super::build::declare_state;
use super::{Batch, Cases, Errors, Setup, Trial};
use crate::bound::{TINY, U, exp_rel, norm, sum};
use crate::random::Random;

/// Log decays of a case.
#[derive(Clone, Copy, Debug)]
enum Decays {
    /// Evenly between two numbers.
    Between(f32, f32),
    /// -1e-6 or -60, or 0: keeps all or forgets all.
    Extremes,
}

impl Decays {
    fn draw(self, rng: &mut Random) -> f32 {
        match self {
            Decays::Between(low, high) => rng.between(low, high),
            Decays::Extremes => [-1e-6, -60.0, 0.0, -1e-6, -1e-3][rng.below(5)],
        }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    heads_k: usize,
    heads_v: usize,
    d_k: usize,
    d_v: usize,
    map: HeadMap,
    decay: Decay,
    decays: Decays,
    /// Beta is drawn between 0 and this.
    beta: f32,
    /// Factor on values.
    values: f32,
    copies: usize,
    batch: &'static str,
}

const PLAIN: Sizes = Sizes {
    heads_k: 1,
    heads_v: 2,
    d_k: 32,
    d_v: 32,
    map: HeadMap::Grouped,
    decay: Decay::Head,
    decays: Decays::Between(-2.0, 0.0),
    beta: 1.0,
    values: 1.0,
    copies: 1,
    batch: "p5+d1@5",
};

fn errors(trial: &Trial<'_>, op: &DeltaRule) -> Errors {
    let DeltaRule { n_head_k, n_head_v, d_k, d_v, .. } = *op;
    let Some(RefState::Recurrent(state)) = trial.state else { return Errors::default() };
    let mut state = state.clone();
    let [q, k, v, g, beta] = trial.inputs else { return Errors::default() };
    // Per column: what repeats, and the sum of squares of what does not.
    let (mut steady, mut squares) = (vec![0.0; n_head_v * d_v], vec![0.0; n_head_v * d_v]);
    let mut y = vec![0.0; trial.rows * n_head_v * d_v];
    let mut states = Vec::new();
    for t in 0..trial.rows {
        for head in 0..n_head_v {
            let at_k = (t * n_head_k + op.key_head(head)) * d_k;
            let (q, k) = (&q[at_k..][..d_k], &k[at_k..][..d_k]);
            let (norm_q, norm_k) = (norm(q.iter().copied()), norm(k.iter().copied()));
            let beta = beta[t * n_head_v + head];
            let m = (1.0 - beta * norm_k * norm_k).abs().max(1.0);
            let log_decay = |i_k: usize| match op.decay {
                Decay::Head => g[t * n_head_v + head],
                Decay::Channel => g[(t * n_head_v + head) * d_k + i_k],
            };
            let decays: Vec<f64> = (0..d_k).map(|i| log_decay(i).exp()).collect();
            let largest = decays.iter().copied().fold(0.0, f64::max);
            let rho = (0..d_k).map(|i| exp_rel(log_decay(i)) + U).fold(0.0, f64::max);
            for i_v in 0..d_v {
                let column = head * d_v + i_v;
                let s = &mut state[column * d_k..][..d_k];
                s.iter_mut().zip(&decays).for_each(|(s, a)| *s *= a);
                let decayed = norm(s.iter().copied());
                let predicted: f64 = s.iter().zip(k).map(|(s, k)| s * k).sum();
                let magnitude: f64 = s.iter().zip(k).map(|(s, k)| (s * k).abs()).sum();
                let value = v[(t * n_head_v + head) * d_v + i_v];
                let delta = beta * (value - predicted);
                s.iter_mut().zip(k).for_each(|(s, k)| *s += k * delta);
                let delta_error =
                    beta.abs() * (sum(d_k) * magnitude + U * (value.abs() + predicted.abs())) + 2.0 * U * delta.abs();
                let update = U * (delta.abs() * norm_k + norm(s.iter().copied()));
                steady[column] = m * (largest * steady[column] + rho * decayed) + TINY * d_k as f64;
                squares[column] = (m * largest).powi(2) * squares[column] + (delta_error * norm_k + update).powi(2);
                let error = steady[column] + squares[column].sqrt();
                let read: f64 = s.iter().zip(q).map(|(s, q)| s * q).sum();
                let reads: f64 = s.iter().zip(q).map(|(s, q)| (s * q).abs()).sum();
                y[(t * n_head_v + head) * d_v + i_v] = op.scale.abs() as f64
                    * (error * norm_q + sum(d_k) * reads + 2.0 * U * read.abs())
                    + TINY * d_k as f64;
            }
        }
        if trial.marks.contains(&(t + 1)) {
            let error = |i: usize| steady[i / d_k] + squares[i / d_k].sqrt();
            states.push((0..state.len()).map(error).collect());
        }
    }
    Errors { y, states }
}

fn add(out: &mut Cases, sizes: Sizes) {
    let Sizes { heads_k, heads_v, d_k, d_v, map, decay, decays, beta, values, copies, batch } = sizes;
    let map_name = if map == HeadMap::Tiled { "tiled" } else { "grouped" };
    let decay_name = if decay == Decay::Head { "head" } else { "channel" };
    let range = match decays {
        Decays::Between(low, high) => format!("{low}..{high}"),
        Decays::Extremes => "extremes".into(),
    };
    let params = format!(
        "heads={heads_k}/{heads_v},d={d_k}/{d_v},{map_name},{decay_name},g={range},beta={beta},\
         v={values:e},copies={copies},batch={batch}"
    );
    out.add("F32", params, move |rng| {
        let n_decay = if decay == Decay::Head { heads_v } else { heads_v * d_k };
        let widths = [heads_k * d_k, heads_k * d_k, heads_v * d_v, n_decay, heads_v];
        let setup = Setup::new(rng, &widths, &Batch::parse(batch)).copies(copies).fill(move |rng, part, _, out| {
            let draw: &mut dyn FnMut() -> f32 = match part {
                0..=1 => &mut || rng.normal(),
                2 => &mut || rng.normal() * values,
                3 => &mut || decays.draw(rng),
                _ => &mut || rng.between(0.0, beta),
            };
            out.iter_mut().for_each(|x| *x = draw());
            if part < 2 {
                // Models normalise queries and keys; without that the rule does not converge.
                for head in out.chunks_exact_mut(d_k) {
                    let length = head.iter().map(|x| x * x).sum::<f32>().sqrt();
                    head.iter_mut().for_each(|x| *x /= length.max(1e-6));
                }
            }
        });
        let op = move |state| DeltaRule {
            state,
            n_head_k: heads_k,
            n_head_v: heads_v,
            d_k,
            d_v,
            head_map: map,
            decay,
            scale: 1.0 / (d_k as f32).sqrt(),
        };
        let declare = move |b: &mut Builder<'_>, copy| Ok(op(declare_state(b, copy, &[heads_v, d_v, d_k])).into());
        setup.finish(declare, move |trial, _| errors(trial, &op(segno_ir::StateId(0))))
    });
}

pub(super) fn cases(out: &mut Cases) {
    for decay in [Decay::Head, Decay::Channel] {
        for batch in [
            "p1+d1@1",
            "p3!1!2!3+d1@3+d2@9!1",
            "p63!31?odd+d1@63",
            "p64!63!64?odd+d1@64",
            "p65!1!64!65?odd+p7@61!3",
            "p129!64!100!128?last+d1@128+d1",
        ] {
            add(out, Sizes { decay, batch, ..PLAIN });
        }
        for (heads_k, heads_v, d_k, d_v, map) in [
            (1, 1, 16, 16, HeadMap::Grouped),
            (2, 6, 64, 64, HeadMap::Grouped),
            (2, 6, 64, 64, HeadMap::Tiled),
            (3, 3, 48, 80, HeadMap::Tiled),
            (2, 4, 128, 128, HeadMap::Tiled),
            (1, 1, 256, 64, HeadMap::Grouped),
            (1, 2, 32, 3, HeadMap::Grouped),
            (1, 8, 64, 16, HeadMap::Grouped),
        ] {
            add(out, Sizes { heads_k, heads_v, d_k, d_v, map, decay, batch: "p9!4+d1@9+d1@2", ..PLAIN });
        }
        for decays in
            [Decays::Between(-1e-6, 0.0), Decays::Between(-60.0, -20.0), Decays::Between(-0.01, 0.0), Decays::Extremes]
        {
            add(out, Sizes { decay, decays, batch: "p66!64?odd+d1@66", ..PLAIN });
        }
        add(out, Sizes { decay, decays: Decays::Extremes, beta: 2.0, batch: "p66!64?odd+d1@66", ..PLAIN });
        add(out, Sizes { decay, values: 1e4, batch: "p17!8+d1@66", ..PLAIN });
        add(out, Sizes { decay, values: 1e-5, batch: "p17!8+d1@66", ..PLAIN });
        add(out, Sizes { decay, copies: 3, batch: "p17!8+d1@66", ..PLAIN });
        add(out, Sizes { decay, decays: Decays::Between(-0.05, 0.0), batch: "p257!64!256?last+d1@257", ..PLAIN });
    }
}
