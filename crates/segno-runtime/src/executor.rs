//! Sequences over a pool: builds steps, issues them, commits or undoes them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use segno_ir::sample::SampleRow;
use segno_ir::{
    Cancel, Device, DeviceError, Graph, Input, KvType, Output, PAGE_TOKENS, PageId, PageTable, Pending, Pool, PoolPlan,
    Program, ProgramLimits, Rows, SlotId, Span, SpanKind, StateLayout, Step, Ticket, WeightSource,
};

use crate::image::{Coming, Fingerprint, Image, ImageError, ImageTable, Page, WeakPage};
use crate::ledger::{Ledger, LedgerError, Tier};
use crate::pages::{Counted, Pages};

/// What an executor is planned for.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Tokens of the longest sequence.
    pub n_ctx: u32,
    /// Sequences at once, idle ones included.
    pub n_sequences: u32,
    /// Tokens whose keys and values all sequences have room for together, at least a whole context's; `None`: as many
    /// contexts as sequences. With fewer, the [`Engine`](crate::Engine) parks requests when pages run out.
    pub shared_tokens: Option<u32>,
    /// Rows in a step, at least [`PAGE_TOKENS`].
    pub max_rows: u32,
    /// Rows in a step whose outputs are wanted, beside one per sequence.
    pub max_outputs: u32,
    /// Type of stored keys.
    pub k_type: KvType,
    /// Type of stored values.
    pub v_type: KvType,
    /// Bytes that checkpoints may hold beside the sequences; `None`: two contexts' pages and 48 slots for each, but at
    /// most a quarter of what is left of the device's memory, or 1 GiB if that is unknown.
    pub checkpoint_bytes: Option<u64>,
    /// At least so many of them have a slot, whatever the bytes.
    pub checkpoint_slots: u32,
    /// Bytes of the host's memory for checkpoints that the device has no room for.
    pub checkpoint_ram: u64,
    /// Bytes that may be taken on the device; `None`: what the device says it has, if it does.
    pub memory_limit: Option<u64>,
    /// Bytes that may be taken of the host's memory; `None`: no limit is known.
    pub host_limit: Option<u64>,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        ExecutorOptions {
            n_ctx: 4096,
            n_sequences: 1,
            shared_tokens: None,
            max_rows: 512,
            max_outputs: 0,
            k_type: KvType::F32,
            v_type: KvType::F32,
            checkpoint_bytes: None,
            checkpoint_slots: 0,
            checkpoint_ram: 0,
            memory_limit: None,
            host_limit: None,
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
    /// Numbers of rows, ascending, after which the state is frozen: see [`Executor::confirm`].
    pub snapshots: Vec<u32>,
}

/// The state of a sequence after some number of tokens: references to a slot and to pages. It is not written while it
/// is held; give it back to [`Executor::release`].
#[derive(Debug)]
#[must_use = "it holds a slot and pages until it is released"]
pub struct Frozen {
    slot: SlotId,
    tables: Vec<PageTable>,
    n: u32,
}

impl Frozen {
    /// Tokens read.
    pub fn n_tokens(&self) -> u32 {
        self.n
    }
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
    /// A state from a file that is not for this model, or damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The bytes of a frozen state on their way to the host: see [`Executor::export`].
#[must_use = "it is finished by Executor::finish"]
pub struct Export {
    slot: Pending<Vec<f32>>,
    /// What the slot's was, once it has come.
    floats: Option<Result<Vec<f32>, DeviceError>>,
    tables: Vec<(u32, Vec<Coming>)>,
}

impl Export {
    /// The pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = &Coming> {
        self.tables.iter().flat_map(|(_, pages)| pages)
    }

    /// Whether there is nothing left to wait for.
    pub(crate) fn is_here(&mut self) -> bool {
        if self.floats.is_none() {
            self.floats = self.slot.try_take();
        }
        self.floats.is_some() && self.pages().all(Coming::is_here)
    }

    /// Waits for the recurrent states, and the pages of each group.
    pub(crate) fn wait(self, timeout: Duration) -> Result<(Vec<f32>, Vec<ImageTable>), DeviceError> {
        let slot = match self.floats {
            Some(floats) => floats?,
            None => self.slot.wait(timeout)?,
        };
        let table = |(first, pages): (u32, Vec<Coming>)| {
            let pages: Result<_, _> = pages.into_iter().map(|page| page.wait(timeout)).collect();
            pages.map(|pages| ImageTable { first, pages })
        };
        Ok((slot, self.tables.into_iter().map(table).collect::<Result<_, _>>()?))
    }
}

