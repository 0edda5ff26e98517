//! What an op sees of a step.

use std::ops::Range;

use segno_ir::{SlotId, Span, Step};

use crate::memory::Shared;
use crate::plan::View;
use crate::simd::Kernels;
use crate::simd::quant::QuantRows;
use crate::threads::Threads;

/// A row of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Index of its span.
    pub span: usize,
    /// Its position in the sequence.
    pub position: u32,
}

/// The pages of a group.
#[derive(Clone, Copy)]
pub(crate) struct Pages<'a> {
    /// All of them.
    pub bytes: Shared<'a, u8>,
    /// Bytes from page to page.
    pub stride: usize,
}

/// The step and its memory, as one op sees them.
pub(crate) struct Cx<'a> {
    pub kernels: &'static Kernels,
    pub threads: &'a Threads,
    pub step: &'a Step,
    /// Token rows.
    pub rows: &'a [Row],
    /// Ids of the token rows; `None` for those given as values.
    pub tokens: &'a [Option<u32>],
    /// First token row of each span.
    pub span_starts: &'a [usize],
    /// Token row of each output row.
    pub output_rows: &'a [usize],
    pub arena: Shared<'a, f32>,
    /// Rows of the op's result.
    pub n_rows: usize,
    pub out: View,
    pub inputs: &'a [View],
    /// Rounded activations, one memory for each form.
    pub rounded: [QuantRows<'a>; 2],
    /// Of each thread.
    pub scratch: Shared<'a, f32>,
    pub scratch_len: usize,
    pub slots: Shared<'a, f32>,
    /// Floats from slot to slot.
    pub slot_stride: usize,
    pub groups: &'a [Pages<'a>],
    /// Cosines and sines of each rotation and row.
    pub turns: Shared<'a, f32>,
}

impl<'a> Cx<'a> {
    /// Row `r` of input `i`.
    pub fn input(&self, i: usize, r: usize) -> &'a [f32] {
        let view = self.inputs[i];
        // SAFETY: earlier ops wrote the inputs; the plan keeps them apart from what this op writes.
        unsafe { self.arena.get(view.offset + r * view.stride, view.features) }
    }

    /// All of input `i`, from its first row's start on, with the views between its rows.
    pub fn input_rows(&self, i: usize, from: usize, to: usize) -> &'a [f32] {
        let view = self.inputs[i];
        let n = if from < to { (to - from - 1) * view.stride + view.features } else { 0 };
        // SAFETY: as for `input`.
        unsafe { self.arena.get(view.offset + from * view.stride, n) }
    }

    /// Columns of row `r` of the result.
    ///
    /// # Safety
    /// They belong to the calling thread, which holds no other reference to them.
    pub unsafe fn output(&self, r: usize, columns: Range<usize>) -> &'a mut [f32] {
        debug_assert!(columns.end <= self.out.features);
        // SAFETY: as promised by the caller.
        unsafe { self.arena.get_mut(self.out.offset + r * self.out.stride + columns.start, columns.len()) }
    }

    /// The scratch memory of a thread.
    ///
    /// # Safety
    /// The calling thread is the one of that index, and holds no other reference to it.
    pub unsafe fn scratch(&self, thread: usize) -> &'a mut [f32] {
        // SAFETY: as promised by the caller.
        unsafe { self.scratch.get_mut(thread * self.scratch_len, self.scratch_len) }
    }

    /// Offset of a state in a slot's memory.
    pub fn slot(&self, slot: SlotId, offset: usize) -> usize {
        slot.0 as usize * self.slot_stride + offset
    }

    /// The spans with their first rows.
    pub fn spans(&self) -> impl Iterator<Item = (&'a Span, usize)> {
        self.step.spans.iter().zip(self.span_starts.iter().copied())
    }

    /// Whether the step is to stop.
    pub fn cancelled(&self) -> bool {
        self.step.cancel.is_cancelled()
    }

    /// Calls `f(row, columns)` so that every number of the result is covered once: by this thread
    /// if there is little to do, else split by rows, or by columns where there are few rows.
    /// `cost` is the time of a number relative to an addition.
    pub fn elementwise(&self, cost: usize, f: impl Fn(usize, Range<usize>) + Sync) {
        let (rows, n) = (self.n_rows, self.out.features);
        if rows >= 2 * self.threads.n() || rows * n * cost < SMALL {
            self.by_rows(cost, |r| f(r, 0..n));
        } else {
            self.threads.split(n, 16, usize::MAX, &|_, columns| (0..rows).for_each(|r| f(r, columns.clone())));
        }
    }

    /// Calls `f(row)` for every row of the result, split over the threads if there is enough to do.
    pub fn by_rows(&self, cost: usize, f: impl Fn(usize) + Sync) {
        let most = if self.n_rows * self.out.features * cost < SMALL { 1 } else { usize::MAX };
        self.threads.split(self.n_rows, 1, most, &|_, rows| rows.for_each(&f));
    }
}

/// Additions that take about as long as to wake the other threads.
const SMALL: usize = 16_384;
