//! `route`.

use std::sync::Arc;

use segno_ir::op::route::{Gating, MIN_WEIGHT_SUM};
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

/// Floats of scratch of a thread: weights and scores of `n_expert` experts.
pub(super) fn scratch_floats(n_expert: usize) -> usize {
    2 * n_expert
}

impl Route {
    fn row(&self, cx: &Cx<'_>, x: &[f32], scratch: &mut [f32], y: &mut [f32]) {
        let (p, score) = scratch.split_at_mut(x.len());
        let score = &mut score[..x.len()];
        match self.op.gating {
            Gating::Softmax => softmax(cx, x, score, p),
            Gating::Sigmoid => {
                score.iter_mut().zip(x).for_each(|(s, x)| *s = -x);
                (cx.kernels.exp_all)(score, p);
                p.iter_mut().for_each(|p| *p = 1.0 / (1.0 + *p));
            }
            Gating::SoftmaxChosen => p.copy_from_slice(x),
        }
        for (e, s) in score.iter_mut().enumerate() {
            let value = self.bias.as_ref().map_or(x[e], |bias| p[e] + bias[e]);
            *s = if value.is_nan() { f32::NEG_INFINITY } else { value };
        }
        let (w, ids) = y.split_at_mut(self.op.n_used);
        for (w, id) in w.iter_mut().zip(ids) {
            // Those that are chosen become NaN.
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
