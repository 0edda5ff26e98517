//! Sequences over a pool: builds steps, issues them, commits or undoes them.

use std::collections::HashMap;
use std::sync::Arc;

use segno_ir::sample::SampleRow;
use segno_ir::{
    Cancel, Device, DeviceError, Graph, Input, KvType, Output, PAGE_TOKENS, PageId, PageTable, Pending, Pool, PoolPlan,
    Program, ProgramLimits, Rows, SlotId, Span, SpanKind, StateLayout, Step, Ticket, WeightSource,
};

use crate::ledger::{Ledger, LedgerError, Tier};
use crate::pages::Counted;

/// What an executor is planned for.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Tokens of the longest sequence.
    pub n_ctx: u32,
    /// Sequences at once, idle ones included.
    pub n_sequences: u32,
    /// Rows in a step, at least [`PAGE_TOKENS`].
    pub max_rows: u32,
    /// Rows in a step whose outputs are wanted, beside one per sequence.
    pub max_outputs: u32,
    /// Type of stored keys.
    pub k_type: KvType,
    /// Type of stored values.
    pub v_type: KvType,
    /// Bytes that may be taken on the device; `None`: what the device says it has, if it does.
    pub memory_limit: Option<u64>,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        ExecutorOptions {
            n_ctx: 4096,
            n_sequences: 1,
            max_rows: 512,
            max_outputs: 0,
            k_type: KvType::F32,
            v_type: KvType::F32,
            memory_limit: None,
        }
    }
}

/// Names a sequence of an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// Rows of one sequence for the next step.
#[derive(Clone, Debug)]
pub struct Work {
    /// Whose.
    pub sequence: SequenceId,
    /// How they are computed.
    pub kind: SpanKind,
    /// The rows.
    pub inputs: Vec<Input>,
    /// Indices of those whose outputs are wanted, ascending.
    pub outputs: Vec<u32>,
}

/// Why something could not be executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The device failed, or the step was cancelled.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The plan does not fit the memory.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A sequence would outgrow the context.
    #[error("the context of {n_ctx} tokens is full: {used} are used and {wanted} more wanted; raise -c")]
    ContextFull {
        /// The planned context.
        n_ctx: u32,
        /// Tokens that the sequence has.
        used: u32,
        /// Rows that were to be added.
        wanted: u32,
    },
    /// No sequence, slot or page is free.
    #[error("no {0} is free; finish another sequence first, or plan for more")]
    Exhausted(&'static str),
    /// A call about a sequence that does not exist.
    #[error("there is no such sequence")]
    UnknownSequence,
    /// Options that cannot work.
    #[error("{0}")]
    Options(String),
}

#[derive(Clone, Debug)]
struct Sequence {
    slot: SlotId,
    tables: Vec<PageTable>,
    /// Rows committed on the host: the position of the next row.
    n: u32,
    /// Those of them in steps that are not confirmed.
    unconfirmed: u32,
}

/// What a step did to a sequence, so that it can be undone.
#[derive(Debug)]
struct Undo {
    sequence: SequenceId,
    slot: SlotId,
    n: u32,
    rows: u32,
    /// Where the pages of each group ended before the step, counted from position 0.
    end_pages: Vec<u32>,
}

/// A step under way. Give it back to [`Executor::confirm`].
#[derive(Debug)]
#[must_use = "a step holds slots until it is confirmed"]
pub struct Issued {
    /// Its outputs: those of the works, in their order.
    pub rows: Rows,
    undo: Vec<Undo>,
}

/// Runs a graph for many sequences.
pub struct Executor {
    device: Arc<dyn Device>,
    pool: Arc<dyn Pool>,
    program: Box<dyn Program>,
    limits: ProgramLimits,
    options: ExecutorOptions,
    slots: Counted,
    pages: Vec<Counted>,
    sequences: HashMap<SequenceId, Sequence>,
    next_id: u64,
    ledger: Ledger,
}