/// Full pages of the device whose bytes are also on the host: neither read twice nor written twice.
#[derive(Default)]
struct Copies {
    /// The copy of each, and the hash under which it is found.
    of: HashMap<(usize, PageId), (WeakPage, Option<u128>)>,
    /// By address of the copy.
    at: HashMap<(usize, usize), PageId>,
    /// By hash, of those that came from the host.
    named: HashMap<(usize, u128), PageId>,
}

impl Copies {
    fn add(&mut self, group: usize, id: PageId, page: WeakPage, hash: Option<u128>) {
        self.forget(group, id);
        self.at.insert((group, page.address()), id);
        hash.and_then(|hash| self.named.insert((group, hash), id));
        self.of.insert((group, id), (page, hash));
    }

    /// The copy of a page of the device.
    fn of(&self, group: usize, id: PageId) -> Option<Coming> {
        self.of.get(&(group, id)).and_then(|(page, _)| page.upgrade())
    }

    /// The page of the device that has these bytes.
    fn find(&self, group: usize, page: &Page) -> Option<PageId> {
        let named = || self.named.get(&(group, page.known_hash()?));
        self.at.get(&(group, page.downgrade().address())).or_else(named).copied()
    }

    /// The page changes, or is free.
    fn forget(&mut self, group: usize, id: PageId) {
        let Some((page, hash)) = self.of.remove(&(group, id)) else { return };
        // Another page may have the same bytes.
        let at = (group, page.address());
        if self.at.get(&at) == Some(&id) {
            self.at.remove(&at);
        }
        if let Some(named) = hash.map(|hash| (group, hash)).filter(|named| self.named.get(named) == Some(&id)) {
            self.named.remove(&named);
        }
    }
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
    /// What the step freezes.
    frozen: Vec<Frozen>,
}

/// A step under way. Give it back to [`Executor::confirm`].
#[derive(Debug)]
#[must_use = "a step holds slots until it is confirmed"]
pub struct Issued {
    /// Its outputs: those of the works, in their order.
    pub rows: Rows,
    undo: Vec<Undo>,
}

/// The first position that a query at `position` sees.
fn first_seen(window: Option<u32>, position: u32) -> u32 {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}

/// The part of a page table that a sequence of `n` tokens needs.
fn seen(table: &PageTable, window: Option<u32>, n: u32) -> PageTable {
    let first = (first_seen(window, n) / PAGE_TOKENS).max(table.first);
    let end = n.div_ceil(PAGE_TOKENS).max(first);
    PageTable { first, pages: table.pages[(first - table.first) as usize..(end - table.first) as usize].to_vec() }
}

/// The ledger's line of [`ExecutorOptions::checkpoint_ram`].
const CHECKPOINT_RAM: &str = "checkpoints beside the device";

/// Slots and pages for checkpoints, beside those of the sequences.
struct CheckpointRoom {
    slots: u32,
    pages: Vec<u32>,
}

fn numerics(device: &dyn Device, k_type: KvType, v_type: KvType) -> String {
    format!("{}/k {}/v {}", device.describe().numerics, k_type.name(), v_type.name())
}

impl CheckpointRoom {
    /// Slots for each context's worth of pages: what the keeping rule leaves of a long conversation.
    const SLOTS_PER_CONTEXT: u64 = 48;
    /// Most bytes that are planned unasked where nobody says how much memory there is.
    const UNKNOWN: u64 = 1 << 30;

