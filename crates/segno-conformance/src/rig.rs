//! Runs a built case on a device: prepares slots and pages, issues steps, reads everything back.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use segno_ir::op::attention::KvDims;
use segno_ir::{
    Cancel, Device, DeviceError, Graph, Output, PAGE_TOKENS, PageId, PageTable, Pool, PoolPlan, Program, ProgramLimits,
    Rows, SlotId, Span, SpanKind, StateId, StateLayout, Step, Support,
};

use crate::case::{Before, Case, Sequence};
use crate::random::Random;

/// Longest wait for a result: a software adapter takes its time, a hung one is reported.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A pattern that is NaN as f32 and as f16.
pub(crate) const POISON: u32 = 0x7fd1_7fd1;

const PAGE: usize = PAGE_TOKENS as usize;

/// Why a case did not run.
pub(crate) enum Stop {
    /// The device says that it cannot.
    Unsupported(String),
    /// It said that it can, and failed.
    Failed(String),
    /// It is gone.
    Lost(String),
}

impl From<DeviceError> for Stop {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Unsupported { .. } => Stop::Unsupported(error.to_string()),
            DeviceError::Lost { .. } => Stop::Lost(error.to_string()),
            other => Stop::Failed(other.to_string()),
        }
    }
}

/// Part of a sequence's rows, as one span.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Which sequence.
    pub sequence: usize,
    /// Its rows.
    pub rows: Range<usize>,
    /// How they are computed.
    pub kind: SpanKind,
}

/// What a run left behind.
pub(crate) struct Outcome {
    /// `[probe][sequence]`: rows of outputs, flat.
    pub outputs: Vec<Vec<Vec<f32>>>,
    /// `[sequence]`: the final slot; empty if the graph has no recurrent state.
    pub last: Vec<Vec<f32>>,
    /// `[sequence][snapshot]`; empty where no piece covered it.
    pub snapshots: Vec<Vec<Vec<f32>>>,
    /// `[sequence]`: the slot that was read, after the run.
    pub from: Vec<Vec<f32>>,
    /// `[sequence][page]` of the first and only group; no entry without one.
    pub pages: Vec<Vec<Vec<u8>>>,
    /// Slot 0.
    pub zero: Vec<f32>,
    /// A slot that no span names.
    pub spare_slot: Vec<f32>,
    /// A page that no table names.
    pub spare_page: Vec<u8>,
}

/// Where one key/value state lies within a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    /// The state.
    pub state: StateId,
    /// Byte offset and bytes a token of keys.
    pub k: (usize, usize),
    /// Byte offset and bytes a token of values.
    pub v: (usize, usize),
}

/// Members of a page group, in the order that pages have them.
pub(crate) fn members(graph: &Graph, layout: &StateLayout, group: usize) -> Vec<Member> {
    let mut offset = 0;
    let place = |&state: &StateId| {
        let dims = KvDims::of(&graph.states[state.0 as usize])?;
        let k_bytes = layout.k_type.bytes(dims.n_head_kv * dims.d_k);
        let v_bytes = layout.v_type.bytes(dims.n_head_kv * dims.d_v_stored());
        let k = (offset, k_bytes);
        let v = (offset + PAGE * k_bytes, v_bytes);
        offset = v.0 + PAGE * v_bytes;
        Some(Member { state, k, v })
    };
    layout.groups.get(group).map_or_else(Vec::new, |g| g.members.iter().filter_map(place).collect())
}

/// Slots and pages of a sequence.
struct Places {
    from: SlotId,
    /// Written in turn by the pieces.
    to: [SlotId; 2],
    snapshots: Vec<SlotId>,
    /// Index of the first page that still exists.
    first_page: usize,
    pages: Vec<PageId>,
}

/// A case on a device.
pub(crate) struct Rig<'a> {
    case: &'a Case,
    pool: std::sync::Arc<dyn Pool>,
    program: Box<dyn Program>,
    places: Vec<Places>,
    spare_slot: SlotId,
    spare_page: PageId,
}

