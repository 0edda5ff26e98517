//! A compiled graph: buffers planned once, a step executed op by op.

use std::collections::VecDeque;
use std::sync::Arc;

use segno_ir::device::Sampled;
use segno_ir::reference::decode_tensor;
use segno_ir::sample::{SampleRow, sample};
use segno_ir::{
    DeviceError, Domain, Graph, Input, Op, Output, Pending, Pool, Program, ProgramLimits, Rows, Step, Ticket, ValueId,
    WeightId, WeightSource,
};

use crate::kernel::Kernels;
use crate::op;
use crate::pool::{CpuPool, Member, PoolData};
use crate::threads::Threads;

/// Where a value lies in the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Of row 0, in floats.
    pub offset: usize,
    /// From row to row, in floats.
    pub stride: usize,
    pub features: usize,
}

/// Values that own memory: slices of one run are views into their input.
fn root(graph: &Graph, value: usize) -> usize {
    match &graph.nodes[value].op {
        Op::Slice(s) if s.count == 1 => root(graph, graph.nodes[value].inputs[0].0 as usize),
        _ => value,
    }
}

/// Plans the arena: a value's memory is reused after its last reader.
fn plan(graph: &Graph, limits: &ProgramLimits) -> (Vec<View>, usize) {
    let n = graph.nodes.len();
    let mut last = vec![0; n];
    for (i, &end) in graph.last_use().iter().enumerate() {
        let r = root(graph, i);
        last[r] = last[r].max(end);
    }
    let mut views: Vec<View> = Vec::with_capacity(n);
    let mut live: Vec<(usize, usize, usize)> = Vec::new(); // (offset, len, last reader)
    let mut total = 0;
    for (i, node) in graph.nodes.iter().enumerate() {
        if let (Op::Slice(s), false) = (&node.op, root(graph, i) == i) {
            let of = views[node.inputs[0].0 as usize];
            views.push(View { offset: of.offset + s.offset, features: node.features, ..of });
            continue;
        }
        live.retain(|&(_, _, end)| end >= i);
        live.sort_unstable();
        let rows = if node.domain == Domain::Token { limits.max_rows } else { limits.max_outputs };
        let len = (rows * node.features).next_multiple_of(16);
        let mut offset = 0;
        for &(start, taken, _) in &live {
            if start >= offset + len {
                break;
            }
            offset = offset.max(start + taken);
        }
        live.push((offset, len, last[i]));
        total = total.max(offset + len);
        views.push(View { offset, stride: node.features, features: node.features });
    }
    (views, total)
}

/// Floats of the arena.
pub(crate) fn arena_floats(graph: &Graph, limits: &ProgramLimits) -> usize {
    plan(graph, limits).1
}

/// A row of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub span: usize,
    pub position: u32,
}

/// What an op works on.
pub(crate) struct Cx<'a> {
    pub kernels: Kernels,
    pub threads: &'a Threads,
    pub graph: &'a Graph,
    pub source: &'a dyn WeightSource,
    /// Small weights (norms, biases, convolutions) as f32.
    pub vectors: &'a [Option<Vec<f32>>],
    pub step: &'a Step,
    pub rows: &'a [Row],
    /// Step row of each output row.
    pub output_rows: &'a [usize],
    pub arena: Shared<f32>,
    pub n_rows: usize,
    pub out: View,
    pub inputs: &'a [View],
}

/// A buffer that threads write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T, usize);
// SAFETY: every user writes ranges that no other thread touches during the same call.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Shared(slice.as_mut_ptr(), slice.len())
    }

    /// # Safety
    /// No one writes the range meanwhile.
    pub unsafe fn get<'b>(self, offset: usize, n: usize) -> &'b [T] {
        assert!(offset + n <= self.1);
        // SAFETY: in bounds; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.0.add(offset), n) }
    }

    /// # Safety
    /// No one else reads or writes the range meanwhile.
    pub unsafe fn get_mut<'b>(self, offset: usize, n: usize) -> &'b mut [T] {
        assert!(offset + n <= self.1);
        // SAFETY: in bounds; the caller is the only user.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), n) }
    }
}

impl Cx<'_> {
    /// Row `r` of input `i`.
    pub fn input(&self, i: usize, r: usize) -> &[f32] {
        let v = self.inputs[i];
        // SAFETY: inputs are written by earlier ops only; the plan keeps them apart from the output.
        unsafe { self.arena.get(v.offset + r * v.stride, v.features) }
    }

    /// Row `r` of the output.
    #[expect(clippy::mut_from_ref, reason = "each thread takes rows or columns of its own")]
    pub fn output(&self, r: usize) -> &mut [f32] {
        // SAFETY: the ops' partitions give a row, or a disjoint part of it, to one thread.
        unsafe { self.arena.get_mut(self.out.offset + r * self.out.stride, self.out.features) }
    }

    pub fn vector(&self, id: WeightId) -> &[f32] {
        self.vectors[id.0 as usize].as_deref().unwrap_or_default()
    }

    /// First row of each span.
    pub fn span_starts(&self) -> Vec<usize> {
        let next = |at: &mut usize, n: usize| {
            let start = *at;
            *at += n;
            Some(start)
        };
        self.step.spans.iter().map(|s| s.inputs.len()).scan(0, next).collect()
    }
}

