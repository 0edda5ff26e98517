//! `token_shift`.

use segno_ir::{DeviceError, op};

use super::{Run, Setup};
use crate::context::Cx;

pub(super) struct TokenShift {
    offset: usize,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::TokenShift) -> Result<TokenShift, DeviceError> {
    Ok(TokenShift { offset: setup.slot_offset(op.state)? })
}

impl Run for TokenShift {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let n = cx.out.features;
        for (span, start) in cx.spans() {
            let at = |slot| cx.slot(slot, self.offset);
            let rows = span.inputs.len();
            // SAFETY: a step does not write the slots that it reads.
            let mut before = unsafe { cx.slots.get(at(span.from), n) };
            for r in start..start + rows {
                let x = cx.input(0, r);
                // SAFETY: only this thread runs the op.
                let y = unsafe { cx.output(r, 0..n) };
                y.iter_mut().zip(before.iter().zip(x)).for_each(|(y, (before, x))| *y = before - x);
                before = x;
            }
            for (after, slot) in span.snapshots.iter().copied().chain([(rows as u32, span.to)]) {
                // SAFETY: a step's written slots are distinct and not read.
                let state = unsafe { cx.slots.get_mut(at(slot), n) };
                state.copy_from_slice(cx.input(0, start + after as usize - 1));
            }
        }
        Ok(())
    }
}