impl<'a> Rig<'a> {
    /// Brings weights, pool and program of a case to the device.
    pub fn new(device: &dyn Device, case: &'a Case) -> Result<Self, Stop> {
        for node in &case.graph.nodes {
            if let Support::No(reason) = device.supports(&node.op, &case.graph.weights) {
                return Err(Stop::Unsupported(format!("{}: {reason}", node.op.name())));
            }
        }
        let layout = StateLayout::new(&case.graph, case.kv.0, case.kv.1);
        // Ids are dealt in no order: nothing may rely on neighbours.
        let mut rng = Random::of(&case.graph.to_string());
        let n_slots: usize = case.sequences.iter().map(|s| 3 + s.snapshots.len()).sum::<usize>() + 1;
        let mut slots: Vec<u32> = (1..=n_slots as u32).collect();
        rng.shuffle(&mut slots);
        let window = layout.groups.first().and_then(|g| g.window);
        let first_page = |s: &Sequence| first_seen(window, s.start) as usize / PAGE;
        let n_pages = |s: &Sequence| (s.start as usize + s.inputs.len()).div_ceil(PAGE) - first_page(s);
        let total: usize = case.sequences.iter().map(n_pages).sum::<usize>() + 1;
        let mut pages: Vec<u32> = (0..total as u32).collect();
        rng.shuffle(&mut pages);
        let (mut slots, mut pages) = (slots.into_iter().map(SlotId), pages.into_iter().map(PageId));
        let mut slot = || slots.next().unwrap_or(SlotId::ZERO);
        let mut places = Vec::new();
        for s in &case.sequences {
            let own = slot();
            places.push(Places {
                from: if s.before.is_some() { own } else { SlotId::ZERO },
                to: [slot(), slot()],
                snapshots: s.snapshots.iter().map(|_| slot()).collect(),
                first_page: first_page(s),
                pages: pages.by_ref().take(n_pages(s)).collect(),
            });
        }
        let (spare_slot, spare_page) = (slot(), pages.next().unwrap_or(PageId(0)));
        let plan =
            PoolPlan { slots: n_slots as u32 + 1, pages: layout.groups.iter().map(|_| total as u32).collect(), layout };
        let limits = ProgramLimits {
            max_rows: case.sequences.iter().map(|s| s.inputs.len()).sum(),
            max_spans: case.sequences.len(),
            max_outputs: case.sequences.iter().map(|s| s.outputs.len()).sum(),
            max_context: case.sequences.iter().map(|s| s.start + s.inputs.len() as u32).max().unwrap_or(1),
            guard: true,
        };
        let weights = device.weights(case.source.clone(), &case.graph)?;
        let pool = device.pool(&plan)?;
        let program = device.compile(&case.graph, &weights, &pool, &limits)?;
        Ok(Rig { case, pool, program, places, spare_slot, spare_page })
    }

    /// Where states lie.
    pub fn layout(&self) -> &StateLayout {
        &self.pool.plan().layout
    }

    /// Floats of a recurrent state.
    pub fn recurrent_len(&self, state: StateId) -> usize {
        self.case.graph.states[state.0 as usize].recurrent_len()
    }

    /// Indices of a slot's floats that are part of a state.
    pub fn state_floats(&self) -> impl Iterator<Item = usize> {
        let places = self.layout().recurrent.iter();
        places.flat_map(|&(state, offset)| offset..offset + self.recurrent_len(state))
    }

    /// Index of a sequence's first page.
    pub fn first_page(&self, sequence: usize) -> usize {
        self.places[sequence].first_page
    }

    /// The whole step at once, as the case has it.
    pub fn together(&self) -> Vec<Vec<Piece>> {
        let piece = |(i, s): (usize, &Sequence)| Piece { sequence: i, rows: 0..s.inputs.len(), kind: s.kind };
        vec![self.case.sequences.iter().enumerate().map(piece).collect()]
    }

    /// What the slot of a sequence holds before its first row.
    pub fn slot_before(&self, sequence: usize) -> Vec<f32> {
        let layout = self.layout();
        let Some(before) = &self.case.sequences[sequence].before else { return vec![0.0; layout.slot_floats] };
        let mut values = vec![f32::from_bits(POISON); layout.slot_floats];
        for (state, before) in before.iter().enumerate() {
            if let (Some(offset), Before::Recurrent(floats)) = (layout.offset_of(StateId(state as u32)), before) {
                values[offset..offset + floats.len()].copy_from_slice(floats);
            }
        }
        values
    }

    /// What page `page` (by index within the sequence's own) holds before the run: history, and poison
    /// wherever nothing has been written.
    pub fn page_before(&self, sequence: usize, page: usize) -> Vec<u8> {
        let layout = self.layout();
        let mut bytes = self.poisoned_page();
        let start = self.case.sequences[sequence].start as usize;
        let Some(before) = &self.case.sequences[sequence].before else { return bytes };
        for member in members(&self.case.graph, layout, 0) {
            let Before::KeyValue { k, v } = &before[member.state.0 as usize] else { continue };
            for ((offset, size), values, ty) in [(member.k, k, layout.k_type), (member.v, v, layout.v_type)] {
                let n = values.len() / start.max(1);
                for token in 0..PAGE {
                    let position = (self.places[sequence].first_page + page) * PAGE + token;
                    if position < start {
                        let row = ty.encode(&values[position * n..][..n]);
                        bytes[offset + token * size..][..size].copy_from_slice(&row);
                    }
                }
            }
        }
        bytes
    }

