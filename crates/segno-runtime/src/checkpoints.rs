//! Which states are kept, where they are taken, and which goes first: the policy of checkpoints.
//!
//! Knows no device: it holds [`Frozen`] states that the executor made of slots and pages, in a [`Tree`] that all
//! conversations share, and decides. A restore takes references; it destroys nothing. What must go from the device goes
//! to the host's memory, where room was planned for it, and from there to a [`Store`], if there is one; where requests
//! end goes there at once. Whatever takes a prompt further comes back.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segno_ir::PAGE_TOKENS;

use crate::executor::{Executor, ExecutorError, Frozen, SequenceId};
use crate::hybrid::{From, HybridPool};
use crate::image::{Image, ImageTable, Key, Made, Precision};
use crate::ram::{Arrived, Meter, Mover};
use crate::store::{Store, Stored};
use crate::tree::{EntryId, Placed, Tree};

/// What is kept between requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckpointMode {
    /// Only where the last requests ended: a prompt that begins with all of one goes on from there.
    Off,
    /// A tree of checkpoints, shared by all conversations.
    #[default]
    Tree,
    /// hybrid-cpp's policy: `slots` checkpoints at multiples of `interval`, and one near the prompt's end.
    Hybrid {
        /// Tokens between two checkpoints.
        interval: u32,
        /// How many are kept.
        slots: u32,
    },
}

/// How checkpoints are taken and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// The policy.
    pub mode: CheckpointMode,
    /// Of [`CheckpointMode::Tree`]: takes one at every multiple of this as well; 0: only where it pays most.
    pub interval: u32,
    /// Restores only states whose bits are those of a cold run.
    pub exact: bool,
    /// Of `exact`, where generating gives other bits than reading: reads finished replies again when there is nothing
    /// else to do.
    pub fair_copy: bool,
}

/// Why a checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The end of the first message, or just before it: what most prompts share.
    Head,
    /// Between two messages.
    Border,
    /// Where this prompt parted from an earlier one.
    Fork,
    /// 32 tokens before the prompt's end.
    Tail,
    /// The prompt's end.
    PromptEnd,
    /// The grid, finer towards the end.
    Grid,
    /// A multiple of the given interval.
    Interval,
    /// The last few tokens that were generated.
    Recent,
    /// Every page of a reply.
    Reply,
    /// Where a request ended.
    End,
    /// Where a request gave way to others.
    Parked,
    /// From a file.
    Loaded,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Head => "end of the first message",
            Why::Border => "message border",
            Why::Fork => "fork",
            Why::Tail => "near the prompt's end",
            Why::PromptEnd => "prompt's end",
            Why::Grid => "grid",
            Why::Interval => "interval",
            Why::Recent => "recent token",
            Why::Reply => "in a reply",
            Why::End => "end of a request",
            Why::Parked => "request that gave way",
            Why::Loaded => "file",
        })
    }
}

/// What checkpoints hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// How many there are, on the device or in the host's memory.
    pub count: usize,
    /// How many of them are on the device.
    pub on_device: usize,
    /// Bytes of their recurrent states, and of pages that no running sequence holds.
    pub device_bytes: u64,
    /// Bytes of logits that were kept for those on the device.
    pub host_bytes: u64,
    /// Most bytes that they may hold on the device.
    pub budget: u64,
    /// How many are in the host's memory or on their way there; some are on the device as well.
    pub in_ram: usize,
    /// Bytes of those, and of what leaves from there for the folder.
    pub ram_bytes: u64,
    /// The most that those bytes ever were.
    pub ram_peak: u64,
    /// Most bytes that they may be.
    pub ram_budget: u64,
    /// How many the folder has for this model, and bytes of all its files.
    pub on_disk: (usize, u64),
}

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// On the device.
    #[default]
    Device,
    /// In the host's memory.
    Ram,
    /// In the folder.
    Folder,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Device => "the device",
            Place::Ram => "the host's memory",
            Place::Folder => "the folder",
        })
    }
}

/// Where a prompt went on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Reuse {
    /// Tokens whose state was there.
    pub restored_at: usize,
    /// Of which checkpoint; `None`: from the start.
    pub why: Option<Why>,
    /// Where that was.
    pub place: Place,
    /// How that state was made.
    pub made: Made,
    /// Tokens that the prompt shares with something that is remembered: the first that differs is this one.
    pub common: usize,
    /// Tokens of something remembered go on after them: the prompt parts from it, it does not only continue it.
    pub diverged: bool,
    /// Time that the restore took on the host.
    pub restore_time: Duration,
}

impl Default for Reuse {
    /// From the start.
    fn default() -> Self {
        Reuse {
            restored_at: 0,
            why: None,
            place: Place::Device,
            made: Made::Prefill,
            common: 0,
            diverged: false,
            restore_time: Duration::ZERO,
        }
    }
}

/// A state and what is known about it. It is on the device, in the host's memory or on its way there, or both.
struct Checkpoint {
    frozen: Option<Frozen>,
    ram: Ram,
    why: Why,
    made: Made,
    logits: Option<Arc<[f32]>>,
    pinned: bool,
    hits: u32,
    /// Request in which its path was last used.
    used: u64,
}

/// A checkpoint's copy in the host's memory.
enum Ram {
    None,
    /// On its way, under this number.
    Coming(u64),
    /// `written`: the folder was given it as well.
    Here {
        image: Arc<Image>,
        written: bool,
    },
}

impl Ram {
    fn image(&self) -> Option<&Arc<Image>> {
        match self {
            Ram::Here { image, .. } => Some(image),
            _ => None,
        }
    }
}

