//! A compiled graph: dispatches with their bind groups, made once; a step fills one buffer and submits.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use segno_ir::device::Sampled;
use segno_ir::op::Rope;
use segno_ir::sample::SampleRow;
use segno_ir::{
    DeviceError, Domain, Graph, Input, Op, Output, PAGE_TOKENS, Pending, Pool, Program, ProgramLimits, Rows, Span,
    StateId, Step, Ticket, WeightId,
};

use crate::gpu::{Gpu, Pipeline};
use crate::op;
use crate::params::Params;
use crate::pool::{KeyValue, State, WgpuPool};
use crate::shader::Variant;
use crate::weights::{Part, Placed, WgpuWeights};

/// Steps whose words may be under way at once, and one that is being written.
const RING: usize = 3;
/// Tickets whose tokens stay on the device.
const TICKETS: usize = 4;
/// Words of a row's and of a span's record (see `lib/step.wgsl`).
const ROW_WORDS: usize = 5;
const SPAN_WORDS: usize = 7;
/// Snapshots that a step may ask for, and bias and stop entries that its draws may bring.
const MAX_SNAPSHOTS: usize = 1024;
const MAX_DRAW_WORDS: usize = 16 * 1024;
/// Floats between activations in guarded programs.
const BAND: usize = 64;

/// Where a value lies in the activations' buffer, in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Of row 0.
    pub offset: u32,
    /// From row to row.
    pub stride: u32,
    pub features: usize,
}

impl View {
    /// Whether every row begins at a multiple of four floats.
    pub fn is_wide(&self) -> bool {
        self.offset.is_multiple_of(4) && self.stride.is_multiple_of(4)
    }
}

/// How many workgroups a dispatch has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grid {
    /// `(x, rows / tile, z)`.
    Rows { x: u32, tile: u32, z: u32 },
    /// `(x, spans, 1)`.
    Spans { x: u32 },
    /// `(x, rows, parts)`: those that attention of a window sees, whose number goes to the parameter at `parts_at`.
    Parts { x: u32, window: Option<u32>, parts_at: Option<usize> },
    /// `(x, rows, 1)`, where there are several parts.
    Merge { x: u32, window: Option<u32> },
}

/// A buffer that a kernel reads or writes, beside the activations.
#[derive(Clone)]
pub(crate) struct Binding {
    buffer: wgpu::Buffer,
    offset: u64,
    bytes: Option<u64>,
    written: bool,
}

impl Binding {
    pub fn weight(part: &Part) -> Self {
        Binding { buffer: part.buffer.clone(), offset: part.offset, bytes: Some(part.bytes), written: false }
    }

    pub fn read(buffer: wgpu::Buffer) -> Self {
        Binding { buffer, offset: 0, bytes: None, written: false }
    }

    pub fn written(buffer: wgpu::Buffer) -> Self {
        Binding { buffer, offset: 0, bytes: None, written: true }
    }
}

struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    params: Vec<u8>,
    /// Steps of how many rows it is for, and the byte offset of the parameter that takes their number.
    rows: RangeInclusive<u32>,
    rows_at: Option<usize>,
    grid: Grid,
    domain: Domain,
}

/// The plan of the activations' buffer.
struct Plan {
    /// Views for even and odd steps: outputs of two steps stay.
    views: [Vec<View>; 2],
    floats: usize,
    /// Where the parts of attention lie.
    parts: usize,
    /// Start and length of what a step of each parity writes.
    written: [Vec<(usize, usize)>; 2],
    /// Start and length of every band of a guarded program.
    bands: Vec<(usize, usize)>,
}

/// Values that own memory: slices of one run are views into their input.
fn root(graph: &Graph, value: usize) -> usize {
    match &graph.nodes[value].op {
        Op::Slice(s) if s.count == 1 => root(graph, graph.nodes[value].inputs[0].0 as usize),
        _ => value,
    }
}

