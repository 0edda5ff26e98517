//! `short_conv`.

use segno_ir::StateLayout;
use segno_ir::op::ShortConv;

use crate::program::{Cx, Shared};

pub(crate) fn run(cx: &Cx<'_>, op: &ShortConv, slots: &mut [f32], layout: &StateLayout) {
    let w = cx.vector(op.weight);
    let bias = op.bias.map(|id| cx.vector(id));
    let channels = cx.out.features;
    let (kernel, tail) = (w.len() / channels, w.len() / channels - 1);
    let at = layout.offset_of(op.state).unwrap_or(0);
    let n_state = channels * tail;
    let shared = Shared::new(slots);
    let place = |slot: segno_ir::SlotId| slot.0 as usize * layout.slot_floats + at;
    let starts = cx.span_starts();
    for (span, start) in cx.step.spans.iter().zip(starts) {
        let rows = span.inputs.len();
        // SAFETY: `from` is written by nobody in a step.
        let before = unsafe { shared.get(place(span.from), n_state) };
        let value = |t: usize, j: usize, c: usize| -> f32 {
            // Input t - tail + j, from the state where it lies before the span.
            if t + j >= tail { cx.input(0, start + t + j - tail)[c] } else { before[c * tail + t + j] }
        };
        cx.threads.split(rows, 1, &|range| {
            for t in range {
                let y = cx.output(start + t);
                for c in 0..channels {
                    let mut sum = bias.map_or(0.0, |b| b[c]);
                    for j in 0..kernel {
                        sum += w[c * kernel + j] * value(t, j, c);
                    }
                    y[c] = if op.silu { sum / (1.0 + (-sum).exp()) } else { sum };
                }
            }
        });
        let ends = span.snapshots.iter().copied().chain([(rows as u32, span.to)]);
        for (after, slot) in ends {
            // SAFETY: a step's written slots are distinct, and none is a `from`.
            let state = unsafe { shared.get_mut(place(slot), n_state) };
            for c in 0..channels {
                for j in 0..tail {
                    state[c * tail + j] = value(after as usize, j, c);
                }
            }
        }
    }
}