/// A state on its way to the host.
struct Leaving {
    number: u64,
    /// The checkpoint whose copy it will be.
    id: Option<EntryId>,
    to_folder: bool,
    keys: Vec<Key>,
    made: Made,
    logits: Option<Arc<[f32]>>,
}

/// States that may be on their way to the folder at once, beside those that stay in the host's memory.
const LEAVING: usize = 4;

/// What a checkpoint's loss costs: whether it is a head, which go last; then tokens per byte.
type Worth = (bool, f64);

fn compare(a: Worth, b: Worth) -> Ordering {
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}

/// A sequence that a prompt goes on with.
pub(crate) struct Admitted {
    pub sequence: SequenceId,
    pub reuse: Reuse,
    /// The logits after the whole prompt, if nothing of it has to be read.
    pub logits: Option<Arc<[f32]>>,
}

/// A position for a checkpoint.
pub(crate) type Planned = (u32, Why);

/// All that is kept.
pub(crate) struct Checkpoints {
    pub options: CheckpointOptions,
    tree: Tree<Checkpoint>,
    hybrid: HybridPool<(Frozen, Made)>,
    store: Option<Arc<Store>>,
    /// Absent where states go nowhere.
    mover: Option<Mover>,
    /// In the order in which they arrive.
    leaving: VecDeque<Leaving>,
    /// How many have left.
    n_left: u64,
    meter: Meter,
    ram_budget: u64,
    /// Longest wait for the device.
    timeout: Duration,
    /// Requests so far.
    clock: u64,
    budget: u64,
    /// Sequences at once: what [`CheckpointMode::Off`] keeps.
    n_sequences: usize,
}

/// Borders near the end that keep a checkpoint each: edits of the last few messages are the commonest.
const ANCHORS: usize = 8;

/// Distance between two checkpoints at a distance `d` before the end: an edit there replays `d` tokens anyway.
fn spacing(d: u32) -> u32 {
    (d / 6).max(PAGE_TOKENS)
}

impl Checkpoints {
    pub fn new(options: CheckpointOptions, store: Option<Arc<Store>>, timeout: Duration, executor: &Executor) -> Self {
        let (interval, slots) = match options.mode {
            CheckpointMode::Hybrid { interval, slots } => (interval.max(1), slots),
            _ => (1, 0),
        };
        // The other modes are the policies of programs without other tiers.
        let tiers = options.mode == CheckpointMode::Tree && (store.is_some() || executor.checkpoint_ram() > 0);
        let mover = tiers.then(|| Mover::start(timeout));
        let mover = mover.transpose().inspect_err(|e| log::warn!("checkpoints stay on the device: {e}")).ok().flatten();
        Checkpoints {
            store: store.filter(|_| mover.is_some()),
            ram_budget: if mover.is_some() { executor.checkpoint_ram() } else { 0 },
            mover,
            leaving: VecDeque::new(),
            n_left: 0,
            meter: Meter::default(),
            timeout,
            options,
            tree: Tree::new(),
            hybrid: HybridPool::new(interval, slots),
            clock: 0,
            budget: executor.checkpoint_bytes(),
            n_sequences: executor.options().n_sequences as usize,
        }
    }

    fn is_hybrid(&self) -> bool {
        matches!(self.options.mode, CheckpointMode::Hybrid { .. })
    }

    /// Whether a state may stand for one that was computed cold.
    fn usable(&self, executor: &Executor, made: Made) -> bool {
        let same_bits = match made {
            Made::Prefill => true,
            Made::Mixed => executor.device().describe().equal_kinds,
            Made::Rounded => false,
        };
        same_bits || !self.options.exact
    }

    /// The position from which a prompt would go on, by what is on the device or in the host's memory.
    pub fn reach(&self, executor: &Executor, keys: &[Key], want_logits: bool) -> u32 {
        self.best(executor, keys, want_logits, false).0.map_or(0, |(_, position)| position)
    }

    /// Whether a sequence of `n` tokens can be made of a checkpoint, where it is or once it is on the device.
    fn can_cut(executor: &Executor, entry: &Checkpoint, n: u32) -> bool {
        match (&entry.frozen, entry.ram.image()) {
            (Some(frozen), _) => executor.can_restore(frozen, n),
            (None, Some(image)) => {
                executor.can_cut(image.keys.len() as u32, image.tables.iter().map(|table| table.first), n)
            }
            (None, None) => executor.is_rewindable(),
        }
    }

    /// The checkpoint that takes a prompt furthest, and how far. `on_device`: of those that are there.
    fn best(
        &self,
        executor: &Executor,
        keys: &[Key],
        want_logits: bool,
        on_device: bool,
    ) -> (Option<(EntryId, u32)>, crate::tree::Match) {
        let found = self.tree.find(keys);
        let length = keys.len() as u32;
        let usable = |entry: &Checkpoint| self.usable(executor, entry.made) && (entry.frozen.is_some() || !on_device);
        let fits = |id: &EntryId| {
            let (entry, position) = (self.tree.get(*id)?, self.tree.position(*id)?);
            let whole = entry.logits.is_some() || !want_logits;
            (usable(entry) && (position < length || whole)).then_some((*id, position))
        };
        let mut best = found.within.iter().rev().find_map(fits);
        // Without recurrent states, the beginning of a longer one does as well.
        let cut = (found.common as u32).min(length - 1);
        for id in found.beyond.iter().chain(found.within.last()) {
            if let Some(entry) = self.tree.get(*id)
                && cut > best.map_or(0, |(_, position)| position)
                && usable(entry)
                && Self::can_cut(executor, entry, cut)
            {
                best = Some((*id, cut));
            }
        }
        (best, found)
    }