    /// A page that nothing has been written to.
    pub fn poisoned_page(&self) -> Vec<u8> {
        let n = self.layout().groups.first().map_or(0, |g| g.page_bytes);
        POISON.to_le_bytes().into_iter().cycle().take(n).collect()
    }

    fn prepare(&self) -> Result<(), DeviceError> {
        let has_slots = self.layout().slot_floats > 0;
        let poison = vec![f32::from_bits(POISON); self.layout().slot_floats];
        if has_slots {
            self.pool.write_slot(self.spare_slot, &poison)?;
        }
        for (i, places) in self.places.iter().enumerate() {
            if has_slots {
                if places.from != SlotId::ZERO {
                    self.pool.write_slot(places.from, &self.slot_before(i))?;
                }
                for &slot in places.to.iter().chain(&places.snapshots) {
                    self.pool.write_slot(slot, &poison)?;
                }
            }
            if !self.layout().groups.is_empty() {
                for (p, &page) in places.pages.iter().enumerate() {
                    self.pool.write_page(0, page, &self.page_before(i, p))?;
                }
            }
        }
        match self.layout().groups.is_empty() {
            true => Ok(()),
            false => self.pool.write_page(0, self.spare_page, &self.poisoned_page()),
        }
    }

    /// Runs steps from the case's beginning, one by one. A sequence's pieces follow each other in order.
    pub fn run(&mut self, steps: &[Vec<Piece>]) -> Result<Outcome, DeviceError> {
        self.run_steps(steps, 0)
    }

    /// As [`run`](Self::run), but a step's outputs are read after the next step was issued.
    pub fn run_two_under_way(&mut self, steps: &[Vec<Piece>]) -> Result<Outcome, DeviceError> {
        self.run_steps(steps, 1)
    }

    /// Runs steps; outputs are read once `late` more steps have been issued.
    fn run_steps(&mut self, steps: &[Vec<Piece>], late: usize) -> Result<Outcome, DeviceError> {
        self.prepare()?;
        let n = self.case.sequences.len();
        let mut outputs = vec![vec![Vec::new(); n]; self.case.probes.len()];
        let mut done = vec![0; n];
        let mut snapped: Vec<Vec<bool>> = self.case.sequences.iter().map(|s| vec![false; s.snapshots.len()]).collect();
        let mut issued = VecDeque::new();
        for pieces in steps {
            let step = self.step(pieces, &done);
            for piece in pieces {
                done[piece.sequence] += 1;
                let marks = &self.case.sequences[piece.sequence].snapshots;
                for (taken, after) in snapped[piece.sequence].iter_mut().zip(marks) {
                    *taken |= covers(piece, *after);
                }
            }
            let counts: Vec<u32> = step.spans.iter().map(|s| s.outputs.len() as u32).collect();
            let rows = self.program.forward(&step)?;
            if rows.n != counts.iter().sum::<u32>() {
                return Err(DeviceError::Invalid(format!("forward says {} rows, asked for {counts:?}", rows.n)));
            }
            issued.push_back((rows, pieces, counts));
            if issued.len() > late
                && let Some((rows, pieces, counts)) = issued.pop_front()
            {
                self.read(&rows, pieces, &counts, &mut outputs)?;
            }
        }
        for (rows, pieces, counts) in issued {
            self.read(&rows, pieces, &counts, &mut outputs)?;
        }
        self.collect(outputs, &done, &snapped)
    }

    /// Issues the whole step with its cancel flag set. Whether the device saw it, and what it left behind.
    pub fn run_cancelled(&mut self) -> Result<(bool, Outcome), DeviceError> {
        self.prepare()?;
        let n = self.case.sequences.len();
        let step = self.step(&self.together()[0], &vec![0; n]);
        step.cancel.cancel();
        let seen = match self.program.forward(&step) {
            Ok(_) => false,
            Err(DeviceError::Cancelled) => true,
            Err(error) => return Err(error),
        };
        let outputs = vec![vec![Vec::new(); n]; self.case.probes.len()];
        let snapped: Vec<Vec<bool>> = self.case.sequences.iter().map(|s| vec![false; s.snapshots.len()]).collect();
        Ok((seen, self.collect(outputs, &vec![0; n], &snapped)?))
    }