fn plan(graph: &Graph, limits: &ProgramLimits) -> Plan {
    let n = graph.nodes.len();
    let mut last = vec![0; n];
    for (i, &end) in graph.last_use().iter().enumerate() {
        let r = root(graph, i);
        last[r] = last[r].max(end);
    }
    let band = if limits.guard { BAND } else { 0 };
    let mut bands = Vec::new();
    let mut views: [Vec<View>; 2] = [Vec::with_capacity(n), Vec::with_capacity(n)];
    // Values that leave the graph have places of their own, twice; the others share what is free.
    let (mut live, mut top) = (Vec::<(usize, usize, usize)>::new(), 0);
    let mut kept = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        if let (Op::Slice(s), false) = (&node.op, root(graph, i) == i) {
            for views in &mut views {
                let of = views[node.inputs[0].0 as usize];
                views.push(View { offset: of.offset + s.offset as u32, features: node.features, ..of });
            }
            continue;
        }
        let rows = if node.domain == Domain::Token { limits.max_rows } else { limits.max_outputs };
        let len = (rows * node.features).next_multiple_of(64) + band;
        let view =
            |offset: usize| View { offset: offset as u32, stride: node.features as u32, features: node.features };
        if last[i] == n {
            kept.push((i, len));
            views.iter_mut().for_each(|views| views.push(view(0)));
            continue;
        }
        live.retain(|&(_, _, end)| end >= i);
        live.sort_unstable();
        let mut offset = 0;
        for &(start, taken, _) in &live {
            // Guarded programs reuse nothing, so that bands stay bands.
            if limits.guard || start < offset + len {
                offset = offset.max(start + taken);
            } else {
                break;
            }
        }
        live.push((offset, len, if limits.guard { n } else { last[i] }));
        top = top.max(offset + len);
        bands.push((offset + len - band, band));
        views.iter_mut().for_each(|views| views.push(view(offset)));
    }
    let mut written = [vec![(0, top)], vec![(0, top)]];
    for (i, len) in kept {
        for (views, written) in views.iter_mut().zip(&mut written) {
            written.push((top, len));
            views[i].offset = top as u32;
            bands.push((top + len - band, band));
            top += len;
        }
    }
    // Slices of values that leave the graph were placed before their roots were.
    for views in &mut views {
        for (i, node) in graph.nodes.iter().enumerate() {
            if let (Op::Slice(s), false) = (&node.op, root(graph, i) == i) {
                views[i].offset = views[node.inputs[0].0 as usize].offset + s.offset as u32;
            }
        }
    }
    let part_floats = op::attention::part_floats(graph, limits);
    bands.push((top + part_floats, band));
    bands.retain(|&(_, n)| n > 0);
    Plan { views, floats: top + part_floats + band, parts: top, written, bands }
}

/// Where the parts of a step's words begin.
#[derive(Clone, Debug)]
struct Words {
    spans: usize,
    span_words: usize,
    outputs: usize,
    tables: usize,
    snapshots: usize,
    ropes: Vec<(Rope, usize)>,
    values: usize,
    draws: usize,
    end: usize,
}

impl Words {
    fn new(graph: &Graph, limits: &ProgramLimits, n_groups: usize) -> Self {
        let span_words = SPAN_WORDS + 2 * n_groups;
        let spans = limits.max_rows * ROW_WORDS;
        let outputs = spans + limits.max_spans * span_words;
        let tables = outputs + limits.max_outputs;
        let pages = (limits.max_context.div_ceil(PAGE_TOKENS) + 2) as usize * n_groups * limits.max_spans;
        let snapshots = tables + pages;
        let mut at = snapshots + 2 * MAX_SNAPSHOTS;
        let mut ropes: Vec<(Rope, usize)> = Vec::new();
        for node in &graph.nodes {
            if let Op::Rope(rope) = &node.op
                && !ropes.iter().any(|(r, _)| r == rope)
            {
                ropes.push((rope.clone(), at));
                at += limits.max_rows * rope.n_rot;
            }
        }
        let values = at;
        let width = graph.nodes.iter().find_map(|n| if let Op::Embed(e) = &n.op { Some(e.features) } else { None });
        let draws = values + limits.max_rows * width.unwrap_or(0);
        let end = draws + limits.max_outputs * op::sample::REQUEST + MAX_DRAW_WORDS;
        Words { spans, span_words, outputs, tables, snapshots, ropes, values, draws, end }
    }
}