    /// Divides the budget between slots and pages as conversations of `n_ctx` tokens need them.
    /// `left`: bytes that nothing else has been planned for, if known; unasked, a quarter of them is the most.
    fn plan(layout: &StateLayout, options: &ExecutorOptions, left: Option<u64>) -> Self {
        let of_context = |g: &segno_ir::KvGroup| {
            let seen = g.window.map_or(u64::MAX, |w| u64::from(w.div_ceil(PAGE_TOKENS) + 1) * Self::SLOTS_PER_CONTEXT);
            seen.min(u64::from(options.n_ctx.div_ceil(PAGE_TOKENS)))
        };
        let pages: u64 = layout.groups.iter().map(|g| of_context(g) * g.page_bytes as u64).sum();
        let each = (pages + Self::SLOTS_PER_CONTEXT * layout.slot_bytes() as u64).max(1);
        let most = left.map_or(Self::UNKNOWN, |left| left / 4);
        let budget = options.checkpoint_bytes.unwrap_or((each * 2).min(most));
        let share = |n: u64| u32::try_from(u128::from(n) * u128::from(budget) / u128::from(each)).unwrap_or(u32::MAX);
        // Without recurrent states a slot costs nothing.
        let slots = if layout.slot_floats == 0 { 1 << 16 } else { share(Self::SLOTS_PER_CONTEXT) };
        let slots = slots.max(options.checkpoint_slots);
        CheckpointRoom { slots, pages: layout.groups.iter().map(|g| share(of_context(g))).collect() }
    }

    fn bytes(&self, layout: &StateLayout) -> u64 {
        let pages = layout.groups.iter().zip(&self.pages).map(|(g, &n)| g.page_bytes as u64 * u64::from(n));
        u64::from(self.slots) * layout.slot_bytes() as u64 + pages.sum::<u64>()
    }
}

/// Runs a graph for many sequences.
pub struct Executor {
    device: Arc<dyn Device>,
    pool: Arc<dyn Pool>,
    program: Box<dyn Program>,
    limits: ProgramLimits,
    options: ExecutorOptions,
    slots: Counted,
    pages: Vec<Pages>,
    /// Slots that may be frozen.
    checkpoint_slots: u32,
    sequences: HashMap<SequenceId, Sequence>,
    next_id: u64,
    ledger: Ledger,
    n_embd: usize,
    n_logits: usize,
    fingerprint: Fingerprint,
    copies: Copies,
    /// See [`Executor::sabotage`].
    sabotaged: bool,
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
        layout.check().map_err(ExecutorError::Options)?;
        let per_sequence =
            |group: &segno_ir::KvGroup| group.pages_per_sequence(options.n_ctx, options.max_rows + in_flight);
        let all_sequences = |group: &segno_ir::KvGroup| match (options.shared_tokens, group.window) {
            (Some(tokens), None) => (tokens.div_ceil(PAGE_TOKENS) + options.n_sequences)
                .clamp(per_sequence(group), options.n_sequences * per_sequence(group)),
            _ => options.n_sequences * per_sequence(group),
        };
        let mut plan = PoolPlan {
            // Each sequence has its state, and one that can still be undone for every step under way.
            slots: 1 + options.n_sequences * (1 + in_flight),
            pages: layout.groups.iter().map(all_sequences).collect(),
            layout,
        };
        let limits = ProgramLimits {
            max_rows: (options.max_rows + options.n_sequences) as usize,
            max_spans: options.n_sequences as usize,
            max_outputs: (options.max_outputs + options.n_sequences) as usize,
            max_context: options.n_ctx,
            guard: false,
        };

        let memory = options.memory_limit.or(device.describe().memory_bytes);
        let mut ledger = Ledger::new(memory, options.host_limit);
        let needs = device.needs(graph, &limits);
        ledger.approve(Tier::Mapped, "weights in place", needs.mapped_bytes, "")?;
        ledger.approve(Tier::Device, "weights", needs.weight_bytes, "use a smaller quantisation or --device cpu")?;
        ledger.approve(Tier::Device, "activations", needs.activation_bytes, "lower the batch size")?;
        let slot_bytes = u64::from(plan.slots) * plan.layout.slot_bytes() as u64;
        ledger.approve(Tier::Device, "recurrent states", slot_bytes, "use fewer parallel sequences")?;
        ledger.approve(
            Tier::Device,
            "keys and values",
            plan.bytes() - slot_bytes,
            "lower -c, or set -ctk and -ctv q8_0",
        )?;
        let left = memory.map(|memory| memory - ledger.total(Tier::Device));
        let room = CheckpointRoom::plan(&plan.layout, &options, left);
        ledger.approve(Tier::Device, "checkpoints", room.bytes(&plan.layout), "lower --checkpoint-budget")?;
        ledger.approve(Tier::Host, CHECKPOINT_RAM, options.checkpoint_ram, "lower --checkpoint-ram")?;
        plan.slots += room.slots;
        plan.pages.iter_mut().zip(&room.pages).for_each(|(pages, frozen)| *pages += frozen);

