//! `delta_rule`: a sequential scan with the state in f32, so that every cut is exact.
//!
//! The rows of a head's state are independent of each other; a thread takes some of them through
//! all tokens of a span, so that they stay in its cache.

use segno_ir::op::delta_rule::Decay;
use segno_ir::{DeviceError, Span, op};

use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::float::DeltaToken;

/// Rows of a head's state that a thread takes through the tokens together.
const ROWS: usize = 16;

pub(super) struct DeltaRule {
    op: op::DeltaRule,
    offset: usize,
}

/// Floats of scratch of a thread: the decay of a token.
pub(super) fn scratch_floats(op: &op::DeltaRule) -> usize {
    op.d_k
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::DeltaRule) -> Result<DeltaRule, DeviceError> {
    Ok(DeltaRule { op: op.clone(), offset: setup.slot_offset(op.state)? })
}

impl DeltaRule {
    /// Rows `first..first + n` of a head's state through all tokens of a span.
    fn scan(&self, cx: &Cx<'_>, span: &Span, start: usize, head: usize, first: usize, n: usize, decay: &mut [f32]) {
        let op::DeltaRule { d_k, d_v, .. } = self.op;
        let column = head * d_v + first;
        let at = |slot| cx.slot(slot, self.offset + column * d_k);
        // SAFETY: a step does not write the slots that it reads; its written slots are distinct, and
        // these rows of them are this thread's.
        let (from, state) = unsafe { (cx.slots.get(at(span.from), n * d_k), cx.slots.get_mut(at(span.to), n * d_k)) };
        state.copy_from_slice(from);
        let mut snapshots = span.snapshots.iter().peekable();
        let key = self.op.key_head(head) * d_k;
        for t in 0..span.inputs.len() {
            let r = start + t;
            let decay = match self.op.decay {
                Decay::Head => {
                    (cx.kernels.exp_all)(&cx.input(3, r)[head..=head], &mut decay[..1]);
                    &decay[..1]
                }
                Decay::Channel => {
                    (cx.kernels.exp_all)(&cx.input(3, r)[head * d_k..][..d_k], &mut decay[..d_k]);
                    &decay[..d_k]
                }
            };
            let token = DeltaToken {
                decay,
                k: &cx.input(1, r)[key..][..d_k],
                q: &cx.input(0, r)[key..][..d_k],
                v: &cx.input(2, r)[column..][..n],
                beta: cx.input(4, r)[head],
                scale: self.op.scale,
            };
            // SAFETY: these columns are this thread's.
            (cx.kernels.delta_rows)(&token, state, unsafe { cx.output(r, column..column + n) });
            if let Some((_, slot)) = snapshots.next_if(|(after, _)| *after as usize == t + 1) {
                // SAFETY: as for `state`.
                unsafe { cx.slots.get_mut(at(*slot), n * d_k) }.copy_from_slice(state);
            }
        }
    }
}

impl Run for DeltaRule {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let op::DeltaRule { n_head_v, d_v, d_k, .. } = self.op;
        let chunks = d_v.div_ceil(ROWS);
        let most = if cx.n_rows * n_head_v * d_v * d_k < 8_192 { 1 } else { usize::MAX };
        cx.threads.split(n_head_v * chunks, 1, most, &|thread, range| {
            // SAFETY: the scratch of this thread.
            let decay = unsafe { cx.scratch(thread) };
            for (span, start) in cx.spans() {
                for chunk in range.clone() {
                    if cx.cancelled() {
                        return;
                    }
                    let (head, first) = (chunk / chunks, chunk % chunks * ROWS);
                    self.scan(cx, span, start, head, first, ROWS.min(d_v - first), decay);
                }
            }
        });
        Ok(())
    }
}