/// Bytes of activations and of the steps' words.
pub(crate) fn memory(graph: &Graph, limits: &ProgramLimits) -> u64 {
    let n_groups = segno_ir::StateLayout::new(graph, Default::default(), Default::default()).groups.len();
    4 * (plan(graph, limits).floats + RING * Words::new(graph, limits, n_groups).end + ticket_words(limits)) as u64
}

/// Words of the tickets' tokens, and behind them of the largest keys that draws look for first.
fn ticket_words(limits: &ProgramLimits) -> usize {
    1 + limits.max_outputs * (2 * TICKETS + op::sample::CHUNKS as usize)
}

/// What an op's host side sees while it is compiled.
pub(crate) struct Compile<'a> {
    gpu: &'a Gpu,
    graph: &'a Graph,
    weights: &'a WgpuWeights,
    pool: &'a WgpuPool,
    words: &'a Words,
    limits: &'a ProgramLimits,
    act: &'a wgpu::Buffer,
    views: &'a [View],
    parts: usize,
    node: usize,
    out: &'a mut Vec<Dispatch>,
}

impl Compile<'_> {
    pub fn n_inputs(&self) -> usize {
        self.graph.nodes[self.node].inputs.len()
    }

    pub fn input(&self, i: usize) -> View {
        self.views[self.graph.nodes[self.node].inputs[i].0 as usize]
    }

    pub fn out(&self) -> View {
        self.views[self.node]
    }

    pub fn elements(&self, id: WeightId) -> u32 {
        self.graph.weights[id.0 as usize].n_elements() as u32
    }

    /// Sizes of a weight of up to three dimensions.
    pub fn sizes(&self, id: WeightId) -> [u32; 3] {
        let shape = &self.graph.weights[id.0 as usize].shape;
        std::array::from_fn(|i| shape.get(i).copied().unwrap_or(1) as u32)
    }

    fn missing(&self, id: WeightId) -> DeviceError {
        let name = self.graph.weights[id.0 as usize].name.clone();
        DeviceError::Weight { name, reason: "was not brought to this device".into() }
    }

    /// A weight as plain f32.
    pub fn vector(&self, id: WeightId) -> Result<Binding, DeviceError> {
        let placed = self.weights.vectors.get(&self.graph.weights[id.0 as usize].name);
        placed.and_then(|p| p.parts.first()).map(Binding::weight).ok_or_else(|| self.missing(id))
    }

    /// A weight in blocks.
    pub fn matrix(&self, id: WeightId) -> Result<Placed, DeviceError> {
        let placed = self.weights.tensors.get(&self.graph.weights[id.0 as usize].name);
        placed.cloned().ok_or_else(|| self.missing(id))
    }

    /// A recurrent state's buffer, and floats of one slot in it.
    pub fn recurrent(&self, id: StateId) -> Result<(wgpu::Buffer, u32), DeviceError> {
        match self.pool.state(id) {
            Some(State::Recurrent(r)) => Ok((r.buffer.clone(), r.len as u32)),
            _ => Err(DeviceError::Invalid(format!("state {} is not recurrent in this pool", id.0))),
        }
    }

    /// A key/value state.
    pub fn key_value(&self, id: StateId) -> Result<&KeyValue, DeviceError> {
        match self.pool.state(id) {
            Some(State::KeyValue(kv)) => Ok(kv),
            _ => Err(DeviceError::Invalid(format!("state {} has no pages in this pool", id.0))),
        }
    }

    /// Where a rotation's sines lie in the step's words.
    pub fn rope_table(&self, rope: &Rope) -> Result<u32, DeviceError> {
        let table = self.words.ropes.iter().find(|(r, _)| r == rope);
        table.map(|&(_, at)| at as u32).ok_or_else(|| DeviceError::Invalid("a rotation has no table".into()))
    }

    pub fn limits(&self) -> &ProgramLimits {
        self.limits
    }

    /// Where the parts of attention lie in the activations.
    pub fn parts(&self) -> u32 {
        self.parts as u32
    }

    /// Where the records of spans begin in the step's words, and the words of one.
    pub fn spans(&self) -> (u32, u32) {
        (self.words.spans as u32, self.words.span_words as u32)
    }

    /// Where the output rows begin in the step's words.
    pub fn outputs(&self) -> u32 {
        self.words.outputs as u32
    }

    pub fn unsupported(&self, op: &Op, reason: &str) -> DeviceError {
        DeviceError::Unsupported { device: self.gpu.name.clone(), op: op.name().into(), reason: reason.into() }
    }

    pub fn push<P: Params>(
        &mut self,
        variant: Variant,
        bindings: Vec<Binding>,
        params: P,
        grid: Grid,
    ) -> Result<(), DeviceError> {
        self.push_for_rows(1..=u32::MAX, variant, bindings, params, grid, None)
    }

    /// As [`push`](Self::push), for steps of that many rows; the parameter at `rows_at` takes their number.
    pub fn push_for_rows<P: Params>(
        &mut self,
        rows: RangeInclusive<u32>,
        variant: Variant,
        bindings: Vec<Binding>,
        params: P,
        grid: Grid,
        rows_at: Option<usize>,
    ) -> Result<(), DeviceError> {
        let domain = self.graph.nodes[self.node].domain;
        let most = if domain == Domain::Token { self.limits.max_rows } else { self.limits.max_outputs };
        if *rows.start() as usize > most {
            return Ok(());
        }
        let (pipeline, group) = bind(self.gpu, &variant, self.act, &bindings, size_of::<P>())?;
        let params = bytemuck::bytes_of(&params).to_vec();
        self.out.push(Dispatch { pipeline: pipeline.pipeline, group, params, rows, rows_at, grid, domain });
        Ok(())
    }
}

