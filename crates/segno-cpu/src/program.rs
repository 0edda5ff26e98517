//! A compiled graph: memory planned once, a step executed op by op.

use std::collections::VecDeque;
use std::sync::Arc;

use segno_ir::device::Sampled;
use segno_ir::sample::{SampleRow, sample};
use segno_ir::{
    DeviceError, Domain, Graph, Input, Node, Op, Output, PAGE_TOKENS, Pending, Pool, PoolPlan, Program, ProgramLimits,
    Rows, SlotId, StateDecl, Step, Ticket,
};

use crate::context::{Cx, Pages, Row};
use crate::memory::{BAND, Memory};
use crate::op::{self, Run, Setup, Turns};
use crate::plan::{Arena, View};
use crate::pool::{CpuPool, PoolData};
use crate::simd::Kernels;
use crate::simd::quant::{QuantMemory, Rounding};
use crate::threads::Threads;
use crate::weights::CpuWeights;

/// How many steps' outputs, and how many tickets, are kept.
const KEPT: usize = 2;

/// Sizes of a program's memory.
struct Sizes {
    arena: Arena,
    /// Longest row that is rounded in each form.
    rounded: [usize; 2],
    /// Floats of scratch of a thread.
    scratch: usize,
    /// Floats of cosines and sines.
    turns: usize,
}

impl Sizes {
    fn new(graph: &Graph, limits: &ProgramLimits, kernels: &'static Kernels, exact: bool) -> Sizes {
        let mut sizes = Sizes {
            arena: Arena::new(graph, limits),
            rounded: [0; 2],
            scratch: 0,
            turns: Turns::floats(graph, limits.max_rows),
        };
        for node in &graph.nodes {
            let scratch = op::scratch_floats(graph, node, kernels, exact, rounded_rows(limits));
            sizes.scratch = sizes.scratch.max(scratch.next_multiple_of(crate::memory::LINE));
            let weight = match &node.op {
                Op::Linear(linear) => linear.weight,
                Op::ExpertLinear(linear) => linear.weight,
                _ => continue,
            };
            if let Some(rounding) = op::rounding(graph.weights[weight.0 as usize].ty, kernels, exact) {
                let longest = &mut sizes.rounded[rounding.index()];
                *longest = graph.nodes[node.inputs[0].0 as usize].features.max(*longest);
            }
        }
        sizes
    }

    fn rounded_floats(&self, limits: &ProgramLimits, rounding: Rounding) -> [usize; 3] {
        QuantMemory::floats(rounding, rounded_rows(limits), self.rounded[rounding.index()])
    }
}

/// Rows of either domain.
fn rounded_rows(limits: &ProgramLimits) -> usize {
    limits.max_rows.max(limits.max_outputs)
}

/// Bytes that a program allocates.
pub(crate) fn bytes(
    graph: &Graph,
    limits: &ProgramLimits,
    kernels: &'static Kernels,
    exact: bool,
    threads: usize,
) -> u64 {
    let sizes = Sizes::new(graph, limits, kernels, exact);
    let rounded: usize = Rounding::ALL.iter().flat_map(|&r| sizes.rounded_floats(limits, r)).sum();
    4 * (sizes.arena.floats + rounded + sizes.scratch * threads + sizes.turns) as u64
}

/// Outputs of a step that are still there.
struct Kept {
    step: u64,
    rows: usize,
    /// For each output row, whether a token that it was computed from ended its sequence.
    done: Vec<bool>,
}

/// Lists of a step, kept so that their memory is.
#[derive(Default)]
struct Lists {
    rows: Vec<Row>,
    tokens: Vec<Option<u32>>,
    span_starts: Vec<usize>,
    output_rows: Vec<usize>,
    output_done: Vec<bool>,
}

/// A graph compiled for this backend.
pub(crate) struct CpuProgram {
    kernels: &'static Kernels,
    threads: Arc<Threads>,
    nodes: Vec<Node>,
    ops: Vec<Box<dyn Run>>,
    outputs: Vec<(Output, usize)>,
    /// Recurrent states as (offset, floats) of the gap after each in a slot.
    gaps: Vec<(usize, usize)>,
    n_tokens: usize,
    turns: Vec<Turns>,
    pool: Arc<dyn Pool>,
    limits: ProgramLimits,
    plan: Arena,
    arena: Memory,
    rounded: [QuantMemory; 2],
    scratch: Memory,
    scratch_len: usize,
    turn_tables: Memory,
    lists: Lists,
    step: u64,
    ticket: u64,
    kept: VecDeque<Kept>,
    tickets: VecDeque<(u64, Vec<Sampled>)>,
}