    /// A sequence for a prompt, as far along as something is remembered of it. `want_logits`: whether those after the
    /// whole prompt are needed, so that a token must be left to read unless they were kept.
    pub fn admit(
        &mut self,
        executor: &mut Executor,
        keys: &[Key],
        want_logits: bool,
    ) -> Result<Admitted, ExecutorError> {
        let begun = Instant::now();
        self.clock += 1;
        let mut reuse = Reuse::default();
        if self.is_hybrid() {
            for (frozen, _) in self.hybrid.admit(keys) {
                executor.release(frozen);
            }
            let (from, why) = match self.hybrid.from() {
                From::Start => (None, None),
                From::Slot(slot) => (Some(&slot.value), Some(if slot.is_tail { Why::Tail } else { Why::Interval })),
                From::Live(value) => (Some(value), Some(Why::End)),
            };
            let from = from.filter(|(_, made)| self.usable(executor, *made));
            let sequence = match from {
                Some((frozen, made)) => {
                    reuse.restored_at = frozen.n_tokens() as usize;
                    (reuse.why, reuse.made, reuse.common) = (why, *made, reuse.restored_at);
                    executor.restore(frozen, frozen.n_tokens())?
                }
                None => executor.create()?,
            };
            reuse.restore_time = begun.elapsed();
            return Ok(Admitted { sequence, reuse, logits: None });
        }
        let place = self.promote(executor, keys, want_logits);
        let (best, found) = self.best(executor, keys, want_logits, true);
        for id in &found.within {
            if let Some(entry) = self.tree.get_mut(*id) {
                entry.used = self.clock;
            }
        }
        reuse.common = found.common;
        reuse.diverged = found.beyond.is_some();
        let mut logits = None;
        let sequence = match best {
            Some((id, position)) => {
                let length = keys.len() as u32;
                let entry = self.tree.get_mut(id).expect("found above");
                let frozen = entry.frozen.as_ref().expect("found on the device");
                let sequence = executor.restore(frozen, position)?;
                entry.hits += 1;
                entry.used = self.clock;
                reuse.place = place;
                (reuse.restored_at, reuse.why, reuse.made) = (position as usize, Some(entry.why), entry.made);
                logits = entry.logits.clone().filter(|_| position == length);
                sequence
            }
            None => executor.create()?,
        };
        reuse.restore_time = begun.elapsed();
        Ok(Admitted { sequence, reuse, logits })
    }

    /// Brings a state back to the device if a prompt gets a page further with it than without; says from where.
    fn promote(&mut self, executor: &mut Executor, keys: &[Key], want_logits: bool) -> Place {
        let length = keys.len() as u32;
        let whole = |position: u32| position == length && want_logits;
        while let Some(store) = self.store.clone() {
            let here = self.reach(executor, keys, want_logits);
            let further = |position: u32| position >= here + PAGE_TOKENS || (whole(position) && here < length);
            let fits = |s: &Stored| {
                self.usable(executor, made_of(s.made, s.precision))
                    && (!whole(s.position) || s.has_logits)
                    && further(s.position)
            };
            // Without recurrent states, the beginning of a longer one does as well.
            let cut = || store.find_beyond(keys, here + PAGE_TOKENS).filter(|s| self.usable(executor, s.made));
            let found = store.find(keys, fits).or_else(|| executor.is_rewindable().then(cut).flatten());
            let Some(stored) = found else { break };
            // One that cannot be read is not found again.
            let Ok(image) = store.load(stored.id) else { continue };
            match self.import(executor, &image) {
                Ok(()) => return Place::Folder,
                Err(error) => {
                    log::warn!("a checkpoint of {} tokens in the folder is not used: {error}", stored.position);
                    break;
                }
            }
        }
        let here = self.best(executor, keys, want_logits, true).0.map_or(0, |(_, position)| position);
        let Some((id, position)) = self.best(executor, keys, want_logits, false).0 else { return Place::Device };
        if position < here + PAGE_TOKENS && (position == here || !whole(position)) {
            return Place::Device;
        }
        match self.bring(executor, id) {
            Ok(()) => Place::Ram,
            Err(error) => {
                log::warn!("a checkpoint of {position} tokens in the host's memory is not used: {error}");
                Place::Device
            }
        }
    }

    /// Takes a state from outside, for which others make room.
    pub fn import(&mut self, executor: &mut Executor, image: &Image) -> Result<(), ExecutorError> {
        let frozen = self.take_in(executor, image)?;
        let why = if image.logits.is_some() { Why::PromptEnd } else { Why::Loaded };
        let made = made_of(image.made, image.precision);
        let id = self.insert(executor, &image.keys, frozen, (why, made), image.logits.clone());
        self.settle_but(executor, id);
        Ok(())
    }

    /// Brings a checkpoint back from the host's memory.
    fn bring(&mut self, executor: &mut Executor, id: EntryId) -> Result<(), ExecutorError> {
        while self.tree.get(id).is_some_and(|entry| matches!(entry.ram, Ram::Coming(_))) && self.arrive(executor, true)
        {
        }
        let Some(entry) = self.tree.get_mut(id) else { return Err(ExecutorError::Exhausted("such checkpoint")) };
        let Some(image) = entry.ram.image().cloned() else { return Ok(()) };
        // What makes room for it may not be it.
        let pinned = std::mem::replace(&mut entry.pinned, true);
        let frozen = self.take_in(executor, &image);
        if let Some(entry) = self.tree.get_mut(id) {
            entry.pinned = pinned;
            entry.frozen = Some(frozen?);
        }
        self.settle_but(executor, id);
        Ok(())
    }