    /// The step of pieces, with how many pieces of each sequence were before.
    fn step(&self, pieces: &[Piece], done: &[usize]) -> Step {
        let spans = pieces.iter().map(|piece| self.span(piece, done[piece.sequence])).collect();
        Step { spans, cancel: Cancel::new() }
    }

    /// Appends a step's outputs to those of its sequences.
    fn read(
        &mut self,
        rows: &Rows,
        pieces: &[Piece],
        counts: &[u32],
        outputs: &mut [Vec<Vec<f32>>],
    ) -> Result<(), DeviceError> {
        for (probe, outputs) in outputs.iter_mut().enumerate() {
            let features = self.case.graph.nodes[self.case.probes[probe].node].features;
            let mut first = 0;
            for (piece, &count) in pieces.iter().zip(counts) {
                if count > 0 {
                    let values = self.program.read(rows, Output::Hidden(probe as u32), first, count).wait(PATIENCE)?;
                    let (found, expected) = (values.len(), count as usize * features);
                    if found != expected {
                        return Err(DeviceError::Invalid(format!("read gave {found} numbers, expected {expected}")));
                    }
                    outputs[piece.sequence].extend(values);
                }
                first += count;
            }
        }
        Ok(())
    }

    fn collect(
        &self,
        outputs: Vec<Vec<Vec<f32>>>,
        done: &[usize],
        snapped: &[Vec<bool>],
    ) -> Result<Outcome, DeviceError> {
        let slot = |slot: SlotId| match self.layout().slot_floats {
            0 => Ok(Vec::new()),
            _ => self.pool.read_slot(slot).wait(PATIENCE),
        };
        let mut outcome = Outcome {
            outputs,
            last: Vec::new(),
            snapshots: Vec::new(),
            from: Vec::new(),
            pages: Vec::new(),
            zero: slot(SlotId::ZERO)?,
            spare_slot: slot(self.spare_slot)?,
            spare_page: Vec::new(),
        };
        for (i, places) in self.places.iter().enumerate() {
            outcome.last.push(match done[i] {
                0 => Vec::new(),
                pieces => slot(places.to[(pieces - 1) % 2])?,
            });
            let snapshot = |(&id, &taken): (&SlotId, &bool)| if taken { slot(id) } else { Ok(Vec::new()) };
            outcome.snapshots.push(places.snapshots.iter().zip(&snapped[i]).map(snapshot).collect::<Result<_, _>>()?);
            outcome.from.push(slot(places.from)?);
            if !self.layout().groups.is_empty() {
                let read = |&page: &PageId| self.pool.read_page(0, page).wait(PATIENCE);
                outcome.pages.push(places.pages.iter().map(read).collect::<Result<_, _>>()?);
            }
        }
        if !self.layout().groups.is_empty() {
            outcome.spare_page = self.pool.read_page(0, self.spare_page).wait(PATIENCE)?;
        }
        Ok(outcome)
    }

    /// The span of a piece, `done` pieces of its sequence before it.
    fn span(&self, piece: &Piece, done: usize) -> Span {
        let (sequence, places) = (&self.case.sequences[piece.sequence], &self.places[piece.sequence]);
        let (from_row, to_row) = (piece.rows.start as u32, piece.rows.end as u32);
        let start = sequence.start + from_row;
        let table = |group: &segno_ir::KvGroup| {
            let first = first_seen(group.window, start) as usize / PAGE;
            let end = (sequence.start + to_row).div_ceil(PAGE_TOKENS) as usize;
            let pages = places.pages[first - places.first_page..end - places.first_page].to_vec();
            PageTable { first: first as u32, pages }
        };
        let snapshots = sequence.snapshots.iter().zip(&places.snapshots).filter(|(after, _)| covers(piece, **after));
        Span {
            from: if done == 0 { places.from } else { places.to[(done - 1) % 2] },
            to: places.to[done % 2],
            tables: self.layout().groups.iter().map(table).collect(),
            start,
            kind: piece.kind,
            inputs: sequence.inputs[piece.rows.clone()].to_vec(),
            outputs: sequence
                .outputs
                .iter()
                .filter(|r| piece.rows.contains(&(**r as usize)))
                .map(|r| r - from_row)
                .collect(),
            snapshots: snapshots.map(|(after, &slot)| (after - from_row, slot)).collect(),
        }
    }
}

/// Whether a snapshot after that many rows of the sequence falls into the piece.
fn covers(piece: &Piece, after: u32) -> bool {
    (piece.rows.start + 1..=piece.rows.end).contains(&(after as usize))
}

fn first_seen(window: Option<u32>, position: u32) -> u32 {
    window.map_or(0, |w| (position + 1).saturating_sub(w))
}
