//! Which states are kept, where they are taken, and which goes first: the policy of checkpoints.
//!
//! Knows no device: it holds [`Frozen`] states that the executor made of slots and pages, in a [`Tree`] that all
//! conversations share, and decides. A restore takes references; it destroys nothing. What must go, and where requests
//! end, goes to a [`Store`] as well, if there is one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segno_ir::PAGE_TOKENS;

use crate::executor::{Executor, ExecutorError, Export, Frozen, SequenceId};
use crate::hybrid::{From, HybridPool};
use crate::image::{Image, Key, Made, Precision};
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
            Why::Loaded => "file",
        })
    }
}

/// What checkpoints hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// How many there are.
    pub count: usize,
    /// Bytes of their recurrent states, and of pages that no running sequence holds.
    pub device_bytes: u64,
    /// Bytes of logits that were kept on the host.
    pub host_bytes: u64,
    /// Most bytes that they may hold on the device.
    pub budget: u64,
    /// How many the folder has for this model, and bytes of all its files.
    pub on_disk: (usize, u64),
}

/// Where a prompt went on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Reuse {
    /// Tokens whose state was there.
    pub restored_at: usize,
    /// Of which checkpoint; `None`: from the start.
    pub why: Option<Why>,
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
            made: Made::Prefill,
            common: 0,
            diverged: false,
            restore_time: Duration::ZERO,
        }
    }
}

/// A state and what is known about it.
struct Checkpoint {
    frozen: Frozen,
    why: Why,
    made: Made,
    logits: Option<Arc<[f32]>>,
    pinned: bool,
    hits: u32,
    /// Request in which its path was last used.
    used: u64,
}

/// A state on its way to the folder.
struct Leaving {
    export: Export,
    keys: Vec<Key>,
    made: Made,
    logits: Option<Arc<[f32]>>,
}

/// States that may be on their way at once.
const LEAVING: usize = 4;

/// A sequence that a prompt goes on with.
pub(crate) struct Admitted {
    pub sequence: SequenceId,
    pub reuse: Reuse,
    /// The logits after the whole prompt, if nothing of it has to be read.
    pub logits: Option<Arc<[f32]>>,
}

/// A place for a checkpoint.
pub(crate) type Place = (u32, Why);

/// All that is kept.
pub(crate) struct Checkpoints {
    pub options: CheckpointOptions,
    tree: Tree<Checkpoint>,
    hybrid: HybridPool<(Frozen, Made)>,
    store: Option<Arc<Store>>,
    leaving: VecDeque<Leaving>,
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
        Checkpoints {
            // The other modes are the policies of programs without one.
            store: store.filter(|_| options.mode == CheckpointMode::Tree),
            leaving: VecDeque::new(),
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

    /// The position from which a prompt would go on.
    pub fn reach(&self, executor: &Executor, keys: &[Key], want_logits: bool) -> u32 {
        self.best(executor, keys, want_logits).0.map_or(0, |(_, position)| position)
    }

    fn best(
        &self,
        executor: &Executor,
        keys: &[Key],
        want_logits: bool,
    ) -> (Option<(EntryId, u32)>, crate::tree::Match) {
        let found = self.tree.find(keys);
        let length = keys.len() as u32;
        let fits = |id: &EntryId| {
            let (entry, position) = (self.tree.get(*id)?, self.tree.position(*id)?);
            let whole = entry.logits.is_some() || !want_logits;
            (self.usable(executor, entry.made) && (position < length || whole)).then_some((*id, position))
        };
        let mut best = found.within.iter().rev().find_map(fits);
        // Without recurrent states, the beginning of a longer one does as well.
        let cut = (found.common as u32).min(length - 1);
        for id in found.beyond.iter().chain(found.within.last()) {
            if let Some(entry) = self.tree.get(*id)
                && cut > best.map_or(0, |(_, position)| position)
                && self.usable(executor, entry.made)
                && executor.can_restore(&entry.frozen, cut)
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
        self.promote(executor, keys, want_logits);
        let (best, found) = self.best(executor, keys, want_logits);
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
                let sequence = executor.restore(&entry.frozen, position)?;
                entry.hits += 1;
                entry.used = self.clock;
                (reuse.restored_at, reuse.why, reuse.made) = (position as usize, Some(entry.why), entry.made);
                logits = entry.logits.clone().filter(|_| position == length);
                sequence
            }
            None => executor.create()?,
        };
        reuse.restore_time = begun.elapsed();
        Ok(Admitted { sequence, reuse, logits })
    }