/// A pipeline, and its first bind group: the activations, then `bindings`.
fn bind(
    gpu: &Gpu,
    variant: &Variant,
    act: &wgpu::Buffer,
    bindings: &[Binding],
    param_bytes: usize,
) -> Result<(Pipeline, wgpu::BindGroup), DeviceError> {
    let written: Vec<bool> = std::iter::once(true).chain(bindings.iter().map(|b| b.written)).collect();
    let pipeline = gpu.pipeline(variant, &written, param_bytes)?;
    let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: act.as_entire_binding() }];
    for (i, b) in bindings.iter().enumerate() {
        let size = b.bytes.and_then(wgpu::BufferSize::new);
        let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &b.buffer, offset: b.offset, size });
        entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource });
    }
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(variant.name),
        layout: &pipeline.layout,
        entries: &entries,
    });
    Ok((pipeline, group))
}

/// What is remembered of a step.
struct Done {
    step: u64,
    parity: usize,
    n: u32,
    /// Place in the tickets' buffer of the done flag that each output row was fed by.
    fed: Vec<Option<u32>>,
}

pub(crate) struct WgpuProgram {
    gpu: Arc<Gpu>,
    graph: Graph,
    pool: Arc<dyn Pool>,
    limits: ProgramLimits,
    words: Words,
    plan: Plan,
    act: wgpu::Buffer,
    tickets_buffer: wgpu::Buffer,
    /// The steps' words, and the bind group of each.
    ring: Vec<(wgpu::Buffer, wgpu::BindGroup)>,
    dispatches: [Vec<Dispatch>; 2],
    /// Frequencies of each rotation, as `words.ropes` has them.
    frequencies: Vec<Vec<f64>>,
    /// What finds the chunks' largest keys, and what draws.
    draw: Option<[(wgpu::ComputePipeline, wgpu::BindGroup); 2]>,
    step: u64,
    ticket: u64,
    steps: VecDeque<Done>,
    /// Tickets on the device and their rows.
    tickets: VecDeque<(u64, usize)>,
    encode_time: Duration,
    clock: Option<Clock>,
}

/// Time stamps of the last step's pass.
struct Clock {
    queries: wgpu::QuerySet,
    stamps: wgpu::Buffer,
}

