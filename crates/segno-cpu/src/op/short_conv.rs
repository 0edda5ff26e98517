//! `short_conv`: channels side by side, taps from the oldest to the newest.

use std::sync::Arc;

use segno_ir::{DeviceError, Span, WeightDecl, op};

use super::{Run, Setup};
use crate::context::Cx;

pub(super) struct ShortConv {
    /// `[tap, channel]`.
    taps: Vec<f32>,
    bias: Option<Arc<[f32]>>,
    silu: bool,
    kernel: usize,
    channels: usize,
    offset: usize,
}

/// Floats of scratch of a thread: the rows before a span, channels side by side.
pub(super) fn scratch_floats(weight: &WeightDecl) -> usize {
    weight.n_elements()
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::ShortConv) -> Result<ShortConv, DeviceError> {
    let decl = setup.decl(op.weight);
    let (kernel, channels) = (decl.row_len(), decl.n_rows());
    let w = setup.vector(op.weight)?;
    let taps = (0..kernel).flat_map(|j| w.iter().skip(j).step_by(kernel).copied()).collect();
    let offset = setup.slot_offset(op.state)?;
    Ok(ShortConv { taps, bias: setup.optional(op.bias)?, silu: op.silu, kernel, channels, offset })
}

impl ShortConv {
    /// One span's rows, for some of the channels. `before` is memory for the rows before it.
    fn span(&self, cx: &Cx<'_>, span: &Span, start: usize, channels: std::ops::Range<usize>, before: &mut [f32]) {
        let (tail, n) = (self.kernel - 1, channels.len());
        let rows = span.inputs.len();
        // SAFETY: a step does not write the slots that it reads.
        let state = unsafe { cx.slots.get(cx.slot(span.from, self.offset + channels.start * tail), n * tail) };
        for (c, history) in state.chunks_exact(tail).enumerate() {
            history.iter().enumerate().for_each(|(j, x)| before[j * n + c] = *x);
        }
        // Row `i` of the history: those before the span come first.
        let history = |i: usize| match i.checked_sub(tail) {
            Some(t) => &cx.input(0, start + t)[channels.clone()],
            None => &before[i * n..][..n],
        };
        for t in 0..rows {
            // SAFETY: these channels are this thread's.
            let y = unsafe { cx.output(start + t, channels.clone()) };
            match &self.bias {
                Some(bias) => y.copy_from_slice(&bias[channels.clone()]),
                None => y.fill(0.0),
            }
            for j in 0..self.kernel {
                (cx.kernels.multiply_add)(&self.taps[j * self.channels..][channels.clone()], history(t + j), y);
            }
            if self.silu {
                (cx.kernels.silu)(y);
            }
        }
        let ends = span.snapshots.iter().copied().chain([(rows as u32, span.to)]);
        for (after, slot) in ends {
            // SAFETY: a step's written slots are distinct and not read, and these channels are this thread's.
            let state = unsafe { cx.slots.get_mut(cx.slot(slot, self.offset + channels.start * tail), n * tail) };
            for j in 0..tail {
                let row = history(after as usize + j);
                state.iter_mut().skip(j).step_by(tail).zip(row).for_each(|(s, x)| *s = *x);
            }
        }
    }
}

impl Run for ShortConv {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let most = if cx.n_rows * self.channels * self.kernel < 16_384 { 1 } else { usize::MAX };
        cx.threads.split(self.channels, 16, most, &|thread, channels| {
            // SAFETY: the scratch of this thread.
            let scratch = unsafe { cx.scratch(thread) };
            for (span, start) in cx.spans() {
                self.span(cx, span, start, channels.clone(), scratch);
            }
        });
        Ok(())
    }
}
