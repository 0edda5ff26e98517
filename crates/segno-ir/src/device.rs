//! What a backend is to the runtime: a device, weights and a pool on it, and programs.
//!
//! All calls on a device take effect in the order in which they are issued, whatever is still
//! under way: what the host has released may be reused by any later call, and a read returns the
//! bytes as of its issue. A backend keeps no policy; it reads some slots and pages, writes others.
//!
//! ```text
//! Device:  weights(source, graph) -> Weights     repacked once, shared by programs
//!          pool(plan) -> Pool                    as many slots and pages as the ledger approved
//!          compile(graph, weights, pool) -> Program
//! Program: forward(step) -> Rows                 rows stay on the device
//!          sample(rows) -> Ticket                ids also stay there, for the next step
//! ```

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::graph::{Graph, Output};
use crate::op::Op;
use crate::sample::SampleRow;
use crate::state::{PoolPlan, StateLayout};
use crate::weight::{WeightDecl, WeightSource};

/// Index of a slot in a pool: all recurrent states of one sequence or snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The state of a sequence without tokens: all zeros, and never written.
    pub const ZERO: SlotId = SlotId(0);
}

/// Index of a page within its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// What one row of a step is.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A token of the vocabulary.
    Token(u32),
    /// The token that an earlier [`Program::sample`] will have drawn.
    Sampled {
        /// [`Ticket::id`].
        ticket: u64,
        /// Index among the rows of that call.
        row: u32,
    },
    /// An embedded row, as `embed` would give it: opaque to everyone but the model.
    Row {
        /// As many as the model's width.
        values: Arc<[f32]>,
        /// Hash of what it stands for (an image, say): its place in keys of states.
        content: u128,
    },
}

/// How a span's rows are computed (design, exactness rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// Known tokens, many at a time.
    Prefill,
    /// One token after the other.
    Decode,
}

/// Pages of one group that a span reads and appends to, in position order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageTable {
    /// Position of the first page's first token, over [`PAGE_TOKENS`](crate::PAGE_TOKENS).
    pub first: u32,
    /// Pages from there on, up to the one that holds the span's last position.
    pub pages: Vec<PageId>,
}

/// Consecutive rows of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// State before the first row.
    pub from: SlotId,
    /// Where the state after the last row goes; differs from `from`.
    pub to: SlotId,
    /// One per group of the pool's layout.
    pub tables: Vec<PageTable>,
    /// Position of the first row.
    pub start: u32,
    /// How the rows are computed.
    pub kind: SpanKind,
    /// The rows.
    pub inputs: Vec<Input>,
    /// Indices of the rows whose outputs are wanted, ascending.
    pub outputs: Vec<u32>,
    /// `(rows, slot)`, ascending: the state after that many rows of this span goes to the slot as well.
    pub snapshots: Vec<(u32, SlotId)>,
}

/// A flag that stops a step under way.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A ragged batch: long spans and single rows of several sequences travel together.
///
/// A step that fails or is cancelled has written at most its `to` slots, its snapshots and page
/// entries from `start` on: nothing that another sequence, or this one's past, can see.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The spans; no two write the same slot, snapshot or page entry.
    pub spans: Vec<Span>,
    /// Checked by the device between ops.
    pub cancel: Cancel,
}