    fn take_in(&mut self, executor: &mut Executor, image: &Image) -> Result<Frozen, ExecutorError> {
        loop {
            match executor.import(image) {
                Err(ExecutorError::Exhausted(_)) if self.evict(executor) => {}
                other => return other,
            }
        }
    }

    /// As [`settle`](Self::settle); a checkpoint that is wanted now goes after all others.
    fn settle_but(&mut self, executor: &mut Executor, id: EntryId) {
        let mut pin = |to| self.tree.get_mut(id).map(|entry| std::mem::replace(&mut entry.pinned, to));
        let pinned = pin(true).unwrap_or_default();
        self.settle(executor);
        if let Some(entry) = self.tree.get_mut(id) {
            entry.pinned = pinned;
        }
    }

    /// Begins to bring a state to the folder, unless it is there.
    fn leave(&mut self, executor: &mut Executor, id: EntryId) {
        let (Some(store), Some(entry)) = (self.store.clone(), self.tree.get_mut(id)) else { return };
        let (made, has_logits) = (entry.made, entry.logits.is_some());
        match &mut entry.ram {
            Ram::Here { image, written } => {
                *written |= store.save(image.clone());
                return;
            }
            Ram::Coming(number) => {
                let number = *number;
                self.leaving.iter_mut().filter(|l| l.number == number).for_each(|l| l.to_folder = true);
                return;
            }
            Ram::None => {}
        }
        let keys = self.tree.keys(id);
        let there = |l: &Leaving| l.to_folder && l.keys == keys && l.made <= made && l.logits.is_some() >= has_logits;
        if !store.covers(&keys, made, has_logits) && !self.leaving.iter().any(there) {
            self.send(executor, id, None);
            while self.leaving.iter().filter(|l| l.id.is_none()).count() > LEAVING && self.arrive(executor, true) {}
        }
    }

    /// Begins to bring a state from the device to the host's memory, `Some(bytes)` of it beside its pages, or to the
    /// folder.
    fn send(&mut self, executor: &mut Executor, id: EntryId, to_ram: Option<u64>) {
        let keys = self.tree.keys(id);
        let (Some(entry), Some(mover)) = (self.tree.get_mut(id), &self.mover) else { return };
        let Some(frozen) = &entry.frozen else { return };
        self.n_left += 1;
        let (number, made, logits) = (self.n_left, entry.made, entry.logits.clone());
        let export = executor.export(frozen);
        if let Some(bytes) = to_ram {
            self.meter.begin(number, bytes, &export);
            entry.ram = Ram::Coming(number);
        }
        mover.send(number, export);
        let id = to_ram.map(|_| id);
        self.leaving.push_back(Leaving { number, id, to_folder: id.is_none(), keys, made, logits });
    }

    /// Takes the next state that has come to the host, `wait`: or will; false if there is none.
    fn arrive(&mut self, executor: &Executor, wait: bool) -> bool {
        let arrived = match &self.mover {
            Some(mover) if !self.leaving.is_empty() => mover.next(wait),
            _ => return false,
        };
        let (number, arrived): (u64, Arrived) = match arrived {
            Some(arrived) => arrived,
            None if wait => {
                // The mover is gone, and all that was on its way with it.
                let gone = std::mem::take(&mut self.leaving);
                gone.into_iter().for_each(|leaving| self.arrived(executor, leaving, None));
                return false;
            }
            None => return false,
        };
        let Some(at) = self.leaving.iter().position(|l| l.number == number) else { return true };
        let leaving = self.leaving.remove(at).expect("found above");
        let parts = arrived.inspect_err(|error| log::warn!("a checkpoint does not reach the host: {error}"));
        self.arrived(executor, leaving, parts.ok());
        true
    }

    fn arrived(&mut self, executor: &Executor, leaving: Leaving, parts: Option<(Vec<f32>, Vec<ImageTable>)>) {
        let Leaving { number, id, to_folder, keys, made, logits } = leaving;
        let image = parts.map(|(slot, tables)| {
            let fingerprint = executor.fingerprint();
            Arc::new(Image { fingerprint, keys, made, precision: Precision::F32, slot, tables, logits })
        });
        self.meter.end(number, image.as_ref());
        let mut written = false;
        if let (true, Some(store), Some(image)) = (to_folder, &self.store, &image) {
            written = store.save(image.clone());
        }
        // Its checkpoint may be gone meanwhile, or have been read anew.
        let Some(id) = id else { return };
        let Some(entry) = self.tree.get_mut(id).filter(|e| matches!(e.ram, Ram::Coming(n) if n == number)) else {
            return;
        };
        match image {
            Some(image) => entry.ram = Ram::Here { image, written },
            None if entry.frozen.is_some() => entry.ram = Ram::None,
            None => drop(self.tree.remove(id)),
        }
        self.write_ahead();
    }

    /// Takes what has come to the host, without waiting.
    pub fn poll(&mut self, executor: &Executor) {
        while self.arrive(executor, false) {}
    }

    /// Waits until nothing is on its way to the host.
    pub fn settle_leaving(&mut self, executor: &Executor) {
        while self.arrive(executor, true) {}
        self.write_ahead();
    }