        let fingerprint = Fingerprint::of(graph, &*source, &numerics(&*device, options.k_type, options.v_type));
        let weights = device.weights(source, graph)?;
        let pool = device.pool(&plan)?;
        let program = device.compile(graph, &weights, &pool, &limits)?;
        Ok(Executor {
            slots: Counted::new(plan.slots, 1),
            pages: plan.pages.iter().map(|&n| Pages::new(n)).collect(),
            checkpoint_slots: room.slots,
            device,
            pool,
            program,
            limits,
            options,
            sequences: HashMap::new(),
            next_id: 0,
            ledger,
            n_embd: graph.nodes.first().map_or(0, |node| node.features),
            n_logits: graph.n_tokens(),
            fingerprint,
            copies: Copies::default(),
            sabotaged: false,
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

    /// Names all that decides the bits of a state, beside the model: states made under equal names may stand for each
    /// other. What [`Fingerprint::numerics`](crate::image::Fingerprint::numerics) is the hash of.
    pub fn numerics(&self) -> String {
        let StateLayout { k_type, v_type, .. } = &self.pool.plan().layout;
        numerics(&*self.device, *k_type, *v_type)
    }

    /// The memory plan.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The slots and pages.
    pub fn pool(&self) -> &dyn Pool {
        &*self.pool
    }

    /// Width of the model's rows: numbers of an embedded one.
    pub fn n_embd(&self) -> usize {
        self.n_embd
    }

    /// What a step consists of.
    pub fn profile(&self) -> String {
        self.program.profile()
    }

    /// Free slots, and free pages of each group: for tests that look for leaks.
    pub fn free(&self) -> (usize, Vec<usize>) {
        (self.slots.n_free(), self.pages.iter().map(|p| p.counted.n_free()).collect())
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
            table.pages.iter().for_each(|p| pages.counted.share(p.0));
        }
        Ok(id)
    }

    /// Holds the state of a sequence, none of whose steps is under way.
    pub fn freeze(&mut self, id: SequenceId) -> Result<Frozen, ExecutorError> {
        let sequence = self.sequences.get(&id).ok_or(ExecutorError::UnknownSequence)?;
        debug_assert_eq!(sequence.unconfirmed, 0, "a step of the sequence is under way");
        let (slot, tables, n) = (sequence.slot, sequence.tables.clone(), sequence.n);
        if slot != SlotId::ZERO {
            if self.slots.n_frozen() >= self.checkpoint_slots as usize && !self.slots.is_frozen(slot.0) {
                return Err(ExecutorError::Exhausted("checkpoint"));
            }
            self.slots.share(slot.0);
            self.slots.freeze(slot.0);
        }
        Ok(self.hold(slot, &tables, n))
    }

    /// References to the pages that a sequence with these tables sees after `n` tokens; the slot's is there already.
    fn hold(&mut self, slot: SlotId, tables: &[PageTable], n: u32) -> Frozen {
        let groups = self.pool.plan().layout.groups.iter().zip(&mut self.pages).zip(tables);
        let tables = groups.map(|((group, pages), table)| {
            let table = seen(table, group.window, n);
            for page in &table.pages {
                pages.counted.share(page.0);
                pages.counted.freeze(page.0);
            }
            table
        });
        Frozen { slot, tables: tables.collect(), n }
    }

    /// Whether a sequence of `n` tokens can be made of a frozen state: its own number, or a smaller one if there is
    /// no recurrent state and the pages that such a sequence sees are there.
    pub fn can_restore(&self, frozen: &Frozen, n: u32) -> bool {
        self.can_cut(frozen.n, frozen.tables.iter().map(|table| table.first), n)
    }

    /// As [`can_restore`](Self::can_restore) for a state of `of` tokens whose tables begin with the pages `first`.
    pub(crate) fn can_cut(&self, of: u32, first: impl Iterator<Item = u32>, n: u32) -> bool {
        let layout = &self.pool.plan().layout;
        let covered = |(group, first): (&segno_ir::KvGroup, u32)| first * PAGE_TOKENS <= first_seen(group.window, n);
        n == of || (n < of && layout.recurrent.is_empty() && layout.groups.iter().zip(first).all(covered))
    }

    /// A sequence that goes on from the first `n` tokens of a frozen state, which stays as it is.
    pub fn restore(&mut self, frozen: &Frozen, n: u32) -> Result<SequenceId, ExecutorError> {
        if !self.can_restore(frozen, n) {
            return Err(ExecutorError::Options(format!("a state of {} tokens has none of {n}", frozen.n)));
        }
        let groups = self.pool.plan().layout.groups.iter().zip(&frozen.tables);
        let tables: Vec<PageTable> = groups.map(|(group, table)| seen(table, group.window, n)).collect();
        let off = u32::from(self.sabotaged && n > 1 && !n.is_multiple_of(PAGE_TOKENS) && n % PAGE_TOKENS != 1);
        let id = self.insert(Sequence { slot: frozen.slot, tables: tables.clone(), n: n - off, unconfirmed: 0 })?;
        if frozen.slot != SlotId::ZERO {
            self.slots.share(frozen.slot.0);
        }
        for (pages, table) in self.pages.iter_mut().zip(&tables) {
            table.pages.iter().for_each(|p| pages.counted.share(p.0));
        }
        Ok(id)
    }

    /// Makes every restore believe that it has read a token less: for the test that tests must notice.
    #[doc(hidden)]
    pub fn sabotage(&mut self) {
        self.sabotaged = true;
    }

    /// Of which model states are, and how they are computed here.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> u64 {
        self.pool.layout().slot_bytes() as u64
    }