impl CpuProgram {
    /// Readies every op and allocates the memory of the largest step.
    pub fn new(
        kernels: &'static Kernels,
        exact: bool,
        threads: Arc<Threads>,
        graph: &Graph,
        weights: &CpuWeights,
        pool: Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Self, DeviceError> {
        let sizes = Sizes::new(graph, limits, kernels, exact);
        let mut setup =
            Setup { graph, weights, plan: pool.plan(), limits, kernels, exact, rounded: [None; 2], turns: Vec::new() };
        let ops = graph.nodes.iter().map(|node| op::prepare(&mut setup, node)).collect::<Result<_, _>>()?;
        let turns = setup.turns;
        let total = bytes(graph, limits, kernels, exact, threads.n());
        let refused = || DeviceError::OutOfMemory {
            device: "CPU".into(),
            bytes: total,
            purpose: "activations".into(),
            hint: "lower the batch size".into(),
        };
        let memory = |floats| Memory::zeroed(floats).ok_or_else(refused);
        let rounded =
            |r: Rounding| QuantMemory::new(r, rounded_rows(limits), sizes.rounded[r.index()]).ok_or_else(refused);
        Ok(CpuProgram {
            kernels,
            nodes: graph.nodes.clone(),
            ops,
            outputs: graph.outputs.iter().map(|&(output, value)| (output, value.0 as usize)).collect(),
            gaps: gaps(graph, pool.plan()),
            n_tokens: graph.n_tokens(),
            turns,
            limits: limits.clone(),
            arena: memory(sizes.arena.floats)?,
            plan: sizes.arena,
            rounded: [rounded(Rounding::Groups32)?, rounded(Rounding::Groups256)?],
            scratch: memory(sizes.scratch * threads.n())?,
            scratch_len: sizes.scratch,
            turn_tables: memory(sizes.turns)?,
            threads,
            pool,
            lists: Lists::default(),
            step: 0,
            ticket: 0,
            kept: VecDeque::new(),
            tickets: VecDeque::new(),
        })
    }

    /// Fills the lists of a step's rows.
    fn list(&mut self, step: &Step) -> Result<(), DeviceError> {
        let Lists { rows, tokens, span_starts, output_rows, output_done } = &mut self.lists;
        rows.clear();
        tokens.clear();
        span_starts.clear();
        output_rows.clear();
        output_done.clear();
        for (i, span) in step.spans.iter().enumerate() {
            let first = rows.len();
            span_starts.push(first);
            let mut done_from = span.inputs.len();
            for (r, input) in span.inputs.iter().enumerate() {
                let token = match *input {
                    Input::Token(id) => Some(id),
                    Input::Row { .. } => None,
                    Input::Sampled { ticket, row } => {
                        let drawn =
                            self.tickets.iter().find(|(t, _)| *t == ticket).and_then(|(_, s)| s.get(row as usize));
                        let unknown = || DeviceError::Invalid(format!("there is no row {row} of ticket {ticket}"));
                        let drawn = drawn.ok_or_else(unknown)?;
                        if drawn.done {
                            done_from = done_from.min(r);
                        }
                        Some(drawn.id)
                    }
                };
                if let Some(id) = token.filter(|&id| id as usize >= self.n_tokens) {
                    return Err(DeviceError::Invalid(format!(
                        "token {id} is outside the vocabulary of {}",
                        self.n_tokens
                    )));
                }
                tokens.push(token);
                rows.push(Row { span: i, position: span.start + r as u32 });
            }
            for &r in &span.outputs {
                output_rows.push(first + r as usize);
                output_done.push(r as usize >= done_from);
            }
        }
        Ok(())
    }

    /// Runs the ops of a step whose lists are filled.
    fn execute(&mut self, step: &Step, data: &mut PoolData, number: u64) -> Result<(), DeviceError> {
        let slot_stride = data.slots.stride();
        let slots = data.slots.memory().shared();
        for span in &step.spans {
            for slot in span.snapshots.iter().map(|s| s.1).chain([span.to]) {
                for &(offset, n) in &self.gaps {
                    // SAFETY: no kernel runs yet.
                    unsafe { slots.get_mut(slot.0 as usize * slot_stride + offset, n) }.fill(0.0);
                }
            }
        }
        let pages = data.groups.iter_mut().map(|group| {
            let stride = group.stride() * 4;
            Pages { bytes: group.memory().shared_bytes(), stride }
        });
        let groups: Vec<Pages<'_>> = pages.collect();
        let turns = self.turn_tables.shared();
        for table in &self.turns {
            table.fill(&self.threads, &self.lists.rows, turns);
        }
        let arena = self.arena.shared();
        let [rounded_32, rounded_256] = &mut self.rounded;
        let rounded = [rounded_32.rows(Rounding::Groups32), rounded_256.rows(Rounding::Groups256)];
        let scratch = self.scratch.shared();
        let mut inputs: Vec<View> = Vec::new();
        for (i, (node, op)) in self.nodes.iter().zip(&self.ops).enumerate() {
            if step.cancel.is_cancelled() {
                return Err(DeviceError::Cancelled);
            }
            if self.limits.guard {
                guard(&self.plan, arena, i, number, Guard::Fill)?;
            }
            inputs.clear();
            inputs.extend(node.inputs.iter().map(|v| self.plan.views[v.0 as usize].at_step(number)));
            let cx = Cx {
                kernels: self.kernels,
                threads: &self.threads,
                step,
                rows: &self.lists.rows,
                tokens: &self.lists.tokens,
                span_starts: &self.lists.span_starts,
                output_rows: &self.lists.output_rows,
                arena,
                n_rows: if node.domain == Domain::Token { self.lists.rows.len() } else { self.lists.output_rows.len() },
                out: self.plan.views[i].at_step(number),
                inputs: &inputs,
                rounded,
                scratch,
                scratch_len: self.scratch_len,
                slots,
                slot_stride,
                groups: &groups,
                turns,
            };
            op.run(&cx)?;
            if self.threads.take_panic() {
                return Err(DeviceError::Invalid(format!("{} in {} failed", node.op.name(), node.scope)));
            }
            if self.limits.guard {
                guard(&self.plan, arena, i, number, Guard::Check)
                    .map_err(|e| DeviceError::Invalid(format!("{e}, at {} in {}", node.op.name(), node.scope)))?;
            }
        }
        // An op that saw the flag has left its result unfinished.
        if step.cancel.is_cancelled() { Err(DeviceError::Cancelled) } else { Ok(()) }
    }

    fn kept(&self, rows: &Rows) -> Result<&Kept, DeviceError> {
        let gone = || DeviceError::Invalid(format!("the outputs of step {} are gone", rows.step));
        self.kept.iter().find(|k| k.step == rows.step).ok_or_else(gone)
    }

    /// Rows `first..first + n` of an output of a step that is kept.
    fn output(
        &self,
        rows: &Rows,
        output: Output,
        first: usize,
        n: usize,
    ) -> Result<impl Iterator<Item = &[f32]>, DeviceError> {
        let kept = self.kept(rows)?;
        let value = self.outputs.iter().find(|(o, _)| *o == output).map(|&(_, value)| value);
        let value = value.ok_or_else(|| DeviceError::Invalid(format!("the graph has no output {output}")))?;
        if first.checked_add(n).is_none_or(|end| end > kept.rows) {
            return Err(DeviceError::Invalid(format!(
                "rows {first}.. of {n} are beyond {} of step {}",
                kept.rows, rows.step
            )));
        }
        let view = self.plan.views[value].at_step(kept.step);
        let all = self.arena.floats();
        Ok((first..first + n).map(move |r| &all[view.offset + r * view.stride..][..view.features]))
    }
}

/// What lies between the recurrent states of a slot: kept at zero, so that equal states are equal
/// slots.
fn gaps(graph: &Graph, plan: &PoolPlan) -> Vec<(usize, usize)> {
    let mut starts: Vec<usize> = plan.layout.recurrent.iter().map(|&(_, offset)| offset).collect();
    starts.push(plan.layout.slot_floats);
    let states = plan.layout.recurrent.iter().enumerate();
    let gap = |(i, &(id, offset)): (usize, &(segno_ir::StateId, usize))| {
        let end = offset + graph.states.get(id.0 as usize).map_or(0, StateDecl::recurrent_len);
        (end, starts[i + 1].saturating_sub(end))
    };
    states.map(gap).filter(|&(_, n)| n > 0).collect()
}

/// Checks across spans what [`Step::check`] does not: that no two write the same place, and none
/// reads what another writes. Kernels on several threads rely on it.
fn check_writes(step: &Step, plan: &PoolPlan) -> Result<(), DeviceError> {
    let invalid = |what: String| Err(DeviceError::Invalid(what));
    let mut written: Vec<SlotId> = Vec::new();
    for span in &step.spans {
        written.push(span.to);
        written.extend(span.snapshots.iter().map(|s| s.1));
    }
    written.sort_unstable();
    if let Some(pair) = written.windows(2).find(|w| w[0] == w[1]) {
        return invalid(format!("slot {} is written twice", pair[0].0));
    }
    if let Some(span) = step.spans.iter().find(|s| written.binary_search(&s.from).is_ok()) {
        return invalid(format!("slot {} is read by one span and written by another", span.from.0));
    }
    if step.spans.len() < 2 {
        return Ok(());
    }
    for group in 0..plan.layout.groups.len() {
        // Pages written, with the tokens in them.
        let mut pages: Vec<(u32, u32, u32)> = Vec::new();
        for span in &step.spans {
            let (table, end) = (&span.tables[group], span.start + span.inputs.len() as u32);
            for block in span.start / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS) {
                let page = table.pages[(block - table.first) as usize];
                let start = block * PAGE_TOKENS;
                pages.push((page.0, span.start.max(start) - start, (end - start).min(PAGE_TOKENS)));
            }
        }
        pages.sort_unstable();
        if let Some(pair) = pages.windows(2).find(|w| w[0].0 == w[1].0 && w[0].2 > w[1].1) {
            return invalid(format!("page {} of group {group} is written by two spans", pair[0].0));
        }
    }
    Ok(())
}