    /// Gives the folder what the host's memory will drop next, so that it can be dropped at once.
    fn write_ahead(&mut self) {
        let Some(store) = self.store.clone() else { return };
        while store.is_idle() && self.meter.bytes() > self.ram_budget / 4 * 3 {
            let unwritten = |entry: &Checkpoint| match &entry.ram {
                Ram::Here { image, written: false } if entry.frozen.is_none() => Some(own_bytes(image)),
                _ => None,
            };
            let Some((id, _)) = self.least(unwritten) else { return };
            let Some(Ram::Here { image, written }) = self.tree.get_mut(id).map(|entry| &mut entry.ram) else { return };
            *written = true;
            store.save(image.clone());
        }
    }

    /// Begins to move a checkpoint from the device to the host's memory, if that has or makes room.
    fn move_to_ram(&mut self, executor: &mut Executor, id: EntryId, worth: f64) -> bool {
        let Some(entry) = self.tree.get(id).filter(|_| self.ram_budget > 0) else { return false };
        let Some(frozen) = &entry.frozen else { return false };
        let logits = entry.logits.as_ref().map_or(0, |logits| size_of_val(&logits[..]));
        let own = executor.slot_bytes() + (frozen.n_tokens() as usize * size_of::<Key>() + logits) as u64;
        let pages = executor.pages_of(frozen);
        let new = pages.iter().filter(|(_, copy)| copy.as_ref().is_none_or(|copy| !self.meter.has(copy)));
        let need = own + new.map(|(bytes, _)| bytes).sum::<u64>();
        let worth = (entry.why == Why::Head, worth / need.max(1) as f64);
        // The pages that are there already stay while they are held here.
        let room = self.make_room(need, worth);
        if room {
            self.send(executor, id, Some(own));
        }
        drop(pages);
        room
    }

    /// Makes room for `need` bytes in the host's memory: what is worth less goes, to the folder if it is not there.
    fn make_room(&mut self, need: u64, worth: Worth) -> bool {
        // What the folder's writer holds until it is done.
        let mut writing = 0;
        while need <= self.ram_budget {
            let bytes = self.meter.bytes();
            if bytes + need <= self.ram_budget {
                return true;
            }
            if bytes - writing.min(bytes) + need <= self.ram_budget {
                break;
            }
            // Copies of what is on the device cost nothing.
            let doubles = self.tree.iter().filter(|(_, _, e)| e.frozen.is_some() && e.ram.image().is_some());
            let double = doubles.map(|(id, _, entry)| (entry.used, id)).min().map(|(_, id)| id);
            let in_ram = |entry: &Checkpoint| entry.ram.image().map(|image| own_bytes(image));
            let least = || self.least(in_ram).filter(|(_, least)| compare(*least, worth).is_lt());
            let Some(id) = double.or_else(|| least().map(|(id, _)| id)) else { break };
            writing += self.drop_from_ram(id);
        }
        false
    }

    /// Drops a checkpoint from the host's memory; bytes that the folder's writer holds still.
    fn drop_from_ram(&mut self, id: EntryId) -> u64 {
        let Some(entry) = self.tree.get_mut(id) else { return 0 };
        let Ram::Here { image, .. } = std::mem::replace(&mut entry.ram, Ram::None) else { return 0 };
        if entry.frozen.is_some() {
            return 0;
        }
        let (made, has_logits, bytes) = (entry.made, entry.logits.is_some(), own_bytes(&image));
        self.tree.remove(id);
        match &self.store {
            Some(store) if !store.covers(&image.keys, made, has_logits) && store.save(image) => bytes,
            _ => 0,
        }
    }

    /// The states of a conversation that a file of it should have: its end, the last prompt's with its logits, and the
    /// first message's.
    pub fn images(&mut self, executor: &mut Executor, keys: &[Key]) -> Result<Vec<Image>, ExecutorError> {
        let within = self.tree.find(keys).within;
        let last = |wanted: &dyn Fn(&Checkpoint) -> bool| {
            within.iter().rev().copied().find(|id| self.tree.get(*id).is_some_and(wanted))
        };
        let mut ids = vec![last(&|c| c.why == Why::Head), last(&|c| c.logits.is_some()), last(&|_| true)];
        ids.dedup();
        let mut images = Vec::new();
        for id in ids.into_iter().flatten() {
            while self.tree.get(id).is_some_and(|e| e.frozen.is_none() && matches!(e.ram, Ram::Coming(_)))
                && self.arrive(executor, true)
            {}
            let Some(entry) = self.tree.get(id) else { continue };
            let (keys, made, logits) = (self.tree.keys(id), entry.made, entry.logits.clone());
            let (slot, tables) = match (&entry.frozen, entry.ram.image()) {
                (_, Some(image)) => (image.slot.clone(), image.tables.clone()),
                (Some(frozen), None) => {
                    let export = executor.export(frozen);
                    executor.finish(export, self.timeout)?
                }
                (None, None) => continue,
            };
            let fingerprint = executor.fingerprint();
            images.push(Image { fingerprint, keys, made, precision: Precision::F32, slot, tables, logits });
        }
        Ok(images)
    }

    /// A sequence that goes on from nothing.
    pub fn admit_cold(&mut self, executor: &mut Executor) -> Result<Admitted, ExecutorError> {
        Ok(Admitted { sequence: executor.create()?, reuse: Reuse::default(), logits: None })
    }