    /// Begins to bring a frozen state to the host; it may be released meanwhile.
    pub fn export(&mut self, frozen: &Frozen) -> Export {
        let mut tables = Vec::with_capacity(frozen.tables.len());
        for (group, table) in frozen.tables.iter().enumerate() {
            let full = (frozen.n / PAGE_TOKENS).saturating_sub(table.first) as usize;
            let bytes = self.pool.layout().groups[group].page_bytes;
            let pages = table.pages.iter().enumerate().map(|(i, &id)| {
                self.copies.of(group, id).unwrap_or_else(|| {
                    let page = Coming::new(bytes, self.pool.read_page(group, id));
                    if i < full {
                        self.copies.add(group, id, page.downgrade(), None);
                    }
                    page
                })
            });
            tables.push((table.first, pages.collect()));
        }
        Export { slot: self.pool.read_slot(frozen.slot), floats: None, tables }
    }

    /// The pages of a frozen state: bytes, and the copy on the host if there is one.
    pub(crate) fn pages_of(&self, frozen: &Frozen) -> Vec<(u64, Option<Coming>)> {
        let groups = frozen.tables.iter().zip(&self.pool.layout().groups).enumerate();
        let pages = groups.flat_map(|(i, (table, group))| table.pages.iter().map(move |&id| (i, id, group.page_bytes)));
        pages.map(|(group, id, bytes)| (bytes as u64, self.copies.of(group, id))).collect()
    }

    /// Waits for an export: the recurrent states, and the pages of each group.
    pub fn finish(&self, export: Export, timeout: Duration) -> Result<(Vec<f32>, Vec<ImageTable>), DeviceError> {
        export.wait(timeout)
    }

    /// Takes a state from the host. All of it is checked before anything is written; pages that are there already are
    /// shared.
    ///
    /// # Errors
    /// [`ExecutorError::Image`] says why a state is not for this model; [`ExecutorError::Exhausted`] if no slot or page
    /// is free. Nothing is taken then.
    pub fn import(&mut self, image: &Image) -> Result<Frozen, ExecutorError> {
        image.fingerprint.expect(self.fingerprint)?;
        image.check(self.pool.layout(), self.n_logits)?;
        let n = image.keys.len();
        if n > self.options.n_ctx as usize {
            return Err(ExecutorError::ContextFull { n_ctx: self.options.n_ctx, used: 0, wanted: n as u32 });
        }
        if self.checkpoint_slots_left() == 0 {
            return Err(ExecutorError::Exhausted("checkpoint"));
        }
        let slot = SlotId(self.slots.take().ok_or(ExecutorError::Exhausted("slot"))?);
        self.slots.freeze(slot.0);
        let tables = image.tables.iter().map(|t| PageTable { first: t.first, pages: Vec::new() }).collect();
        let mut frozen = Frozen { slot, tables, n: n as u32 };
        match self.fill(&mut frozen, image) {
            Ok(()) => Ok(frozen),
            Err(error) => {
                self.release(frozen);
                Err(error)
            }
        }
    }