/// Output, features, `[rows, features]`.
type Outputs = Vec<(Output, usize, Vec<f32>)>;

pub(crate) struct CpuProgram {
    kernels: Kernels,
    threads: Arc<Threads>,
    graph: Graph,
    source: Arc<dyn WeightSource>,
    vectors: Vec<Option<Vec<f32>>>,
    pool: Arc<dyn Pool>,
    limits: ProgramLimits,
    views: Vec<View>,
    arena: Vec<f32>,
    members: Vec<Option<Member>>,
    step: u64,
    ticket: u64,
    outputs: VecDeque<(u64, Outputs)>,
    /// For each of them: whether its row was fed by a token that ended its chain.
    done: VecDeque<Vec<bool>>,
    tickets: VecDeque<(u64, Vec<Sampled>)>,
}

impl CpuProgram {
    pub fn new(
        kernels: Kernels,
        threads: Arc<Threads>,
        graph: &Graph,
        source: Arc<dyn WeightSource>,
        pool: Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Self, DeviceError> {
        let (views, total) = plan(graph, limits);
        let mut vectors: Vec<Option<Vec<f32>>> = vec![None; graph.weights.len()];
        for node in &graph.nodes {
            let matrices = match &node.op {
                Op::Linear(l) => vec![l.weight],
                Op::Embed(e) => e.weight.into_iter().collect(),
                _ => Vec::new(),
            };
            for id in node.op.weights().into_iter().filter(|id| !matrices.contains(id)) {
                let name = &graph.weights[id.0 as usize].name;
                let fail = |reason: String| DeviceError::Weight { name: name.clone(), reason };
                let tensor = source.tensor(name).ok_or_else(|| fail("is missing".into()))?;
                vectors[id.0 as usize] = Some(decode_tensor(name, &tensor).map_err(|e| fail(e.to_string()))?);
            }
        }
        let plan = pool.plan();
        let members = (0..graph.states.len()).map(|i| Member::of(graph, plan, segno_ir::StateId(i as u32))).collect();
        Ok(CpuProgram {
            kernels,
            threads,
            graph: graph.clone(),
            source,
            vectors,
            members,
            pool,
            limits: limits.clone(),
            views,
            arena: vec![0.0; total],
            step: 0,
            ticket: 0,
            outputs: VecDeque::new(),
            done: VecDeque::new(),
            tickets: VecDeque::new(),
        })
    }

    /// Whether a row is fed by a token that ended its chain.
    fn ended(&self, input: &Input) -> bool {
        let Input::Sampled { ticket, row } = *input else { return false };
        let found = self.tickets.iter().find(|(t, _)| *t == ticket).and_then(|(_, s)| s.get(row as usize));
        found.is_some_and(|s| s.done)
    }

    /// The token ids of the step's rows, where they have one.
    fn tokens(&self, step: &Step) -> Result<Vec<Option<u32>>, DeviceError> {
        let n = self.graph.n_tokens() as u32;
        let id = |input: &Input| match *input {
            Input::Token(id) => Ok(Some(id)),
            Input::Row { .. } => Ok(None),
            Input::Sampled { ticket, row } => {
                let found = self.tickets.iter().find(|(t, _)| *t == ticket).and_then(|(_, s)| s.get(row as usize));
                found
                    .map(|s| Some(s.id))
                    .ok_or_else(|| DeviceError::Invalid(format!("there is no row {row} of ticket {ticket}")))
            }
        };
        let ids: Vec<Option<u32>> = step.spans.iter().flat_map(|s| &s.inputs).map(id).collect::<Result<_, _>>()?;
        match ids.iter().flatten().find(|&&id| id >= n) {
            Some(id) => Err(DeviceError::Invalid(format!("token {id} is outside the vocabulary of {n}"))),
            None => Ok(ids),
        }
    }
}

impl Program for CpuProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        step.check(self.pool.plan(), &self.limits)?;
        let tokens = self.tokens(step)?;
        let pool = self.pool.clone();
        let pool =
            pool.as_any().downcast_ref::<CpuPool>().ok_or_else(|| DeviceError::Invalid("foreign pool".into()))?;
        let mut data = pool.lock();
        let mut rows = Vec::with_capacity(tokens.len());
        let mut output_rows = Vec::new();
        for (span, s) in step.spans.iter().enumerate() {
            output_rows.extend(s.outputs.iter().map(|&r| rows.len() + r as usize));
            rows.extend((0..s.inputs.len() as u32).map(|i| Row { span, position: s.start + i }));
        }
        let arena = Shared::new(&mut self.arena);
        for (i, node) in self.graph.nodes.iter().enumerate() {
            if step.cancel.is_cancelled() {
                return Err(DeviceError::Cancelled);
            }
            let inputs: Vec<View> = node.inputs.iter().map(|v: &ValueId| self.views[v.0 as usize]).collect();
            let cx = Cx {
                kernels: self.kernels,
                threads: &self.threads,
                graph: &self.graph,
                source: &*self.source,
                vectors: &self.vectors,
                step,
                rows: &rows,
                output_rows: &output_rows,
                arena,
                n_rows: if node.domain == Domain::Token { rows.len() } else { output_rows.len() },
                out: self.views[i],
                inputs: &inputs,
            };
            let PoolData { slots, pages } = &mut *data;
            let layout = &pool.plan().layout;
            match &node.op {
                Op::Embed(o) => op::embed::run(&cx, o, &tokens)?,
                Op::Linear(o) => op::linear::run(&cx, o)?,
                Op::RmsNorm(o) => op::rms_norm::run(&cx, o),
                Op::L2Norm(o) => op::l2_norm::run(&cx, o),
                Op::Rope(o) => op::rope::run(&cx, o),
                Op::Attention(o) => {
                    let member =
                        self.members[o.state.0 as usize].ok_or_else(|| DeviceError::Invalid("no pages".into()))?;
                    op::attention::run(&cx, o, &member, &mut pages[member.group]);
                }
                Op::ShortConv(o) => op::short_conv::run(&cx, o, slots, layout),
                Op::DeltaRule(o) => op::delta_rule::run(&cx, o, slots, layout),
                Op::Activate(o) => op::activate::run(&cx, o),
                Op::Softplus(o) => op::softplus::run(&cx, o),
                Op::Add(_) => op::elementwise(&cx, |a, b| a + b),
                Op::Mul(o) => op::mul::run(&cx, o),
                Op::Scale(o) => op::unary(&cx, |x| x * o.factor),
                Op::SoftCap(o) => op::unary(&cx, |x| o.cap * (x / o.cap).tanh()),
                Op::Slice(o) => op::slice::run(&cx, o),
                Op::SelectRows(_) => op::select_rows::run(&cx),
                other => {
                    let reason = "it is not built yet".into();
                    return Err(DeviceError::Unsupported { device: "cpu".into(), op: other.name().into(), reason });
                }
            }
        }
        let n = output_rows.len();
        let take = |&(output, value): &(Output, ValueId)| {
            let view = self.views[value.0 as usize];
            (output, view.features, self.arena[view.offset..][..n * view.features].to_vec())
        };
        self.step += 1;
        self.outputs.push_back((self.step, self.graph.outputs.iter().map(take).collect()));
        self.done.push_back(
            step.spans.iter().flat_map(|s| s.outputs.iter().map(|&r| self.ended(&s.inputs[r as usize]))).collect(),
        );
        if self.outputs.len() > 2 {
            self.outputs.pop_front();
            self.done.pop_front();
        }
        Ok(Rows { step: self.step, n: n as u32 })
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        let gone = || DeviceError::Invalid(format!("outputs of step {} are gone", rows.step));
        let at = self.outputs.iter().position(|(s, _)| *s == rows.step).ok_or_else(gone)?;
        let (outputs, ended) = (&self.outputs[at].1, &self.done[at]);
        let (_, n, logits) = outputs.iter().find(|(o, _, _)| *o == Output::Logits).ok_or_else(gone)?;
        let draw = |request: &SampleRow| {
            let row = logits.get(request.row as usize * n..(request.row as usize + 1) * n).ok_or_else(gone)?;
            let id = sample(row, request);
            Ok(Sampled { id, done: ended[request.row as usize] || request.stop.contains(&id) })
        };
        let tokens: Vec<Sampled> = requests.iter().map(draw).collect::<Result<_, DeviceError>>()?;
        self.ticket += 1;
        self.tickets.push_back((self.ticket, tokens.clone()));
        if self.tickets.len() > 2 {
            self.tickets.pop_front();
        }
        Ok(Ticket { id: self.ticket, tokens: Pending::ready(tokens) })
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        let found =
            self.outputs.iter().find(|(s, _)| *s == rows.step).and_then(|(_, o)| o.iter().find(|x| x.0 == output));
        let values = found.and_then(|(_, f, v)| v.get(first as usize * f..(first + n) as usize * f));
        match values {
            Some(values) => Pending::ready(values.to_vec()),
            None => Pending::failed(DeviceError::Invalid(format!("{output} of step {} is not there", rows.step))),
        }
    }

    fn profile(&self) -> String {
        format!("{} ops", self.graph.nodes.len())
    }
}