impl Step {
    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.spans.iter().map(|s| s.inputs.len()).sum()
    }

    /// Number of rows whose outputs are wanted.
    pub fn n_outputs(&self) -> usize {
        self.spans.iter().map(|s| s.outputs.len()).sum()
    }

    /// Checks what every backend relies on: sizes within `limits`, a table per group that covers
    /// the span, slots and pages within `plan`, ascending outputs and snapshots.
    pub fn check(&self, plan: &PoolPlan, limits: &ProgramLimits) -> Result<(), DeviceError> {
        let fail = |reason: String| Err(DeviceError::Invalid(reason));
        if self.n_rows() > limits.max_rows
            || self.spans.len() > limits.max_spans
            || self.n_outputs() > limits.max_outputs
        {
            return fail(format!(
                "step of {} rows, {} spans, {} outputs is beyond {limits:?}",
                self.n_rows(),
                self.spans.len(),
                self.n_outputs()
            ));
        }
        for (i, span) in self.spans.iter().enumerate() {
            let n = span.inputs.len() as u32;
            let slots = [span.from, span.to].into_iter().chain(span.snapshots.iter().map(|s| s.1));
            if n == 0 || slots.clone().any(|s| s.0 >= plan.slots) {
                return fail(format!(
                    "span {i} has {n} rows and slots {:?} of {}",
                    slots.collect::<Vec<_>>(),
                    plan.slots
                ));
            }
            let mut written: Vec<SlotId> = slots.skip(1).collect();
            written.sort_unstable();
            if written.contains(&SlotId::ZERO)
                || written.contains(&span.from)
                || written.windows(2).any(|w| w[0] == w[1])
            {
                return fail(format!("span {i} writes slots {written:?} and reads {:?}", span.from));
            }
            let ascending =
                span.outputs.windows(2).all(|w| w[0] < w[1]) && span.snapshots.windows(2).all(|w| w[0].0 < w[1].0);
            let inside = span.outputs.last().is_none_or(|&r| r < n)
                && span.snapshots.last().is_none_or(|s| s.0 <= n)
                && span.snapshots.first().is_none_or(|s| s.0 > 0);
            if !ascending || !inside {
                return fail(format!(
                    "span {i} of {n} rows wants outputs {:?}, snapshots {:?}",
                    span.outputs, span.snapshots
                ));
            }
            if span.tables.len() != plan.layout.groups.len() {
                return fail(format!(
                    "span {i} has {} page tables, expected {}",
                    span.tables.len(),
                    plan.layout.groups.len()
                ));
            }
            for (g, (table, group)) in span.tables.iter().zip(&plan.layout.groups).enumerate() {
                let first_seen = group.window.map_or(0, |w| (span.start + 1).saturating_sub(w));
                let covers = table.first * crate::PAGE_TOKENS <= first_seen
                    && (table.first as usize + table.pages.len()) * crate::PAGE_TOKENS as usize
                        >= (span.start + n) as usize;
                if !covers || table.pages.iter().any(|p| p.0 >= plan.pages[g]) {
                    return fail(format!(
                        "span {i}, rows {}..{}: page table {table:?} of group {g}",
                        span.start,
                        span.start + n
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Outputs of a step, on the device. The last two steps' are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Number of the step.
    pub step: u64,
    /// Rows of each output.
    pub n: u32,
}

/// What a device finishes later.
pub trait Completion<T>: Send {
    /// The result, if it is there; called again only while it was not.
    fn try_take(&mut self) -> Option<Result<T, DeviceError>>;
    /// The result, or [`DeviceError::Timeout`] after that time.
    fn wait(&mut self, timeout: Duration) -> Result<T, DeviceError>;
}

/// A result that may not be there yet.
pub struct Pending<T>(Box<dyn Completion<T>>);

impl<T> Pending<T> {
    /// Wraps a completion.
    pub fn new(completion: impl Completion<T> + 'static) -> Self {
        Pending(Box::new(completion))
    }

    /// The result, if it is there.
    pub fn try_take(&mut self) -> Option<Result<T, DeviceError>> {
        self.0.try_take()
    }

    /// Blocks until it is there.
    pub fn wait(mut self, timeout: Duration) -> Result<T, DeviceError> {
        self.0.wait(timeout)
    }
}

impl<T: Send + 'static> Pending<T> {
    /// A result that is there already.
    pub fn ready(value: T) -> Self {
        Pending::new(Known(Some(Ok(value))))
    }

    /// An error that is known already.
    pub fn failed(error: DeviceError) -> Self {
        Pending::new(Known::<T>(Some(Err(error))))
    }
}

/// A result that is there already.
struct Known<T>(Option<Result<T, DeviceError>>);

impl<T: Send> Completion<T> for Known<T> {
    fn try_take(&mut self) -> Option<Result<T, DeviceError>> {
        self.0.take()
    }

    fn wait(&mut self, _: Duration) -> Result<T, DeviceError> {
        self.0.take().unwrap_or_else(|| Err(DeviceError::Invalid("a result was taken twice".into())))
    }
}

/// One sampled token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// The token.
    pub id: u32,
    /// Whether it, or one before it in this chain of steps, is among the row's stop tokens: later
    /// steps fed by it write nothing that is kept.
    pub done: bool,
}

/// Tokens that are being drawn.
pub struct Ticket {
    /// Names them in [`Input::Sampled`]. The last two tickets' tokens stay on the device.
    pub id: u64,
    /// One per [`SampleRow`].
    pub tokens: Pending<Vec<Sampled>>,
}

/// What went wrong on a device.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DeviceError {
    /// An op that this backend cannot run as asked.
    #[error("{device} cannot run {op}: {reason}")]
    Unsupported {
        /// The device's name.
        device: String,
        /// The op.
        op: String,
        /// Why.
        reason: String,
    },
    /// An allocation failed or is beyond the device's limits.
    #[error("{device} has no room for {bytes} bytes of {purpose}; {hint}")]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        bytes: u64,
        /// What for.
        purpose: String,
        /// What would help.
        hint: String,
    },
    /// The device is gone: driver reset, unplugged. Host-side state is intact.
    #[error("{device} was lost ({reason}); start again, or use --device cpu")]
    Lost {
        /// The device's name.
        device: String,
        /// What the driver said.
        reason: String,
    },
    /// The step was cancelled by its flag.
    #[error("the step was cancelled")]
    Cancelled,
    /// Nothing came within the time.
    #[error("{device} did not answer within {seconds} s")]
    Timeout {
        /// The device's name.
        device: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A call that breaks a rule of this module: a defect in Segno.
    #[error("invalid call: {0}")]
    Invalid(String),
    /// A tensor could not be taken to the device.
    #[error("tensor {name}: {reason}")]
    Weight {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// What kind of device it is; decides what `auto` picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeviceKind {
    /// A GPU with its own memory.
    DiscreteGpu,
    /// A GPU that shares the host's memory.
    IntegratedGpu,
    /// This process's own threads.
    Cpu,
    /// A GPU interface computed by the CPU (lavapipe, WARP): never chosen by itself.
    Software,
    /// The driver does not say.
    Other,
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// As the driver names it.
    pub name: String,
    /// `cpu`, `vulkan`, `metal`, `dx12`.
    pub backend: &'static str,
    /// What kind.
    pub kind: DeviceKind,
    /// Driver and its version, or the SIMD level.
    pub driver: String,
    /// Bytes of memory, if known.
    pub memory_bytes: Option<u64>,
    /// Optional features in use, by name.
    pub features: Vec<String>,
    /// Steps that may be under way at once: 2 where host and device overlap.
    pub steps_in_flight: usize,
    /// Whether rows computed as prefill and as decode have the same bits.
    pub equal_kinds: bool,
    /// Names everything that decides the bits of a result: part of a state's key.
    pub numerics: String,
}

/// Whether a device can run an op on given weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Yes,
    /// It cannot, and why.
    No(String),
}

/// Largest step that a program takes; decides its activation memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramLimits {
    /// Rows in a step.
    pub max_rows: usize,
    /// Spans in a step.
    pub max_spans: usize,
    /// Rows in a step whose outputs are wanted.
    pub max_outputs: usize,
    /// Tokens of the longest sequence.
    pub max_context: u32,
    /// Puts bands of NaN around every activation, fills outputs with NaN before each step and
    /// fails a step that touched a band: for the conformance suite.
    pub guard: bool,
}

/// Bytes that a device would take; the ledger asks before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Weights copied or repacked (not those read from the mapped file).
    pub weight_bytes: u64,
    /// Weights read in place from the mapped file.
    pub mapped_bytes: u64,
    /// Activations, parameters, readback.
    pub activation_bytes: u64,
}