    fn fill(&mut self, frozen: &mut Frozen, image: &Image) -> Result<(), ExecutorError> {
        for (group, table) in image.tables.iter().enumerate() {
            for (i, page) in (table.first..).zip(&table.pages) {
                let written = (frozen.n - i * PAGE_TOKENS).min(PAGE_TOKENS);
                let there = self.copies.find(group, page).filter(|_| written == PAGE_TOKENS);
                let id = match there {
                    Some(id) => {
                        self.pages[group].counted.share(id.0);
                        id
                    }
                    None => PageId(self.pages[group].take(written).ok_or(ExecutorError::Exhausted("page"))?),
                };
                self.pages[group].counted.freeze(id.0);
                frozen.tables[group].pages.push(id);
                if there.is_none() {
                    self.pool.write_page(group, id, page)?;
                    if written == PAGE_TOKENS {
                        self.copies.add(group, id, page.downgrade(), page.known_hash());
                    }
                }
            }
        }
        Ok(self.pool.write_slot(frozen.slot, &image.slot)?)
    }

    /// Gives a frozen state's references back.
    pub fn release(&mut self, frozen: Frozen) {
        if frozen.slot != SlotId::ZERO {
            self.slots.thaw(frozen.slot.0);
        }
        self.release_slot(frozen.slot);
        for (group, table) in frozen.tables.into_iter().enumerate() {
            table.pages.iter().for_each(|p| self.pages[group].counted.thaw(p.0));
            self.release_pages(group, &table.pages);
        }
    }

    /// Bytes of the slots that frozen states hold, and of the pages that nobody else holds.
    pub fn frozen_bytes(&self) -> u64 {
        let layout = &self.pool.plan().layout;
        let pages = self.pages.iter().zip(&layout.groups);
        let pages: u64 = pages.map(|(p, g)| (p.counted.n_only_frozen() * g.page_bytes) as u64).sum();
        (self.slots.n_frozen() * layout.slot_bytes()) as u64 + pages
    }

    /// Bytes that would be free without a frozen state.
    pub fn bytes_of(&self, frozen: &Frozen) -> u64 {
        let layout = &self.pool.plan().layout;
        let slot = if self.slots.references(frozen.slot.0) == 1 { layout.slot_bytes() } else { 0 };
        let groups = layout.groups.iter().zip(&self.pages).zip(&frozen.tables);
        let alone = |((group, pages), table): ((&segno_ir::KvGroup, &Pages), &PageTable)| {
            table.pages.iter().filter(|p| pages.counted.references(p.0) == 1).count() * group.page_bytes
        };
        (slot + groups.map(alone).sum::<usize>()) as u64
    }

