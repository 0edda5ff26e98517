//! `route`.

use std::sync::Arc;

use segno_ir::op::route::{ExpertGroups, Gating, MIN_WEIGHT_SUM};
use segno_ir::{DeviceError, op};

use super::{Run, Setup};
use crate::context::Cx;

/// Experts and rows that take about as long as to wake the other threads.
const SMALL: usize = 4096;

pub(super) struct Route {
    op: op::Route,
    bias: Option<Arc<[f32]>>,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Route) -> Result<Route, DeviceError> {
    Ok(Route { op: op.clone(), bias: setup.optional(op.bias)? })
}

/// Floats of scratch of a thread: weights and scores of `n_expert` experts, and the scores of groups.
pub(super) fn scratch_floats(n_expert: usize) -> usize {
    3 * n_expert
}

impl Route {
    fn row(&self, cx: &Cx<'_>, x: &[f32], scratch: &mut [f32], y: &mut [f32]) {
        let (p, score) = scratch.split_at_mut(x.len());
        let (score, of_groups) = score.split_at_mut(x.len());
        match self.op.gating {
            Gating::Softmax => softmax(cx, x, score, p),
            Gating::Sigmoid => {
                score.iter_mut().zip(x).for_each(|(s, x)| *s = -x);
                (cx.kernels.exp_all)(score, p);
                p.iter_mut().for_each(|p| *p = 1.0 / (1.0 + *p));
            }
            Gating::SqrtSoftplus => {
                p.copy_from_slice(x);
                (cx.kernels.softplus_in_place)(p);
                p.iter_mut().for_each(|p| *p = p.sqrt());
            }
            Gating::SoftmaxChosen => p.copy_from_slice(x),
        }
        for (e, s) in score.iter_mut().enumerate() {
            let raw = if self.op.groups.is_some() { p[e] } else { x[e] };
            let value = self.bias.as_ref().map_or(raw, |bias| p[e] + bias[e]);
            *s = if value.is_nan() { f32::NEG_INFINITY } else { value };
        }
        // Those that are chosen, or cannot be, become NaN.
        if let Some(groups) = self.op.groups {
            choose_groups(groups, score, &mut of_groups[..groups.count]);
        }
        let (w, ids) = y.split_at_mut(self.op.n_used);
        for (w, id) in w.iter_mut().zip(ids) {
            let mut best: Option<usize> = None;
            for (e, s) in score.iter().enumerate() {
                if !s.is_nan() && best.is_none_or(|b| *s > score[b]) {
                    best = Some(e);
                }
            }
            let e = best.unwrap_or(0);
            score[e] = f32::NAN;
            (*w, *id) = (p[e], e as f32);
        }
        if self.op.gating == Gating::SoftmaxChosen {
            let chosen = &mut p[..w.len()];
            chosen.copy_from_slice(w);
            softmax(cx, chosen, &mut score[..w.len()], w);
        }
        let sum = if self.op.normalise { w.iter().sum::<f32>().max(MIN_WEIGHT_SUM) } else { 1.0 };
        w.iter_mut().for_each(|w| *w = *w * self.op.scale / sum);
    }
}

/// Makes the scores of experts NaN that are not in one of the best groups.
fn choose_groups(groups: ExpertGroups, score: &mut [f32], of_groups: &mut [f32]) {
    let size = score.len() / groups.count;
    for (total, score) in of_groups.iter_mut().zip(score.chunks_exact(size)) {
        let mut best = [f32::NEG_INFINITY; 2];
        for &s in score {
            if s > best[0] {
                best = [s, best[0]];
            } else if s > best[1] {
                best[1] = s;
            }
        }
        *total = if size > 1 { best[0] + best[1] } else { best[0] };
    }
    for (g, score) in score.chunks_exact_mut(size).enumerate() {
        let own = of_groups[g];
        let better = of_groups.iter().enumerate().filter(|&(o, other)| *other > own || (*other == own && o < g));
        if better.count() >= groups.n_used {
            score.fill(f32::NAN);
        }
    }
}

/// `y = softmax(x)`; overwrites `work`.
fn softmax(cx: &Cx<'_>, x: &[f32], work: &mut [f32], y: &mut [f32]) {
    let peak = x.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
    work.iter_mut().zip(x).for_each(|(w, x)| *w = x - peak);
    (cx.kernels.exp_all)(work, y);
    let sum: f32 = y.iter().sum();
    y.iter_mut().for_each(|y| *y /= sum);
}

impl Run for Route {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let n_expert = cx.inputs[0].features;
        let most = if cx.n_rows * n_expert < SMALL { 1 } else { usize::MAX };
        cx.threads.split(cx.n_rows, 1, most, &|thread, rows| {
            // SAFETY: the scratch of this thread.
            let scratch = unsafe { cx.scratch(thread) };
            for r in rows {
                // SAFETY: each row is one thread's.
                let y = unsafe { cx.output(r, 0..cx.out.features) };
                self.row(cx, cx.input(0, r), scratch, y);
            }
        });
        Ok(())
    }
}