    /// Brings a state from the folder if a prompt gets a page further with it than without.
    fn promote(&mut self, executor: &mut Executor, keys: &[Key], want_logits: bool) {
        let Some(store) = self.store.clone() else { return };
        let length = keys.len() as u32;
        loop {
            let here = self.reach(executor, keys, want_logits);
            let fits = |s: &Stored| {
                let whole = s.position == length && want_logits;
                self.usable(executor, made_of(s.made, s.precision))
                    && (!whole || s.has_logits)
                    && (s.position >= here + PAGE_TOKENS || (whole && here < length))
            };
            // Without recurrent states, the beginning of a longer one does as well.
            let cut = || store.find_beyond(keys, here + PAGE_TOKENS).filter(|s| self.usable(executor, s.made));
            let found = store.find(keys, fits).or_else(|| executor.is_rewindable().then(cut).flatten());
            let Some(stored) = found else { return };
            // One that cannot be read is not found again.
            let Ok(image) = store.load(stored.id) else { continue };
            if let Err(error) = self.import(executor, &image) {
                log::warn!("a checkpoint of {} tokens in the folder is not used: {error}", stored.position);
            }
            return;
        }
    }

    /// Takes a state from outside, for which others make room.
    pub fn import(&mut self, executor: &mut Executor, image: &Image) -> Result<(), ExecutorError> {
        let frozen = loop {
            match executor.import(image) {
                Err(ExecutorError::Exhausted(_)) if self.evict(executor) => {}
                other => break other?,
            }
        };
        let why = if image.logits.is_some() { Why::PromptEnd } else { Why::Loaded };
        let made = made_of(image.made, image.precision);
        let id = self.insert(executor, &image.keys, frozen, (why, made), image.logits.clone());
        // It is wanted now; the others go first.
        let mut pin = |to| self.tree.get_mut(id).map(|entry| std::mem::replace(&mut entry.pinned, to));
        let pinned = pin(true).unwrap_or_default();
        self.settle(executor);
        if let Some(entry) = self.tree.get_mut(id) {
            entry.pinned = pinned;
        }
        Ok(())
    }

    /// Begins to bring a state to the folder, unless it is there.
    fn leave(&mut self, executor: &mut Executor, id: EntryId) {
        let (Some(store), Some(entry)) = (&self.store, self.tree.get(id)) else { return };
        let (keys, made, logits) = (self.tree.keys(id), entry.made, entry.logits.clone());
        let there = |l: &Leaving| l.keys == keys && l.made <= made && l.logits.is_some() >= logits.is_some();
        if store.covers(&keys, made, logits.is_some()) || self.leaving.iter().any(there) {
            return;
        }
        let export = executor.export(&entry.frozen);
        self.leaving.push_back(Leaving { export, keys, made, logits });
        self.settle_leaving(executor, LEAVING);
    }