enum Guard {
    Fill,
    Check,
}

/// Before an op: fills its result and the bands around it with NaN. After it: fails if a band of a
/// value in use was written.
fn guard(
    plan: &Arena,
    arena: crate::memory::Shared<'_, f32>,
    node: usize,
    step: u64,
    what: Guard,
) -> Result<(), DeviceError> {
    let band = plan.band;
    for piece in &plan.allocations {
        let offset = piece.offset + if step % 2 == 1 { piece.flip } else { 0 };
        match what {
            Guard::Fill if piece.node == node => {
                // SAFETY: no kernel runs.
                unsafe { arena.get_mut(offset - band, piece.len + 2 * band) }.fill(f32::from_bits(BAND));
            }
            Guard::Check if piece.node <= node && piece.last >= node => {
                // SAFETY: no kernel runs.
                let (before, after) = unsafe { (arena.get(offset - band, band), arena.get(offset + piece.len, band)) };
                if before.iter().chain(after).any(|f| f.to_bits() != BAND) {
                    return Err(DeviceError::Invalid(format!("the band around value {} was written", piece.node)));
                }
            }
            _ => (),
        }
    }
    Ok(())
}

fn guard_pool(data: &PoolData) -> Result<(), DeviceError> {
    if let Some(slot) = data.slots.broken() {
        return Err(DeviceError::Invalid(format!("the band after slot {slot} was written")));
    }
    for (group, pages) in data.groups.iter().enumerate() {
        if let Some(page) = pages.broken() {
            return Err(DeviceError::Invalid(format!("the band after page {page} of group {group} was written")));
        }
    }
    Ok(())
}