    /// Where to take checkpoints while the rest of a prompt of `length` tokens is read from `from` on. `borders`: where
    /// messages begin; `common`: where the prompt parts from what is remembered.
    pub fn plan(
        &self,
        executor: &Executor,
        from: u32,
        length: u32,
        borders: &[u32],
        common: Option<u32>,
    ) -> Vec<Planned> {
        match self.options.mode {
            CheckpointMode::Off => Vec::new(),
            CheckpointMode::Hybrid { .. } => {
                let why = |tail| if tail { Why::Tail } else { Why::Interval };
                self.hybrid.plan(from, length).into_iter().map(|(p, tail)| (p, why(tail))).collect()
            }
            CheckpointMode::Tree => {
                let mut places = match executor.is_rewindable() {
                    true => vec![(length, Why::PromptEnd)],
                    false => places(length, borders, common, self.options.interval),
                };
                places.retain(|p| p.0 > from && p.0 <= length);
                // The nearest to the end first, if there cannot be as many.
                let most = executor.checkpoint_slots().saturating_sub(1).max(1);
                places.drain(..places.len().saturating_sub(most));
                places
            }
        }
    }

    /// Makes room for `n` more checkpoints; says for how many there is.
    pub fn room(&mut self, executor: &mut Executor, n: usize) -> usize {
        while executor.checkpoint_slots_left() < n && self.evict(executor) {}
        executor.checkpoint_slots_left().min(n)
    }

    /// Keeps the state after `keys`.
    pub fn save(
        &mut self,
        executor: &mut Executor,
        keys: &[Key],
        frozen: Frozen,
        (why, made): (Why, Made),
        logits: Option<Arc<[f32]>>,
    ) {
        if self.is_hybrid() {
            let (position, is_tail) = (frozen.n_tokens(), why == Why::Tail);
            if !matches!(why, Why::Tail | Why::Interval) {
                return executor.release(frozen);
            }
            for (frozen, _) in self.hybrid.save(position, is_tail, (frozen, made)) {
                executor.release(frozen);
            }
            return;
        }
        self.insert(executor, keys, frozen, (why, made), logits);
        self.settle(executor);
    }

    fn insert(
        &mut self,
        executor: &mut Executor,
        keys: &[Key],
        frozen: Frozen,
        (why, made): (Why, Made),
        logits: Option<Arc<[f32]>>,
    ) -> EntryId {
        let (ram, used) = (Ram::None, self.clock);
        let checkpoint = Checkpoint { frozen: Some(frozen), ram, why, made, logits, pinned: false, hits: 0, used };
        self.tree.insert(keys, checkpoint).unwrap_or_else(|(id, new)| {
            let old = self.tree.get_mut(id).expect("the tree has just named it");
            let better = new.made < old.made;
            let unused = match better || (new.made == old.made && old.frozen.is_none()) {
                true => std::mem::replace(&mut old.frozen, new.frozen),
                false => new.frozen,
            };
            if better {
                (old.made, old.why, old.ram) = (new.made, new.why, Ram::None);
            }
            if new.logits.is_some() && (better || old.logits.is_none()) {
                (old.logits, old.why) = (new.logits, new.why);
                if old.frozen.is_some() {
                    // The copy in the host's memory has none.
                    old.ram = Ram::None;
                }
            }
            old.used = self.clock;
            unused.into_iter().for_each(|frozen| executor.release(frozen));
            id
        })
    }

    /// A prompt of `length` tokens has been read.
    pub fn prompt_done(&mut self, executor: &mut Executor, length: u32) {
        if self.is_hybrid() {
            for (frozen, _) in self.hybrid.prune(length) {
                executor.release(frozen);
            }
        }
    }

    /// Keeps the state of a sequence that gives way, if there is room, and gives the sequence back.
    pub fn park(&mut self, executor: &mut Executor, keys: &[Key], sequence: SequenceId, made: Made) {
        let n = executor.len(sequence).unwrap_or(0) as usize;
        let frozen = match n > 0 && !self.is_hybrid() && self.room(executor, 1) > 0 {
            true => executor.freeze(sequence).ok(),
            false => None,
        };
        executor.remove(sequence);
        if let Some(frozen) = frozen {
            self.save(executor, &keys[..n], frozen, (Why::Parked, made), None);
        }
    }

    /// A request has ended: keeps the state after all that `sequence` has read of `keys`, and gives the sequence back.
    pub fn end(&mut self, executor: &mut Executor, mut keys: Vec<Key>, sequence: SequenceId, made: Made) {
        let n = executor.len(sequence).unwrap_or(0) as usize;
        let frozen = match n {
            0 => None,
            _ => {
                self.room(executor, 1);
                executor.freeze(sequence).ok()
            }
        };
        executor.remove(sequence);
        let Some(frozen) = frozen else { return };
        if self.is_hybrid() {
            if let Some((frozen, _)) = self.hybrid.end(keys, n, (frozen, made)) {
                executor.release(frozen);
            }
            return;
        }
        keys.truncate(n);
        self.save(executor, &keys, frozen, (Why::End, made), None);
        match self.options.mode {
            CheckpointMode::Off => {
                while self.tree.len() > self.n_sequences {
                    let oldest = self.tree.iter().min_by_key(|(_, _, c)| c.used).map(|(id, _, _)| id);
                    self.drop_entry(executor, oldest);
                }
            }
            _ => self.thin(executor, &keys),
        }
        // What a next run of the program will want first.
        for id in self.tree.find(&keys).within {
            let wanted = |e: &Checkpoint| matches!(e.why, Why::Head | Why::Fork | Why::PromptEnd);
            if self.tree.get(id).is_some_and(wanted) || self.tree.position(id) == Some(n as u32) {
                self.leave(executor, id);
            }
        }
        self.settle(executor);
    }

