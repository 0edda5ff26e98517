//! What the scanning ops share: states in f32 that go through the tokens one by one, so that every
//! cut is exact.
//!
//! The rows of a head's state are independent of each other; a thread takes some of them through
//! all tokens of a span, so that they stay in its cache.

use std::ops::Range;

use segno_ir::Span;

use crate::context::Cx;

/// Rows of a head's state that a thread takes through the tokens together.
const ROWS: usize = 16;

/// Where the state `[heads, d_v, d_k]` lies in a slot.
pub(super) struct Scan {
    pub offset: usize,
    pub heads: usize,
    pub d_v: usize,
    pub d_k: usize,
}

/// One token of some rows of a head's state.
pub(super) struct Token<'a> {
    /// Row of the step.
    pub r: usize,
    pub head: usize,
    /// The rows, counted over all heads: features of the values and of the result.
    pub columns: Range<usize>,
    pub state: &'a mut [f32],
    pub y: &'a mut [f32],
    /// Memory of this thread.
    pub scratch: &'a mut [f32],
}

impl Scan {
    /// Takes the state of every span through its tokens.
    pub fn run(&self, cx: &Cx<'_>, token: impl Fn(Token<'_>) + Sync) {
        let chunks = self.d_v.div_ceil(ROWS);
        let most = if cx.n_rows * self.heads * self.d_v * self.d_k < 8_192 { 1 } else { usize::MAX };
        cx.threads.split(self.heads * chunks, 1, most, &|thread, range| {
            // SAFETY: the scratch of this thread.
            let scratch = unsafe { cx.scratch(thread) };
            for (span, start) in cx.spans() {
                for chunk in range.clone() {
                    if cx.cancelled() {
                        return;
                    }
                    let (head, first) = (chunk / chunks, chunk % chunks * ROWS);
                    let columns = head * self.d_v + first..head * self.d_v + self.d_v.min(first + ROWS);
                    self.span(cx, span, start, head, columns, scratch, &token);
                }
            }
        });
    }

    fn span(
        &self,
        cx: &Cx<'_>,
        span: &Span,
        start: usize,
        head: usize,
        columns: Range<usize>,
        scratch: &mut [f32],
        token: &impl Fn(Token<'_>),
    ) {
        let n = columns.len() * self.d_k;
        let at = |slot| cx.slot(slot, self.offset + columns.start * self.d_k);
        // SAFETY: a step does not write the slots that it reads; its written slots are distinct, and
        // these rows of them are this thread's.
        let (from, state) = unsafe { (cx.slots.get(at(span.from), n), cx.slots.get_mut(at(span.to), n)) };
        state.copy_from_slice(from);
        let mut snapshots = span.snapshots.iter().peekable();
        for t in 0..span.inputs.len() {
            let r = start + t;
            // SAFETY: these columns are this thread's.
            let y = unsafe { cx.output(r, columns.clone()) };
            token(Token { r, head, columns: columns.clone(), state: &mut *state, y, scratch: &mut *scratch });
            if let Some((_, slot)) = snapshots.next_if(|(after, _)| *after as usize == t + 1) {
                // SAFETY: as for `state`.
                unsafe { cx.slots.get_mut(at(*slot), n) }.copy_from_slice(state);
            }
        }
    }
}