impl Program for CpuProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        let pool = self.pool.clone();
        step.check(pool.plan(), &self.limits)?;
        check_writes(step, pool.plan())?;
        self.list(step)?;
        let foreign = || DeviceError::Invalid("the pool is another device's".into());
        let cpu_pool = pool.as_any().downcast_ref::<CpuPool>().ok_or_else(foreign)?;
        let mut data = cpu_pool.lock();
        let number = self.step + 1;
        // Its place in memory is that of the step before the last.
        self.kept.retain(|k| k.step + KEPT as u64 > number);
        self.execute(step, &mut data, number)?;
        if self.limits.guard {
            guard_pool(&data)?;
        }
        self.step = number;
        let rows = self.lists.output_rows.len();
        self.kept.push_back(Kept { step: number, rows, done: self.lists.output_done.clone() });
        Ok(Rows { step: number, n: rows as u32 })
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        let draw = |request: &SampleRow| {
            let row = request.row as usize;
            let logits = self.output(rows, Output::Logits, row, 1)?.next().unwrap_or(&[]);
            let id = sample(logits, request);
            Ok(Sampled { id, done: request.stop.contains(&id) || self.kept(rows)?.done[row] })
        };
        let tokens: Vec<Sampled> = requests.iter().map(draw).collect::<Result<_, DeviceError>>()?;
        self.ticket += 1;
        self.tickets.push_back((self.ticket, tokens.clone()));
        if self.tickets.len() > KEPT {
            self.tickets.pop_front();
        }
        Ok(Ticket { id: self.ticket, tokens: Pending::ready(tokens) })
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        match self.output(rows, output, first as usize, n as usize) {
            Ok(rows) => Pending::ready(rows.flatten().copied().collect()),
            Err(error) => Pending::failed(error),
        }
    }

    fn profile(&self) -> String {
        let views = self.nodes.iter().filter(|n| matches!(&n.op, Op::Slice(s) if s.count == 1)).count();
        format!("{} ops, {} threads", self.nodes.len() - views, self.threads.n())
    }
}