/// A device.
pub trait Device: Send + Sync {
    /// What it says of itself.
    fn describe(&self) -> &Capabilities;

    /// Whether it can run `op` on these weights.
    fn supports(&self, op: &Op, weights: &[WeightDecl]) -> Support;

    /// Rounds a row of the first input as the device does before it enters `op` (8-bit activations beside block
    /// weights, say): what the reference is given for the tight comparison of the conformance suite.
    fn round_input(&self, _op: &Op, _weights: &[WeightDecl], _row: &mut [f32]) {}

    /// What [`weights`](Self::weights) and [`compile`](Self::compile) would allocate.
    fn needs(&self, graph: &Graph, limits: &ProgramLimits) -> Needs;

    /// Brings the weights of `graph` to the device.
    fn weights(&self, source: Arc<dyn WeightSource>, graph: &Graph) -> Result<Arc<dyn Weights>, DeviceError>;

    /// Allocates slots and pages. Slot 0 is zero; the others hold anything.
    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError>;

    /// Makes a program; weights and pool must be this device's.
    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError>;
}

/// Weights on a device.
pub trait Weights: Send + Sync {
    /// For the backend, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// Slots and pages on a device.
pub trait Pool: Send + Sync {
    /// For the backend, to find its own type again.
    fn as_any(&self) -> &dyn Any;

    /// What it was made from.
    fn plan(&self) -> &PoolPlan;

    /// Waits until all that was issued for it is done: steps and copies.
    ///
    /// # Errors
    /// [`DeviceError::Timeout`] if it takes longer, [`DeviceError::Lost`].
    fn finish(&self, timeout: Duration) -> Result<(), DeviceError>;

    /// Copies whole slots, in order with steps.
    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError>;

    /// Copies the first `tokens` entries of pages of a group, in order with steps.
    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], tokens: u32) -> Result<(), DeviceError>;

    /// The floats of a slot, as laid out by the plan.
    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>>;

    /// Fills a slot.
    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError>;

    /// The bytes of a page: for each member, keys `[token, head, d_k]`, then values `[token, head, d_v]`.
    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>>;

    /// Fills a page, in the order of [`read_page`](Self::read_page).
    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Says that nobody will read these again before writing them. A hint: a device for tests
    /// poisons them.
    fn discard(&self, _slots: &[SlotId], _pages: &[(usize, PageId)]) {}
}

/// The layout of a pool, by shorthand.
impl dyn Pool {
    /// Where states lie.
    pub fn layout(&self) -> &StateLayout {
        &self.plan().layout
    }
}

/// A compiled graph over weights and a pool.
pub trait Program: Send {
    /// Issues a step. Results are read through [`read`](Self::read) and [`sample`](Self::sample).
    ///
    /// # Errors
    /// [`DeviceError::Cancelled`] if the flag was seen; any error leaves the pool as [`Step`] says.
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError>;

    /// Draws a token for each of the given rows of a recent step.
    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError>;

    /// Rows `first..first + n` of an output of a recent step, `[n, features]` flat.
    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>>;

    /// What a decode step of one sequence consists of, for benches: `(dispatches or ops, text)`.
    fn profile(&self) -> String {
        String::new()
    }
}