impl Clock {
    /// A clock, if the device was opened with one.
    fn new(gpu: &Gpu) -> Option<Clock> {
        if !gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("step"),
            ty: wgpu::QueryType::Timestamp,
            count: 2,
        });
        let stamps = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("stamps"),
            size: 16,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Some(Clock { queries, stamps })
    }

    /// Microseconds of the last step.
    fn read(&self, gpu: &Arc<Gpu>) -> Option<f64> {
        let bytes = gpu.read(&self.stamps, 0, 16).ok()?.wait(Duration::from_secs(60), <[u8]>::to_vec).ok()?;
        let stamp = |i: usize| Some(u64::from_le_bytes(bytes.get(i..i + 8)?.try_into().ok()?));
        let ticks = stamp(8)?.saturating_sub(stamp(0)?);
        Some(ticks as f64 * f64::from(gpu.queue.get_timestamp_period()) / 1000.0)
    }
}

impl WgpuProgram {
    pub fn new(
        gpu: &Arc<Gpu>,
        graph: &Graph,
        weights: &WgpuWeights,
        pool: Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Self, DeviceError> {
        let n_groups = pool.plan().layout.groups.len();
        let words = Words::new(graph, limits, n_groups);
        let plan = plan(graph, limits);
        let act = gpu.storage(4 * plan.floats as u64, "activations")?;
        let tickets_buffer = gpu.storage(4 * ticket_words(limits) as u64, "tickets")?;
        let layout = gpu.step_layout();
        let ring = (0..RING).map(|_| {
            let buffer = gpu.storage(4 * words.end as u64, "step")?;
            let entry = |binding, buffer: &'_ wgpu::Buffer| (binding, buffer.clone());
            let entries = [entry(0, &buffer), entry(1, &tickets_buffer)];
            let entries: Vec<_> = entries
                .iter()
                .map(|(binding, b)| wgpu::BindGroupEntry { binding: *binding, resource: b.as_entire_binding() })
                .collect();
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("step"),
                layout: &layout,
                entries: &entries,
            });
            Ok((buffer, group))
        });
        let ring = ring.collect::<Result<Vec<_>, DeviceError>>()?;

