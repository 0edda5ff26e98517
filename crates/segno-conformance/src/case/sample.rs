//! Cases of sampling on the device, against [`segno_ir::sample`]: the same token from the same logits.
//!
//! Bound: a draw is a choice, so the bound is on what it is chosen by. Scores `l / temperature + G` are
//! off by 2.5 ulp of the quotient and by G's error: `-ln(-ln u)` with both logarithms good to 4 ulp is
//! off by 4 ulp from the inner one and 4 ulp of itself from the outer one; the threshold of top-p is
//! that of a sum of `n` exponentials ([`sum`] and [`exp_rel`], a change of a logit by the same amount)
//! and that of min-p has a logarithm's. A token passes if its logit and score are within these errors
//! of the definition's; with these logits nearly every draw has one such token. Greedy draws have no
//! rounding and one right answer.

use std::collections::VecDeque;
use std::sync::Arc;

use segno_ir::device::Sampled;
use segno_ir::op::{Embed, SelectRows};
use segno_ir::sample::{gumbel, sample, threshold};
use segno_ir::{
    Builder, Cancel, Device, DeviceError, Graph, GraphError, Input, KvType, Output, Pending, PoolPlan, Program,
    ProgramLimits, Rows, SampleParams, SampleRow, SlotId, Span, SpanKind, StateLayout, Step, Support,
};
use segno_quant::TensorType;

use super::Cases;
use crate::bound::{U, ULP, exp_rel, sum};
use crate::random::{Random, Values};
use crate::report::{Check, Sink};
use crate::rig::PATIENCE;
use crate::weight::{MemorySource, encode_float};

/// A program over a graph without states.
struct Bench {
    program: Box<dyn Program>,
    /// Position of the next row of every sequence.
    position: u32,
    /// Steps so far: the slots that spans name take turns (there is nothing in them).
    steps: u32,
}

impl Bench {
    fn new(
        device: &dyn Device,
        graph: &Graph,
        source: MemorySource,
        rows: usize,
        draws: usize,
    ) -> Result<Self, DeviceError> {
        for node in &graph.nodes {
            if let Support::No(reason) = device.supports(&node.op, &graph.weights) {
                let device = device.describe().name.clone();
                return Err(DeviceError::Unsupported { device, op: node.op.name().into(), reason });
            }
        }
        let layout = StateLayout::new(graph, KvType::F32, KvType::F32);
        let weights = device.weights(Arc::new(source), graph)?;
        let pool = device.pool(&PoolPlan { layout, slots: 5, pages: Vec::new() })?;
        let limits = ProgramLimits { max_rows: rows, max_spans: 2, max_outputs: draws, max_context: 4096, guard: true };
        Ok(Bench { program: device.compile(graph, &weights, &pool, &limits)?, position: 0, steps: 0 })
    }

    /// A step of up to two sequences, all of whose rows have outputs.
    fn forward(&mut self, sequences: Vec<Vec<Input>>, kind: SpanKind) -> Result<Rows, DeviceError> {
        let turn = self.steps % 2;
        let rows = sequences.first().map_or(0, Vec::len) as u32;
        let span = |(i, inputs): (usize, Vec<Input>)| Span {
            from: SlotId(2 * i as u32 + 1 + turn),
            to: SlotId(2 * i as u32 + 2 - turn),
            tables: Vec::new(),
            start: self.position,
            kind,
            outputs: (0..inputs.len() as u32).collect(),
            inputs,
            snapshots: Vec::new(),
        };
        let spans = sequences.into_iter().enumerate().map(span).collect();
        self.steps += 1;
        self.position += rows;
        self.program.forward(&Step { spans, cancel: Cancel::new() })
    }
}

fn invalid(error: GraphError) -> DeviceError {
    DeviceError::Invalid(format!("the case could not be built: {error}"))
}

/// Given rows are the logits.
fn row_graph(n_vocab: usize, source: &MemorySource) -> Result<Graph, GraphError> {
    let mut b = Builder::new("case", source);
    let x = b.push(Embed { weight: None, features: n_vocab, scale: 1.0 }, &[])?;
    let y = b.push(SelectRows, &[x])?;
    b.finish(&[(Output::Logits, y)])
}