    /// Hands states that have come to the host to the folder's writer, until `most` are still on their way.
    pub fn settle_leaving(&mut self, executor: &mut Executor, most: usize) {
        let Some(store) = self.store.clone() else { return };
        while self.leaving.len() > most
            && let Some(leaving) = self.leaving.pop_front()
        {
            let Leaving { export, keys, made, logits } = leaving;
            match image(executor, export, (keys, made, logits), self.timeout) {
                Ok(image) => {
                    store.save(image);
                }
                Err(error) => log::warn!("a checkpoint does not reach the folder: {error}"),
            }
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
            let Some(entry) = self.tree.get(id) else { continue };
            let export = executor.export(&entry.frozen);
            let about = (self.tree.keys(id), entry.made, entry.logits.clone());
            images.push(image(executor, export, about, self.timeout)?);
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
    ) -> Vec<Place> {
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
        let checkpoint = Checkpoint { frozen, why, made, logits, pinned: false, hits: 0, used: self.clock };
        self.tree.insert(keys, checkpoint).unwrap_or_else(|(id, new)| {
            let old = self.tree.get_mut(id).expect("the tree has just named it");
            let better = new.made < old.made;
            let unused = match better {
                true => std::mem::replace(&mut old.frozen, new.frozen),
                false => new.frozen,
            };
            if better {
                (old.made, old.why) = (new.made, new.why);
            }
            if new.logits.is_some() && (better || old.logits.is_none()) {
                (old.logits, old.why) = (new.logits, new.why);
            }
            old.used = self.clock;
            executor.release(unused);
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
                || (entry.why == Why::Recent && position + PAGE_TOKENS > length)
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
        executor.release(checkpoint.frozen);
        true
    }

    /// Drops what is beyond the budget.
    fn settle(&mut self, executor: &mut Executor) {
        while self.tree.len() > 0 && executor.frozen_bytes() > self.budget && self.evict(executor) {}
    }

    /// Drops the checkpoint whose loss costs least per byte; false if there is none that may go.
    pub fn evict(&mut self, executor: &mut Executor) -> bool {
        if self.is_hybrid() {
            return false;
        }
        let worth = |placed: &Placed| -> Option<(bool, f64)> {
            let entry = self.tree.get(placed.id)?;
            let bytes = executor.bytes_of(&entry.frozen).max(1) as f64;
            Some((entry.why == Why::Head, worth(placed, entry, self.clock) / bytes))
        };
        let all = self.tree.placed();
        let loose = all.iter().filter(|p| self.tree.get(p.id).is_some_and(|entry| !entry.pinned));
        let least = loose
            .filter_map(|p| Some((worth(p)?, p.id)))
            .min_by(|(a, i), (b, j)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(i.cmp(j)));
        let least = least.map(|(_, id)| id);
        if let Some(id) = least {
            self.leave(executor, id);
        }
        self.drop_entry(executor, least)
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
    pub fn positions(&self, keys: &[Key]) -> Vec<Place> {
        if self.is_hybrid() {
            let slots = self.hybrid.slots().iter();
            return slots.map(|s| (s.position, if s.is_tail { Why::Tail } else { Why::Interval })).collect();
        }
        let within = self.tree.find(keys).within.into_iter();
        within.filter_map(|id| Some((self.tree.position(id)?, self.tree.get(id)?.why))).collect()
    }

    pub fn stats(&self, executor: &Executor) -> CheckpointStats {
        let logits = self.tree.iter().filter_map(|(_, _, c)| c.logits.as_ref()).map(|l| l.len() as u64 * 4);
        CheckpointStats {
            count: self.tree.len() + self.hybrid.slots().len(),
            device_bytes: executor.frozen_bytes(),
            host_bytes: logits.sum(),
            budget: self.budget,
            on_disk: self.store.as_ref().map_or((0, 0), |store| (store.len(), store.bytes())),
        }
    }
}

/// How the rows of a state were made that was stored with some precision.
fn made_of(made: Made, precision: Precision) -> Made {
    if precision == Precision::F32 { made } else { Made::Rounded }
}

/// Waits for a state on its way to the host.
fn image(
    executor: &mut Executor,
    export: Export,
    (keys, made, logits): (Vec<Key>, Made, Option<Arc<[f32]>>),
    timeout: Duration,
) -> Result<Image, ExecutorError> {
    let (slot, tables) = executor.finish(export, timeout)?;
    let fingerprint = executor.fingerprint();
    Ok(Image { fingerprint, keys, made, precision: Precision::F32, slot, tables, logits })
}

/// Tokens that a checkpoint is expected to save: those since the one before it, times the chance that a prompt parts from
/// this path between it and the next. Edits are the likelier the nearer to the end, in inverse proportion.
fn worth(placed: &Placed, entry: &Checkpoint, clock: u64) -> f64 {
    let gap = f64::from(placed.position - placed.previous);
    let distance = f64::from(placed.deepest - placed.position + PAGE_TOKENS);
    let here = match entry.why {
        Why::Fork | Why::End | Why::PromptEnd | Why::Loaded => 2.0,
        Why::Head | Why::Border => 1.0,
        _ => 0.0,
    };
    let span = f64::from(placed.next - placed.position) + f64::from(PAGE_TOKENS) * here + 1.0;
    let age = (clock - entry.used) as f64;
    gap * span / distance * f64::from(1 + entry.hits.min(8)) * (-age / 8.0).exp2()
}

/// Where checkpoints of a prompt pay: its end, messages near it, the first message, the fork, and a grid that widens with
/// the distance from the end. Ascending.
fn places(length: u32, borders: &[u32], fork: Option<u32>, interval: u32) -> Vec<Place> {
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