        let wgpu_pool = pool.as_any().downcast_ref::<WgpuPool>();
        let wgpu_pool = wgpu_pool.ok_or_else(|| DeviceError::Invalid("the pool is another device's".into()))?;
        let mut dispatches = [Vec::new(), Vec::new()];
        for (parity, out) in dispatches.iter_mut().enumerate() {
            for node in 0..graph.nodes.len() {
                let mut compile = Compile {
                    gpu,
                    graph,
                    weights,
                    pool: wgpu_pool,
                    words: &words,
                    limits,
                    act: &act,
                    views: &plan.views[parity],
                    parts: plan.parts,
                    node,
                    out,
                };
                op::compile(&mut compile, &graph.nodes[node].op)?;
            }
        }
        if limits.guard {
            gpu.queue.write_buffer(&act, 0, bytemuck::cast_slice(&vec![f32::NAN; plan.floats]));
        }
        let draw = match graph.n_vocab() {
            0 => None,
            _ => {
                let made = |maxima| {
                    let size = size_of::<op::sample::SampleParams>();
                    let (pipeline, group) = bind(gpu, &op::sample::variant(maxima), &act, &[], size)?;
                    Ok::<_, DeviceError>((pipeline.pipeline, group))
                };
                Some([made(true)?, made(false)?])
            }
        };
        let factors = |rope: &Rope| -> Result<Option<Vec<f64>>, DeviceError> {
            let Some(id) = rope.factors else { return Ok(None) };
            let name = &graph.weights[id.0 as usize].name;
            let missing =
                || DeviceError::Weight { name: name.clone(), reason: "was not brought to this device".into() };
            let part = weights.vectors.get(name).and_then(|p| p.parts.first()).ok_or_else(missing)?;
            let values = gpu.read(&part.buffer, part.offset, part.bytes)?.wait(Duration::from_secs(60), floats)?;
            Ok(Some(values.into_iter().map(f64::from).collect()))
        };
        let frequencies = words.ropes.iter().map(|(rope, _)| Ok(rope.frequencies(factors(rope)?.as_deref())));
        Ok(WgpuProgram {
            frequencies: frequencies.collect::<Result<_, DeviceError>>()?,
            gpu: gpu.clone(),
            graph: graph.clone(),
            pool,
            limits: limits.clone(),
            words,
            plan,
            act,
            tickets_buffer,
            ring,
            dispatches,
            draw,
            step: 0,
            ticket: 0,
            steps: VecDeque::new(),
            tickets: VecDeque::new(),
            encode_time: Duration::ZERO,
            clock: Clock::new(gpu),
        })
    }

    /// Place in the tickets' buffer of a drawn token; its done flag follows.
    fn ticket_place(&self, ticket: u64, row: u32) -> Result<u32, DeviceError> {
        match self.tickets.iter().find(|(t, _)| *t == ticket) {
            Some(&(_, n)) if (row as usize) < n => {
                Ok((1 + (ticket as usize % TICKETS * self.limits.max_outputs + row as usize) * 2) as u32)
            }
            _ => Err(DeviceError::Invalid(format!("there is no row {row} of ticket {ticket}"))),
        }
    }

    /// The step's words up to the draws.
    fn encode(&self, step: &Step) -> Result<(Vec<u32>, Vec<Option<u32>>), DeviceError> {
        let w = &self.words;
        let n_tokens = self.graph.n_tokens() as u32;
        let mut words = vec![0u32; w.draws];
        let (mut row, mut output, mut table, mut snapshot, mut value) = (0, 0, w.tables, w.snapshots, w.values);
        let mut fed = Vec::new();
        for (s, span) in step.spans.iter().enumerate() {
            let record = w.spans + s * w.span_words;
            let head = [row as u32, span.inputs.len() as u32, span.start, span.from.0, span.to.0];
            words[record..record + 5].copy_from_slice(&head);
            words[record + 5] = span.snapshots.len() as u32;
            words[record + 6] = snapshot as u32;
            if snapshot + 2 * span.snapshots.len() > w.snapshots + 2 * MAX_SNAPSHOTS {
                return Err(DeviceError::Invalid(format!("a step has more than {MAX_SNAPSHOTS} snapshots")));
            }
            for &(after, slot) in &span.snapshots {
                words[snapshot..snapshot + 2].copy_from_slice(&[after, slot.0]);
                snapshot += 2;
            }
            for (g, t) in span.tables.iter().enumerate() {
                words[record + SPAN_WORDS + 2 * g] = t.first;
                words[record + SPAN_WORDS + 2 * g + 1] = table as u32;
                let place =
                    words.get_mut(table..table + t.pages.len()).filter(|_| table + t.pages.len() <= w.snapshots);
                let place =
                    place.ok_or_else(|| DeviceError::Invalid("a page table is longer than the context".into()))?;
                place.iter_mut().zip(&t.pages).for_each(|(word, page)| *word = page.0);
                table += t.pages.len();
            }
            let mut flags = Vec::with_capacity(span.inputs.len());
            for (t, input) in span.inputs.iter().enumerate() {
                let (kind, place) = match input {
                    Input::Token(id) if *id >= n_tokens => {
                        return Err(DeviceError::Invalid(format!(
                            "token {id} is outside the vocabulary of {n_tokens}"
                        )));
                    }
                    Input::Token(id) => (0, *id),
                    Input::Sampled { ticket, row } => (1, self.ticket_place(*ticket, *row)?),
                    Input::Row { values, .. } => {
                        let place =
                            words.get_mut(value..value + values.len()).filter(|_| value + values.len() <= w.draws);
                        let place = place.ok_or_else(|| DeviceError::Invalid("a row has too many features".into()))?;
                        place.iter_mut().zip(values.iter()).for_each(|(word, v)| *word = v.to_bits());
                        value += values.len();
                        (2, (value - values.len()) as u32)
                    }
                };
                flags.push((kind == 1).then_some(place + 1));
                let of_row = [record as u32, t as u32, span.start + t as u32, kind, place];
                words[row * ROW_WORDS..][..ROW_WORDS].copy_from_slice(&of_row);
                for ((rope, at), frequencies) in w.ropes.iter().zip(&self.frequencies) {
                    let table = &mut words[at + row * rope.n_rot..][..rope.n_rot];
                    let turns = rope.table(frequencies, span.start + t as u32);
                    for (pair, (cos, sin)) in table.chunks_exact_mut(2).zip(turns) {
                        pair.copy_from_slice(&[(cos as f32).to_bits(), (sin as f32).to_bits()]);
                    }
                }
                row += 1;
            }
            for &r in &span.outputs {
                words[w.outputs + output] = row as u32 - span.inputs.len() as u32 + r;
                fed.push(flags[r as usize]);
                output += 1;
            }
        }
        Ok((words, fed))
    }

    /// Fills what a step will write, and the bands, with NaN, for guarded programs.
    fn poison(&self, parity: usize) {
        for &(start, n) in &self.plan.written[parity] {
            let poison = vec![f32::NAN; n];
            self.gpu.queue.write_buffer(&self.act, 4 * start as u64, bytemuck::cast_slice(&poison));
        }
    }

    /// Fails if a kernel wrote into a band.
    fn check_bands(&self) -> Result<(), DeviceError> {
        let read = self.gpu.read(&self.act, 0, 4 * self.plan.floats as u64)?;
        let values = read.wait(Duration::from_secs(120), floats)?;
        for &(start, n) in &self.plan.bands {
            if let Some(i) = values[start..start + n].iter().position(|v| !v.is_nan()) {
                return Err(DeviceError::Invalid(format!(
                    "a kernel wrote {i} floats past the end of a value at {start}"
                )));
            }
        }
        Ok(())
    }
}