    /// Drops what a context has outgrown: away from its end, checkpoints need not lie so close.
    fn thin(&mut self, executor: &mut Executor, keys: &[Key]) {
        let length = keys.len() as u32;
        let (mut anchors, mut next, mut prompt_end) = (0, u32::MAX, None);
        let within = self.tree.find(keys).within;
        for (i, &id) in within.iter().enumerate().rev() {
            let (Some(entry), Some(position)) = (self.tree.get(id), self.tree.position(id)) else { continue };
            let previous = i.checked_sub(1).and_then(|i| self.tree.position(within[i])).unwrap_or(0);
            let anchor = matches!(entry.why, Why::Border | Why::Fork | Why::PromptEnd | Why::End | Why::Loaded);
            let keep = entry.pinned
                || matches!(entry.why, Why::Head | Why::Interval)
                || (anchor && anchors < ANCHORS)
                || (entry.why == Why::Recent && position + 2 * PAGE_TOKENS > length)
                || (entry.why == Why::Tail && prompt_end == Some(position + 32))
                || (entry.hits > 0 && entry.used + 4 > self.clock)
                || next == u32::MAX
                || next - previous > 2 * spacing(length - position);
            anchors += usize::from(anchor && keep);
            if entry.why == Why::PromptEnd && prompt_end.is_none() {
                prompt_end = Some(position);
            }
            if keep {
                next = position;
            } else {
                self.drop_entry(executor, Some(id));
            }
        }
    }

    fn drop_entry(&mut self, executor: &mut Executor, id: Option<EntryId>) -> bool {
        let Some(checkpoint) = id.and_then(|id| self.tree.remove(id)) else { return false };
        checkpoint.frozen.into_iter().for_each(|frozen| executor.release(frozen));
        true
    }

    /// Drops what is beyond the budget.
    fn settle(&mut self, executor: &mut Executor) {
        while self.tree.len() > 0 && executor.frozen_bytes() > self.budget && self.evict(executor) {}
    }

    /// Takes the checkpoint from the device whose loss costs least per byte; false if there is none that may go.
    pub fn evict(&mut self, executor: &mut Executor) -> bool {
        if self.is_hybrid() {
            return false;
        }
        let on_device = |entry: &Checkpoint| Some(executor.bytes_of(entry.frozen.as_ref()?).max(1));
        let Some((id, worth)) = self.least(on_device) else { return false };
        let Some(entry) = self.tree.get(id) else { return false };
        let worth = worth.1 * on_device(entry).unwrap_or_default() as f64;
        let stays = !matches!(entry.ram, Ram::None) || self.move_to_ram(executor, id, worth);
        if !stays {
            self.leave(executor, id);
            return self.drop_entry(executor, Some(id));
        }
        let frozen = self.tree.get_mut(id).and_then(|entry| entry.frozen.take());
        frozen.map(|frozen| executor.release(frozen)).is_some()
    }

    /// The checkpoint that is worth least per byte of those that may go and have `bytes`.
    fn least(&self, bytes: impl Fn(&Checkpoint) -> Option<u64>) -> Option<(EntryId, Worth)> {
        let worth = |placed: &Placed| {
            let entry = self.tree.get(placed.id).filter(|entry| !entry.pinned)?;
            let bytes = bytes(entry)? as f64;
            Some((placed.id, (entry.why == Why::Head, worth(placed, entry, self.clock) / bytes)))
        };
        let all = self.tree.placed();
        all.iter().filter_map(worth).min_by(|(i, a), (j, b)| compare(*a, *b).then(i.cmp(j)))
    }

    /// Keeps the checkpoints on the way to `keys` whatever the budget wants dropped, or no longer.
    pub fn pin(&mut self, keys: &[Key], pinned: bool) -> usize {
        let within = self.tree.find(keys).within;
        for id in &within {
            if let Some(entry) = self.tree.get_mut(*id) {
                entry.pinned = pinned;
            }
        }
        within.len()
    }

    /// Sets the budget; it cannot exceed what was planned.
    pub fn set_budget(&mut self, executor: &mut Executor, bytes: u64) {
        self.budget = bytes.min(executor.checkpoint_bytes());
        self.settle(executor);
    }

    /// Sets the budget in the host's memory; it cannot exceed what was planned.
    pub fn set_ram_budget(&mut self, executor: &Executor, bytes: u64) {
        self.settle_leaving(executor);
        self.ram_budget = bytes.min(executor.checkpoint_ram()).min(if self.mover.is_some() { u64::MAX } else { 0 });
        self.make_room(0, (true, f64::INFINITY));
    }

    /// Drops everything but files.
    pub fn clear(&mut self, executor: &mut Executor) {
        let all: Vec<EntryId> = self.tree.iter().map(|(id, _, _)| id).collect();
        for id in all {
            self.drop_entry(executor, Some(id));
        }
        for (frozen, _) in self.hybrid.clear() {
            executor.release(frozen);
        }
    }

    /// Positions of the checkpoints on the way to `keys`, and why they were taken.
    pub fn positions(&self, keys: &[Key]) -> Vec<Planned> {
        if self.is_hybrid() {
            let slots = self.hybrid.slots().iter();
            return slots.map(|s| (s.position, if s.is_tail { Why::Tail } else { Why::Interval })).collect();
        }
        let within = self.tree.find(keys).within.into_iter();
        within.filter_map(|id| Some((self.tree.position(id)?, self.tree.get(id)?.why))).collect()
    }