impl Executor {
    /// Plans the memory, asks the ledger, then loads the weights and compiles the program.
    pub fn load(
        device: Arc<dyn Device>,
        graph: &Graph,
        source: Arc<dyn WeightSource>,
        options: ExecutorOptions,
    ) -> Result<Self, ExecutorError> {
        if options.max_rows < PAGE_TOKENS || options.n_ctx == 0 || options.n_sequences == 0 {
            return Err(ExecutorError::Options(format!(
                "a context, a sequence and steps of at least {PAGE_TOKENS} rows are needed, got {options:?}"
            )));
        }
        let in_flight = device.describe().steps_in_flight as u32;
        let layout = StateLayout::new(graph, options.k_type, options.v_type);
        let per_sequence =
            |group: &segno_ir::KvGroup| group.pages_per_sequence(options.n_ctx, options.max_rows + in_flight);
        let plan = PoolPlan {
            // Each sequence has its state, and one that can still be undone for every step under way.
            slots: 1 + options.n_sequences * (1 + in_flight),
            pages: layout.groups.iter().map(|g| options.n_sequences * per_sequence(g)).collect(),
            layout,
        };
        let limits = ProgramLimits {
            max_rows: (options.max_rows + options.n_sequences) as usize,
            max_spans: options.n_sequences as usize,
            max_outputs: (options.max_outputs + options.n_sequences) as usize,
            max_context: options.n_ctx,
            guard: false,
        };

        let mut ledger = Ledger::new(options.memory_limit.or(device.describe().memory_bytes));
        let needs = device.needs(graph, &limits);
        ledger.approve(Tier::Mapped, "weights in place", needs.mapped_bytes, "")?;
        ledger.approve(Tier::Device, "weights", needs.weight_bytes, "use a smaller quantisation or --device cpu")?;
        ledger.approve(Tier::Device, "activations", needs.activation_bytes, "lower the batch size")?;
        let slot_bytes = plan.slots as u64 * plan.layout.slot_bytes() as u64;
        ledger.approve(Tier::Device, "recurrent states", slot_bytes, "use fewer parallel sequences")?;
        ledger.approve(Tier::Device, "keys and values", plan.bytes() - slot_bytes, "lower -c")?;

        let weights = device.weights(source, graph)?;
        let pool = device.pool(&plan)?;
        let program = device.compile(graph, &weights, &pool, &limits)?;
        Ok(Executor {
            slots: Counted::new(plan.slots, 1),
            pages: plan.pages.iter().map(|&n| Counted::new(n, 0)).collect(),
            device,
            pool,
            program,
            limits,
            options,
            sequences: HashMap::new(),
            next_id: 0,
            ledger,
        })
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// What it was planned for.
    pub fn options(&self) -> &ExecutorOptions {
        &self.options
    }

    /// The memory plan.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The slots and pages.
    pub fn pool(&self) -> &dyn Pool {
        &*self.pool
    }

    /// What a step consists of.
    pub fn profile(&self) -> String {
        self.program.profile()
    }

    /// Free slots, and free pages of each group: for tests that look for leaks.
    pub fn free(&self) -> (usize, Vec<usize>) {
        (self.slots.n_free(), self.pages.iter().map(Counted::n_free).collect())
    }

    /// A sequence without tokens.
    pub fn create(&mut self) -> Result<SequenceId, ExecutorError> {
        let tables = vec![PageTable::default(); self.pages.len()];
        self.insert(Sequence { slot: SlotId::ZERO, tables, n: 0, unconfirmed: 0 })
    }

    /// A second sequence with the same past. They share pages until one of them writes.
    pub fn fork(&mut self, id: SequenceId) -> Result<SequenceId, ExecutorError> {
        let sequence = self.sequences.get(&id).ok_or(ExecutorError::UnknownSequence)?.clone();
        let copy = Sequence { unconfirmed: 0, ..sequence };
        let id = self.insert(copy.clone())?;
        if copy.slot != SlotId::ZERO {
            self.slots.share(copy.slot.0);
        }
        for (pages, table) in self.pages.iter_mut().zip(&copy.tables) {
            table.pages.iter().for_each(|p| pages.share(p.0));
        }
        Ok(id)
    }

    fn insert(&mut self, sequence: Sequence) -> Result<SequenceId, ExecutorError> {
        if self.sequences.len() >= self.options.n_sequences as usize {
            return Err(ExecutorError::Exhausted("sequence"));
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, sequence);
        Ok(id)
    }

    /// Tokens of a sequence so far, those of steps under way included.
    pub fn len(&self, id: SequenceId) -> Result<u32, ExecutorError> {
        self.sequences.get(&id).map(|s| s.n).ok_or(ExecutorError::UnknownSequence)
    }

    /// Gives a sequence's slot and pages back. Steps under way must have been confirmed.
    pub fn remove(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.remove(&id) else { return };
        debug_assert_eq!(sequence.unconfirmed, 0, "a step of the sequence is under way");
        self.release_slot(sequence.slot);
        for (group, table) in sequence.tables.into_iter().enumerate() {
            self.release_pages(group, &table.pages);
        }
    }

    fn release_slot(&mut self, slot: SlotId) {
        if slot != SlotId::ZERO && self.slots.release(slot.0) {
            self.pool.discard(&[slot], &[]);
        }
    }

    fn release_pages(&mut self, group: usize, pages: &[PageId]) {
        let freed: Vec<(usize, PageId)> =
            pages.iter().filter(|p| self.pages[group].release(p.0)).map(|&p| (group, p)).collect();
        self.pool.discard(&[], &freed);
    }

    /// Issues a step with these rows, at most one work per sequence.
    ///
    /// # Errors
    /// Every sequence is as it was before.
    pub fn issue(&mut self, works: Vec<Work>, cancel: &Cancel) -> Result<Issued, ExecutorError> {
        let mut undo = Vec::with_capacity(works.len());
        let mut step = Step { spans: Vec::with_capacity(works.len()), cancel: cancel.clone() };
        let mut result = Ok(());
        for work in works {
            match self.prepare(work, &mut undo) {
                Ok(span) => step.spans.push(span),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        match result.and_then(|()| self.program.forward(&step).map_err(ExecutorError::from)) {
            Ok(rows) => Ok(Issued { rows, undo }),
            Err(error) => {
                for entry in undo.into_iter().rev() {
                    self.revert(entry);
                }
                Err(error)
            }
        }
    }

    /// Takes the slot and pages that a work needs, and moves its sequence on.
    fn prepare(&mut self, work: Work, undo: &mut Vec<Undo>) -> Result<Span, ExecutorError> {
        let rows = work.inputs.len() as u32;
        let sequence = self.sequences.get(&work.sequence).ok_or(ExecutorError::UnknownSequence)?;
        let (start, from) = (sequence.n, sequence.slot);
        if start + rows > self.options.n_ctx {
            return Err(ExecutorError::ContextFull { n_ctx: self.options.n_ctx, used: start, wanted: rows });
        }
        if undo.iter().any(|u| u.sequence == work.sequence) {
            return Err(ExecutorError::Options("a sequence has two works in one step".into()));
        }
        self.own_last_pages(work.sequence)?;
        let to = SlotId(self.slots.take().ok_or(ExecutorError::Exhausted("slot"))?);

        let sequence = self.sequences.get_mut(&work.sequence).expect("looked up above");
        let end_pages = sequence.tables.iter().map(|t| t.first + t.pages.len() as u32).collect();
        sequence.slot = to;
        sequence.n += rows;
        sequence.unconfirmed += rows;
        undo.push(Undo { sequence: work.sequence, slot: from, n: start, rows, end_pages });
        for (pages, table) in self.pages.iter_mut().zip(&mut sequence.tables) {
            while (table.first + table.pages.len() as u32) * PAGE_TOKENS < start + rows {
                table.pages.push(PageId(pages.take().ok_or(ExecutorError::Exhausted("page"))?));
            }
        }
        let tables = sequence.tables.clone();
        Ok(Span {
            from,
            to,
            tables,
            start,
            kind: work.kind,
            inputs: work.inputs,
            outputs: work.outputs,
            snapshots: Vec::new(),
        })
    }

    /// Copies the page that the next row goes into, in each group where another holds it as well.
    fn own_last_pages(&mut self, id: SequenceId) -> Result<(), ExecutorError> {
        let sequence = self.sequences.get_mut(&id).ok_or(ExecutorError::UnknownSequence)?;
        let filled = sequence.n % PAGE_TOKENS;
        if filled == 0 {
            return Ok(());
        }
        for (group, table) in sequence.tables.iter_mut().enumerate() {
            let Some(last) = table.pages.last_mut() else { continue };
            if self.pages[group].is_shared(last.0) {
                let copy = PageId(self.pages[group].take().ok_or(ExecutorError::Exhausted("page"))?);
                self.pool.copy_pages(group, &[(*last, copy)], filled)?;
                self.pages[group].release(last.0);
                *last = copy;
            }
        }
        Ok(())
    }

    fn revert(&mut self, undo: Undo) {
        let Some(sequence) = self.sequences.get_mut(&undo.sequence) else { return };
        let written = std::mem::replace(&mut sequence.slot, undo.slot);
        sequence.unconfirmed -= undo.rows;
        sequence.n = undo.n;
        let tables = sequence.tables.iter_mut().zip(&undo.end_pages);
        let dropped: Vec<Vec<PageId>> = tables.map(|(t, &end)| t.pages.split_off((end - t.first) as usize)).collect();
        self.release_slot(written);
        for (group, pages) in dropped.iter().enumerate() {
            self.release_pages(group, pages);
        }
    }

    /// Takes a step back for one sequence, which must not have been in a later one.
    pub fn undo(&mut self, issued: &mut Issued, id: SequenceId) {
        if let Some(i) = issued.undo.iter().position(|u| u.sequence == id) {
            let entry = issued.undo.remove(i);
            self.revert(entry);
        }
    }

    /// Ends a step: what it could be undone to is given back, and pages that no window sees any more.
    pub fn confirm(&mut self, issued: Issued) {
        for undo in issued.undo {
            self.release_slot(undo.slot);
            let Some(sequence) = self.sequences.get_mut(&undo.sequence) else { continue };
            sequence.unconfirmed -= undo.rows;
            let next = sequence.n - sequence.unconfirmed;
            let groups = self.pool.plan().layout.groups.iter().zip(&mut sequence.tables);
            let unseen: Vec<Vec<PageId>> = groups
                .map(|(group, table)| {
                    let first_seen = group.window.map_or(0, |w| (next + 1).saturating_sub(w));
                    let gone = (first_seen / PAGE_TOKENS - table.first).min(table.pages.len() as u32);
                    table.first += gone;
                    table.pages.drain(..gone as usize).collect()
                })
                .collect();
            for (group, pages) in unseen.iter().enumerate() {
                self.release_pages(group, pages);
            }
        }
    }

    /// Draws a token for each of the given rows.
    pub fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, ExecutorError> {
        Ok(self.program.sample(rows, requests)?)
    }

    /// Rows of an output of a recent step.
    pub fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        self.program.read(rows, output, first, n)
    }

    /// Largest number of rows in a step.
    pub fn max_rows(&self) -> usize {
        self.limits.max_rows
    }
}