impl Program for WgpuProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        self.gpu.check()?;
        step.check(self.pool.plan(), &self.limits)?;
        if step.cancel.is_cancelled() {
            return Err(DeviceError::Cancelled);
        }
        let begun = std::time::Instant::now();
        let (words, fed) = self.encode(step)?;
        // What was recorded before goes first: the words are written ahead of the next submit.
        self.gpu.submit();
        self.step += 1;
        let parity = (self.step % 2) as usize;
        let (buffer, step_group) = &self.ring[self.step as usize % RING];
        self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&words));
        if self.limits.guard {
            self.poison(parity);
        }
        let (n_rows, n_outputs, n_spans) = (step.n_rows() as u32, step.n_outputs() as u32, step.spans.len() as u32);
        let n_parts = |window| {
            let of_span = |s: &Span| op::attention::n_parts(window, s.start, s.start + s.inputs.len() as u32 - 1);
            step.spans.iter().map(of_span).max().unwrap_or(1)
        };
        self.gpu.record(|encoder| {
            let timestamp_writes = self.clock.as_ref().map(|clock| wgpu::ComputePassTimestampWrites {
                query_set: &clock.queries,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some("step"), timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            pass.set_bind_group(1, step_group, &[]);
            let mut params = [0u8; crate::params::MAX_PARAM_BYTES];
            for d in &self.dispatches[parity] {
                let rows = if d.domain == Domain::Token { n_rows } else { n_outputs };
                if !d.rows.contains(&rows) {
                    continue;
                }
                let params = &mut params[..d.params.len()];
                params.copy_from_slice(&d.params);
                let mut set = |at: Option<usize>, value: u32| {
                    if let Some(at) = at {
                        params[at..at + 4].copy_from_slice(&value.to_le_bytes());
                    }
                };
                set(d.rows_at, rows);
                let (x, y, z) = match d.grid {
                    Grid::Rows { x, tile, z } => (x, rows.div_ceil(tile), z),
                    Grid::Spans { x } => (x, n_spans, 1),
                    Grid::Parts { x, window, parts_at } => {
                        let n = n_parts(window);
                        set(parts_at, n);
                        (x, rows, n)
                    }
                    Grid::Merge { window, .. } if n_parts(window) == 1 => continue,
                    Grid::Merge { x, .. } => (x, rows, 1),
                };
                pass.set_pipeline(&d.pipeline);
                pass.set_bind_group(0, &d.group, &[]);
                pass.set_immediates(0, params);
                pass.dispatch_workgroups(x, y, z);
            }
            drop(pass);
            if let Some(clock) = &self.clock {
                encoder.resolve_query_set(&clock.queries, 0..2, &clock.stamps, 0);
            }
        });
        self.encode_time = begun.elapsed();
        if self.limits.guard {
            self.check_bands()?;
        }
        self.steps.push_back(Done { step: self.step, parity, n: n_outputs, fed });
        if self.steps.len() > 2 {
            self.steps.pop_front();
        }
        Ok(Rows { step: self.step, n: n_outputs })
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        let gone = |what: &str| DeviceError::Invalid(format!("{what} of step {} are not there", rows.step));
        let done = self.steps.iter().find(|d| d.step == rows.step).ok_or_else(|| gone("outputs"))?;
        let [maxima, draw] = self.draw.as_ref().ok_or_else(|| gone("logits"))?;
        let logits = self.graph.output(Output::Logits).ok_or_else(|| gone("logits"))?;
        if requests.len() > self.limits.max_outputs || requests.iter().any(|r| r.row >= done.n) {
            return Err(gone("the rows of a draw"));
        }
        let view = self.plan.views[done.parity][logits.0 as usize];
        let base = self.words.draws;
        let words = op::sample::encode(requests, base, |row| done.fed.get(row as usize).copied().flatten());
        if base + words.len() > self.words.end {
            let reason = format!("biases and stop tokens take {} words, at most {MAX_DRAW_WORDS} fit", words.len());
            return Err(DeviceError::Invalid(reason));
        }
        self.ticket += 1;
        let (id, n) = (self.ticket, requests.len());
        self.tickets.push_back((id, n));
        if self.tickets.len() > 2 {
            self.tickets.pop_front();
        }
        let y = 1 + id as usize % TICKETS * self.limits.max_outputs * 2;
        let (buffer, step_group) = &self.ring[rows.step as usize % RING];
        self.gpu.queue.write_buffer(buffer, 4 * base as u64, bytemuck::cast_slice(&words));
        let params = op::sample::SampleParams {
            x: view.offset,
            x_stride: view.stride,
            y: y as u32,
            requests: base as u32,
            n: view.features as u32,
            chunk: (view.features as u32).div_ceil(op::sample::CHUNKS),
            maxima: (1 + TICKETS * self.limits.max_outputs * 2) as u32,
        };
        let bytes = 8 * n.max(1) as u64;
        let readback = self.gpu.readback(bytes)?;
        self.gpu.record(|encoder| {
            if n > 0 {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_bind_group(1, step_group, &[]);
                let grids = [(op::sample::MAXIMA_GROUPS, n as u32), (n as u32, 1)];
                for ((pipeline, group), (x, y)) in [maxima, draw].into_iter().zip(grids) {
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.set_immediates(0, bytemuck::bytes_of(&params));
                    pass.dispatch_workgroups(x, y, 1);
                }
            }
            encoder.copy_buffer_to_buffer(&self.tickets_buffer, 4 * y as u64, &readback, 0, bytes);
        });
        let tokens = self.gpu.promise(readback, bytes).then(move |bytes| {
            let words = bytemuck::pod_collect_to_vec::<u8, [u32; 2]>(bytes);
            words.into_iter().take(n).map(|[id, done]| Sampled { id, done: done != 0 }).collect()
        });
        self.gpu.check()?;
        Ok(Ticket { id, tokens })
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        let failed = || DeviceError::Invalid(format!("{output} of step {} is not there", rows.step));
        let find = || {
            let done = self.steps.iter().find(|d| d.step == rows.step).filter(|d| first + n <= d.n)?;
            let view = self.plan.views[done.parity][self.graph.output(output)?.0 as usize];
            Some((u64::from(view.offset) + u64::from(first) * u64::from(view.stride), view.features as u64))
        };
        let Some((offset, features)) = find() else { return Pending::failed(failed()) };
        match self.gpu.read(&self.act, 4 * offset, 4 * features * u64::from(n)) {
            Ok(readback) => readback.then(floats),
            Err(error) => Pending::failed(error),
        }
    }

    fn profile(&self) -> String {
        let device = self.clock.as_ref().and_then(|clock| clock.read(&self.gpu));
        let device = device.map_or(String::new(), |us| format!(", {us:.0} us on the device"));
        let encode = self.encode_time.as_micros();
        let dispatches = self.dispatches[0].iter().filter(|d| d.rows.contains(&1)).count();
        format!("{dispatches} dispatches a decode step; the last: {encode} us to encode{device}")
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(bytes)
}