/// Whether the definition draws `id`, or would within the errors that f32 functions have.
fn may_be_drawn(logits: &[f32], request: &SampleRow, id: u32) -> Result<(), String> {
    let right = sample(logits, request);
    if id == right {
        return Ok(());
    }
    let params = &request.params;
    let wrong = format!("drew {id}, expected {right}");
    if params.temperature <= 0.0 || id as usize >= logits.len() {
        return Err(wrong);
    }
    let mut logits = logits.to_vec();
    for &(id, bias) in &request.bias {
        if let Some(l) = logits.get_mut(id as usize) {
            *l += bias;
        }
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let keep = threshold(&logits, params) as f64;
    let slack = 2.0 * (sum(logits.len()) + exp_rel(keep - max)) + 4.0 * ULP * (max.abs() + keep.abs() + 1.0);
    let score = |id: u32| {
        let scaled = logits[id as usize] as f64 / params.temperature as f64;
        let g = gumbel(params.seed, request.position, id) as f64;
        (scaled + g, 2.5 * ULP * scaled.abs() + 4.0 * ULP * (1.0 + g.abs()) + U * (scaled + g).abs())
    };
    // What is certainly kept must not score higher than `id`.
    let (own, own_error) = score(id);
    let beaten = (0..logits.len() as u32).find(|&other| {
        let (s, e) = score(other);
        logits[other as usize] as f64 >= keep + slack && s - e > own + own_error
    });
    match logits[id as usize] as f64 >= keep - slack && beaten.is_none() {
        true => Ok(()),
        false => Err(format!("{wrong}: score {own}, kept from {keep}, logit {}", logits[id as usize])),
    }
}

struct Draws {
    n_vocab: usize,
    rows: usize,
    values: Values,
    params: SampleParams,
    /// Requests per row: positions and biases differ.
    per_row: usize,
}

fn draws(device: &dyn Device, rng: &mut Random, sink: &mut Sink, case: &Draws) -> Result<(), DeviceError> {
    let Draws { n_vocab, rows, values, ref params, per_row } = *case;
    let source = MemorySource::default();
    let graph = row_graph(n_vocab, &source).map_err(invalid)?;
    let mut bench = Bench::new(device, &graph, source, rows, rows * per_row)?;
    let mut logits = Vec::new();
    for row in 0..rows {
        let mut values_of_row = vec![0.0; n_vocab];
        values.fill(rng, row, &mut values_of_row);
        logits.push(values_of_row);
    }
    if n_vocab > 3 {
        // Equal logits and a NaN.
        logits[0][n_vocab - 1] = logits[0][1];
        logits[0][2] = f32::NAN;
    }
    let inputs = logits.iter().map(|l| Input::Row { values: l.as_slice().into(), content: 0 }).collect();
    let issued = bench.forward(vec![inputs], SpanKind::Prefill)?;
    let mut requests = Vec::new();
    for i in 0..rows * per_row {
        let bias = match i % 3 {
            2 => vec![(rng.below(n_vocab) as u32, 2.5), (n_vocab as u32 - 1, -100.0), (u32::MAX, 1.0)],
            _ => Vec::new(),
        };
        let row = (rows - 1 - i % rows) as u32;
        let position = [i as u32, u32::MAX - i as u32, 65_536 + i as u32][i % 3];
        requests.push(SampleRow { row, params: params.clone(), position, bias, stop: vec![i as u32 % n_vocab as u32] });
    }
    let tokens = bench.program.sample(&issued, &requests)?.tokens.wait(PATIENCE)?;
    let mut wrong =
        (tokens.len() != requests.len()).then(|| format!("{} tokens for {} requests", tokens.len(), requests.len()));
    for (i, (token, request)) in tokens.iter().zip(&requests).enumerate() {
        if let Err(message) = may_be_drawn(&logits[request.row as usize], request, token.id) {
            wrong = wrong.or(Some(format!("request {i}: {message}")));
        }
        if token.done != request.stop.contains(&token.id) {
            wrong = wrong
                .or(Some(format!("request {i}: done is {}, drew {} with {:?}", token.done, token.id, request.stop)));
        }
    }
    sink.exact(Check::Draw, true, wrong);
    Ok(())
}

/// Tokens that stay on the device: each row's greedy successor is the next token (a permutation), two
/// chains advance in one program without a look at their tokens, and `done` stays set.
fn chain(device: &dyn Device, rng: &mut Random, sink: &mut Sink, n_vocab: usize) -> Result<(), DeviceError> {
    let mut next: Vec<usize> = (0..n_vocab).collect();
    rng.shuffle(&mut next);
    let mut table = vec![0f32; n_vocab * n_vocab];
    for (id, row) in table.chunks_exact_mut(n_vocab).enumerate() {
        row.iter_mut().for_each(|v| *v = rng.between(-1.0, 1.0));
        row[next[id]] = 2.0;
    }
    let mut source = MemorySource::default();
    let bytes = encode_float(TensorType::F32, &table).unwrap_or_default();
    source.add("w", TensorType::F32, &[n_vocab, n_vocab], &bytes);
    let graph = token_graph(n_vocab, &source).map_err(invalid)?;
    let mut bench = Bench::new(device, &graph, source, 2, 2)?;
    let mut expected = [0, n_vocab / 2];
    let mut inputs = expected.map(|id| Input::Token(id as u32));
    let mut under_way: VecDeque<(Pending<Vec<Sampled>>, [usize; 2], usize)> = VecDeque::new();
    let mut wrong = None;
    for step in 0..6 {
        let rows = bench.forward(inputs.map(|i| vec![i]).into(), SpanKind::Decode)?;
        expected = expected.map(|id| next[id]);
        let request = |row: usize| {
            // The first chain meets its stop token in the second step.
            let stop = if row == 0 && step == 1 { vec![expected[0] as u32] } else { Vec::new() };
            let (params, position) = (SampleParams::greedy(), step as u32 + 1);
            SampleRow { row: row as u32, params, position, bias: Vec::new(), stop }
        };
        let ticket = bench.program.sample(&rows, &[request(0), request(1)])?;
        inputs = [0, 1].map(|row| Input::Sampled { ticket: ticket.id, row });
        under_way.push_back((ticket.tokens, expected, step));
        // Two steps are under way before the first one's tokens are looked at.
        while under_way.len() > if step == 5 { 0 } else { 2 } {
            let Some((tokens, expected, step)) = under_way.pop_front() else { break };
            for (row, token) in tokens.wait(PATIENCE)?.into_iter().enumerate() {
                let done = row == 0 && step >= 1;
                // After its stop token a chain's ids mean nothing.
                let ended = row == 0 && step > 1;
                if token.done != done || (!ended && token.id as usize != expected[row]) {
                    let right = expected[row];
                    wrong = wrong
                        .or(Some(format!("step {step}, chain {row}: {token:?}, expected {right} and done {done}")));
                }
            }
        }
    }
    sink.exact(Check::Draw, true, wrong);
    Ok(())
}

/// Logits are rows of a table.
fn token_graph(n_vocab: usize, source: &MemorySource) -> Result<Graph, GraphError> {
    let mut b = Builder::new("case", source);
    let weight = Some(b.weight("w", &[n_vocab, n_vocab])?);
    let x = b.push(Embed { weight, features: n_vocab, scale: 1.0 }, &[])?;
    let y = b.push(SelectRows, &[x])?;
    b.finish(&[(Output::Logits, y)])
}

pub(super) fn cases(out: &mut Cases) {
    let plain = SampleParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 };
    let sets = [
        ("greedy", SampleParams::greedy()),
        ("plain", plain.clone()),
        ("defaults", SampleParams { seed: 0x0123_4567_89ab_cdef, ..SampleParams::default() }),
        ("top_k=1", SampleParams { top_k: 1, ..plain.clone() }),
        ("top_k=5", SampleParams { top_k: 5, temperature: 0.7, ..plain.clone() }),
        ("top_k=2000", SampleParams { top_k: 2000, top_p: 0.9, ..plain.clone() }),
        ("top_p=0.5", SampleParams { top_p: 0.5, seed: u64::MAX, ..plain.clone() }),
        ("top_p=0", SampleParams { top_p: 0.0, ..plain.clone() }),
        ("min_p=0.2", SampleParams { min_p: 0.2, temperature: 1.5, ..plain.clone() }),
        ("cold", SampleParams { temperature: 1e-3, ..plain.clone() }),
        ("hot", SampleParams { temperature: 100.0, top_k: 40, ..plain }),
    ];
    for (what, params) in sets {
        for (n_vocab, rows, values, per_row) in [
            (1, 1, Values::Normal, 2),
            (3, 2, Values::Normal, 3),
            (257, 3, Values::Scaled(3.0), 5),
            (1000, 2, Values::Sparse, 5),
            (5003, 2, Values::Scaled(4.0), 5),
        ] {
            let name = format!("{what},vocabulary={n_vocab},rows={rows},x={values}");
            let case = Draws { n_vocab, rows, values, params: params.clone(), per_row };
            out.direct("F32", name, Box::new(move |device, rng, sink| draws(device, rng, sink, &case)));
        }
    }
    for n_vocab in [4, 130] {
        let direct = move |device: &dyn Device, rng: &mut Random, sink: &mut Sink| chain(device, rng, sink, n_vocab);
        out.direct("F32", format!("chain,vocabulary={n_vocab}"), Box::new(direct));
    }
}