    pub fn stats(&mut self, executor: &Executor) -> CheckpointStats {
        let all = || self.tree.iter().map(|(_, _, entry)| entry);
        let logits = all().filter(|entry| entry.ram.image().is_none()).filter_map(|entry| entry.logits.as_ref());
        let hybrid = self.hybrid.slots().len();
        CheckpointStats {
            count: self.tree.len() + hybrid,
            on_device: all().filter(|entry| entry.frozen.is_some()).count() + hybrid,
            device_bytes: executor.frozen_bytes(),
            host_bytes: logits.map(|l| l.len() as u64 * 4).sum(),
            budget: self.budget,
            in_ram: all().filter(|entry| !matches!(entry.ram, Ram::None)).count(),
            ram_budget: self.ram_budget,
            on_disk: self.store.as_ref().map_or((0, 0), |store| (store.len(), store.bytes())),
            ram_bytes: self.meter.bytes(),
            ram_peak: self.meter.peak(),
        }
    }
}

/// Bytes that would be free without an image.
fn own_bytes(image: &Image) -> u64 {
    let alone = image.pages().filter(|page| page.is_alone()).map(|page| page.len() as u64);
    image.own_bytes() + alone.sum::<u64>()
}

/// How the rows of a state were made that was stored with some precision.
fn made_of(made: Made, precision: Precision) -> Made {
    if precision == Precision::F32 { made } else { Made::Rounded }
}

/// Tokens that a checkpoint is expected to save: those since the one before it, times the chance that a prompt parts from
/// this path between it and the next. Edits are the likelier the nearer to the end, in inverse proportion, and at the
/// borders of messages; a path is the less likely to be taken again the more requests took others since.
fn worth(placed: &Placed, entry: &Checkpoint, clock: u64) -> f64 {
    let gap = f64::from(placed.position - placed.previous);
    let distance = f64::from(placed.deepest - placed.position + PAGE_TOKENS);
    let here = match entry.why {
        Why::Fork | Why::Head | Why::Border => 4.0,
        Why::End | Why::Parked | Why::PromptEnd | Why::Loaded => 2.0,
        _ => 0.0,
    };
    let span = f64::from(placed.next - placed.position) + f64::from(PAGE_TOKENS) * here + 1.0;
    let age = (clock - entry.used) as f64;
    gap * span / distance * f64::from(1 + entry.hits.min(8)) / (1.0 + age)
}

/// Where checkpoints of a prompt pay: its end, messages near it, the first message, the fork, and a grid that widens with
/// the distance from the end. Ascending.
fn places(length: u32, borders: &[u32], fork: Option<u32>, interval: u32) -> Vec<Planned> {
    let mut chosen: BTreeMap<u32, Why> = BTreeMap::new();
    if interval > 0 {
        let positions = (interval..=length).step_by(interval as usize);
        chosen.extend(positions.map(|p| (p, Why::Interval)));
    }
    if let Some(fork) = fork {
        chosen.insert(fork, Why::Fork);
    }
    let inside: Vec<u32> = borders.iter().copied().filter(|&b| b > 0 && b <= length).collect();
    chosen.extend(inside.iter().rev().take(ANCHORS).map(|&b| (b, Why::Border)));
    if let Some(&head) = inside.first().filter(|_| inside.len() > 1) {
        for back in [0, PAGE_TOKENS, 4 * PAGE_TOKENS] {
            chosen.insert(head.saturating_sub(back), Why::Head);
        }
    }
    chosen.insert(length.saturating_sub(32), Why::Tail);
    chosen.insert(length, Why::PromptEnd);
    let mut candidates: Vec<u32> = (PAGE_TOKENS..length).step_by(PAGE_TOKENS as usize).chain(inside).collect();
    candidates.sort_unstable();
    candidates.dedup();
    let mut next = length;
    for (i, &p) in candidates.iter().enumerate().rev() {
        let wanted = spacing(length - p);
        if let Entry::Vacant(place) = chosen.entry(p) {
            // A border soon before it does as well, and better.
            let mut near = candidates[..i].iter().rev().take_while(|&&b| b + wanted / 2 > p);
            let is_border = borders.contains(&p);
            if next - p < wanted || (!is_border && near.any(|b| borders.contains(b))) {
                continue;
            }
            place.insert(if is_border { Why::Border } else { Why::Grid });
        }
        next = p;
    }
    chosen.remove(&0);
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_close_where_edits_are() {
        let borders: Vec<u32> = (0..60).map(|i| 8000 + i * 117).collect();
        let places = places(15_000, &borders, None, 0);
        assert!(places.len() < 48, "{} places", places.len());
        assert!(places.windows(2).all(|w| w[0].0 < w[1].0));
        // From any position, what is replayed beyond the unavoidable stays small beside it.
        for q in 1..15_000u32 {
            let at = places.iter().rev().find(|p| p.0 <= q).map_or(0, |p| p.0);
            let (extra, d) = (q - at, 15_000 - q);
            assert!(extra <= (2 * PAGE_TOKENS).max(d * 35 / 100), "{extra} more than {d} from {q}");
        }
        // An edit at a recent border replays nothing beyond it.
        assert!(borders.iter().rev().take(ANCHORS).all(|b| places.iter().any(|p| p.0 == *b)));
        assert!(places.contains(&(8000, Why::Head)) && places.contains(&(14_968, Why::Tail)));
        assert_eq!(super::places(5, &[], None, 0), [(5, Why::PromptEnd)]);
        assert_eq!(
            super::places(100, &[], Some(40), 32).iter().map(|p| p.0).collect::<Vec<_>>(),
            [32, 40, 64, 68, 96, 100]
        );
    }
}