    /// Bytes that were planned for checkpoints.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.ledger.bytes("checkpoints")
    }

    /// Bytes of the host's memory that were planned for them.
    pub fn checkpoint_ram(&self) -> u64 {
        self.ledger.bytes(CHECKPOINT_RAM)
    }

    /// States that can be frozen in slots of their own.
    pub fn checkpoint_slots(&self) -> usize {
        self.checkpoint_slots as usize
    }

    /// Whether every position of a frozen state can be restored: there are no recurrent states and no windows.
    pub fn is_rewindable(&self) -> bool {
        let layout = &self.pool.plan().layout;
        layout.recurrent.is_empty() && layout.groups.iter().all(|g| g.window.is_none())
    }

    /// States that can still be frozen in slots of their own.
    pub fn checkpoint_slots_left(&self) -> usize {
        (self.checkpoint_slots as usize).saturating_sub(self.slots.n_frozen())
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
            pages.iter().filter(|p| self.pages[group].counted.release(p.0)).map(|&p| (group, p)).collect();
        freed.iter().for_each(|&(group, page)| self.copies.forget(group, page));
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
        // A snapshot after the last row is the state that the sequence has then anyway.
        let inside = work.snapshots.iter().filter(|&&r| r < rows).count();
        if work.snapshots.len() > self.checkpoint_slots_left() {
            return Err(ExecutorError::Exhausted("checkpoint"));
        }
        self.own_last_pages(work.sequence)?;
        let to = SlotId(self.slots.take().ok_or(ExecutorError::Exhausted("slot"))?);

        let sequence = self.sequences.get_mut(&work.sequence).expect("looked up above");
        let end_pages = sequence.tables.iter().map(|t| t.first + t.pages.len() as u32).collect();
        sequence.slot = to;
        sequence.n += rows;
        sequence.unconfirmed += rows;
        undo.push(Undo { sequence: work.sequence, slot: from, n: start, rows, end_pages, frozen: Vec::new() });
        let end = start + rows;
        for (group, (pages, table)) in self.pages.iter_mut().zip(&mut sequence.tables).enumerate() {
            if !start.is_multiple_of(PAGE_TOKENS)
                && let Some(last) = table.pages.last()
            {
                self.copies.forget(group, *last);
                pages.set_written(last.0, start % PAGE_TOKENS + rows);
            }
            loop {
                let at = (table.first + table.pages.len() as u32) * PAGE_TOKENS;
                if at >= end {
                    break;
                }
                let written = (end - at).min(PAGE_TOKENS);
                table.pages.push(PageId(pages.take(written).ok_or(ExecutorError::Exhausted("page"))?));
            }
        }
        let tables = sequence.tables.clone();
        let mut snapshots = Vec::with_capacity(inside);
        for &after in &work.snapshots {
            let slot = match after == rows {
                true => {
                    self.slots.share(to.0);
                    to
                }
                false => {
                    let slot = SlotId(self.slots.take().ok_or(ExecutorError::Exhausted("slot"))?);
                    snapshots.push((after, slot));
                    slot
                }
            };
            self.slots.freeze(slot.0);
            let frozen = self.hold(slot, &tables, start + after);
            if let Some(undo) = undo.last_mut() {
                undo.frozen.push(frozen);
            }
        }
        Ok(Span { from, to, tables, start, kind: work.kind, inputs: work.inputs, outputs: work.outputs, snapshots })
    }

    /// Copies the page that the next row goes into, in each group where another has written on.
    fn own_last_pages(&mut self, id: SequenceId) -> Result<(), ExecutorError> {
        let sequence = self.sequences.get_mut(&id).ok_or(ExecutorError::UnknownSequence)?;
        let filled = sequence.n % PAGE_TOKENS;
        if filled == 0 {
            return Ok(());
        }
        for (group, table) in sequence.tables.iter_mut().enumerate() {
            let Some(last) = table.pages.last_mut() else { continue };
            let pages = &mut self.pages[group];
            if !pages.may_append(last.0, filled) {
                let copy = PageId(pages.take(filled).ok_or(ExecutorError::Exhausted("page"))?);
                if let Err(error) = self.pool.copy_pages(group, &[(*last, copy)], filled) {
                    pages.counted.release(copy.0);
                    return Err(error.into());
                }
                pages.counted.release(last.0);
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
        let tables = sequence.tables.iter_mut().zip(&undo.end_pages).zip(&mut self.pages);
        let dropped: Vec<Vec<PageId>> = tables
            .map(|((table, &end), pages)| {
                let dropped = table.pages.split_off((end - table.first) as usize);
                // Nobody else can have appended to it meanwhile: the step's rows were counted as written.
                if let (Some(last), 1..) = (table.pages.last(), undo.n % PAGE_TOKENS) {
                    pages.set_written(last.0, undo.n % PAGE_TOKENS);
                }
                dropped
            })
            .collect();
        undo.frozen.into_iter().for_each(|frozen| self.release(frozen));
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

    /// Ends a step: what it could be undone to is given back, and pages that no window sees any more. Returns the
    /// states that it was asked to freeze, in ascending order of each sequence.
    pub fn confirm(&mut self, issued: Issued) -> Vec<(SequenceId, Frozen)> {
        let mut all = Vec::new();
        for undo in issued.undo {
            all.extend(undo.frozen.into_iter().map(|frozen| (undo.sequence, frozen)));
            self.release_slot(undo.slot);
            let Some(sequence) = self.sequences.get_mut(&undo.sequence) else { continue };
            sequence.unconfirmed -= undo.rows;
            let next = sequence.n - sequence.unconfirmed;
            let groups = self.pool.plan().layout.groups.iter().zip(&mut sequence.tables);
            let unseen: Vec<Vec<PageId>> = groups
                .map(|(group, table)| {
                    let seen = first_seen(group.window, next) / PAGE_TOKENS;
                    let gone = (seen - table.first).min(table.pages.len() as u32);
                    table.first += gone;
                    table.pages.drain(..gone as usize).collect()
                })
                .collect();
            for (group, pages) in unseen.iter().enumerate() {
                self.release_pages(group, pages);
            }
        }
        all
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
