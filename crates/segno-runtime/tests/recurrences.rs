//! Every recurrent op on a small graph of its own, with random weights: whatever way a sequence is cut, batched,
//! threaded, snapshotted or disturbed, its logits have the same bits. On a plain and on an adversarial device.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::{adversary, cpu};
use segno_ir::op::activate::Activation;
use segno_ir::op::delta_rule::{Decay, HeadMap};
use segno_ir::op::*;
use segno_ir::sample::philox;
use segno_ir::{
    Builder, Cancel, Device, Graph, GraphError, Input, KvType, Output, SpanKind, StateDecl, StateId, Tensor, ValueId,
    WeightId, WeightSource,
};
use segno_runtime::{Executor, ExecutorOptions, Frozen, SequenceId, Work};

const N: usize = 64;
const HEADS: usize = 4;
const D: usize = 16;
const VOCABULARY: usize = 96;
const TOKENS: usize = 1000;

/// Tensors, and between what their elements lie.
const TENSORS: &[(&str, &[usize], f32, f32)] = &[
    ("embed", &[N, VOCABULARY], -1.0, 1.0),
    ("in", &[N, 6 * N], -0.3, 0.3),
    ("out", &[N, N], -0.3, 0.3),
    ("attention.in", &[N, 3 * N], -0.3, 0.3),
    ("attention.out", &[N, N], -0.3, 0.3),
    ("logits", &[N, VOCABULARY], -1.0, 1.0),
    ("conv", &[4, N], -1.0, 1.0),
    ("conv.bias", &[N], -0.5, 0.5),
    ("a", &[D, N], -2.0, -0.01),
    ("d", &[N], -1.0, 1.0),
    ("head.a", &[HEADS], -2.0, -0.01),
    ("head.d", &[HEADS], -1.0, 1.0),
    ("channel.a", &[N], -2.0, -0.01),
    ("bonus", &[N], -1.0, 1.0),
];

struct Source(BTreeMap<&'static str, (Vec<u64>, Vec<u8>)>);

impl Source {
    fn new() -> Arc<Self> {
        let tensor = |(i, &(name, shape, low, high)): (usize, &(&'static str, &[usize], f32, f32))| {
            let element =
                |e: u32| low + (high - low) * (philox([e, i as u32, 0, 0], [3, 4])[0] as f32 / u32::MAX as f32);
            let bytes = (0..shape.iter().product::<usize>() as u32).flat_map(|e| element(e).to_le_bytes()).collect();
            (name, (shape.iter().map(|&n| n as u64).collect(), bytes))
        };
        Arc::new(Source(TENSORS.iter().enumerate().map(tensor).collect()))
    }
}

impl WeightSource for Source {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.0.get(name).map(|(shape, bytes)| Tensor { ty: KvType::F32.tensor_type(), shape, bytes })
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| name.to_string()).collect()
    }
}

/// What the op under test is built from: a builder, and six inputs of [`N`] features.
struct Parts<'b, 's> {
    b: &'b mut Builder<'s>,
    inputs: ValueId,
}

impl Parts<'_, '_> {
    /// The first features of an input.
    fn part(&mut self, i: usize, width: usize) -> Result<ValueId, GraphError> {
        self.b.push(Slice { offset: i * N, width, stride: width, count: 1 }, &[self.inputs])
    }

    fn activated(&mut self, function: Activation, i: usize, width: usize) -> Result<ValueId, GraphError> {
        let x = self.part(i, width)?;
        self.b.push(Activate { function }, &[x])
    }

    /// An input whose heads have length 1.
    fn unit(&mut self, i: usize) -> Result<ValueId, GraphError> {
        let x = self.part(i, N)?;
        self.b.push(L2Norm { group: D, eps: 1e-6 }, &[x])
    }

    fn softplus(&mut self, i: usize, width: usize, factor: Option<&str>) -> Result<ValueId, GraphError> {
        let x = self.part(i, width)?;
        let factor = factor.map(|name| self.weight(name)).transpose()?;
        self.b.push(Softplus { bias: None, factor }, &[x])
    }

    fn weight(&mut self, name: &str) -> Result<WeightId, GraphError> {
        let shape = TENSORS.iter().find(|t| t.0 == name).map_or(&[][..], |t| t.1);
        self.b.weight(name, shape)
    }

    fn state(&mut self, shape: &[usize]) -> StateId {
        let shape = shape.iter().map(|&n| n as u32).collect();
        self.b.state(StateDecl::Recurrent { name: "state".into(), shape })
    }
}

type Body = fn(&mut Parts<'_, '_>) -> Result<ValueId, GraphError>;

const OPS: &[(&str, Body)] = &[
    ("short_conv", |p| {
        let (state, weight, bias) = (p.state(&[N, 3]), p.weight("conv")?, Some(p.weight("conv.bias")?));
        let x = p.part(0, N)?;
        p.b.push(ShortConv { state, weight, bias, silu: true }, &[x])
    }),
    ("delta_rule", |p| delta_rule(p, Decay::Head)),
    ("delta_rule of channels", |p| delta_rule(p, Decay::Channel)),
    ("selective_scan", |p| {
        let (state, a, d) = (p.state(&[N, D]), p.weight("a")?, p.weight("d")?);
        let inputs = [p.part(0, N)?, p.softplus(1, N, None)?, p.part(2, D)?, p.part(3, D)?];
        p.b.push(SelectiveScan { state, a, d, d_state: D }, &inputs)
    }),
    ("ssd", |p| {
        let (state, a, d) = (p.state(&[HEADS, D, D]), p.weight("head.a")?, p.weight("head.d")?);
        let inputs = [p.part(0, N)?, p.softplus(1, HEADS, None)?, p.part(2, 2 * D)?, p.part(3, 2 * D)?];
        p.b.push(Ssd { state, a, d, n_head: HEADS, n_group: 2, d_k: D, d_v: D }, &inputs)
    }),
    ("wkv6", |p| {
        let bonus = Some(p.weight("bonus")?);
        wkv6(p, bonus)
    }),
    ("wkv6 without a bonus", |p| wkv6(p, None)),
    ("wkv7", |p| {
        let state = p.state(&[HEADS, D, D]);
        let (key, rate) = (p.unit(3)?, p.activated(Activation::Sigmoid, 4, N)?);
        let decay = p.activated(Activation::Sigmoid, 5, N)?;
        let log_w = p.b.push(Scale { factor: -0.606_531 }, &[decay])?;
        let (a, b) = (p.b.push(Scale { factor: -1.0 }, &[key])?, p.b.push(Mul { weight: None }, &[key, rate])?);
        let inputs = [p.part(0, N)?, p.part(1, N)?, p.part(2, N)?, log_w, a, b];
        p.b.push(Wkv7 { state, n_head: HEADS, d: D }, &inputs)
    }),
    ("token_shift", |p| {
        let (state, x) = (p.state(&[N]), p.part(0, N)?);
        p.b.push(TokenShift { state }, &[x])
    }),
];

fn delta_rule(p: &mut Parts<'_, '_>, decay: Decay) -> Result<ValueId, GraphError> {
    let state = p.state(&[HEADS, D, D]);
    let g = match decay {
        Decay::Head => p.softplus(3, HEADS, Some("head.a"))?,
        Decay::Channel => p.softplus(3, N, Some("channel.a"))?,
    };
    let inputs = [p.unit(0)?, p.unit(1)?, p.part(2, N)?, g, p.activated(Activation::Sigmoid, 4, HEADS)?];
    let (head_map, scale) = (HeadMap::Grouped, 0.25);
    p.b.push(DeltaRule { state, n_head_k: HEADS, n_head_v: HEADS, d_k: D, d_v: D, head_map, decay, scale }, &inputs)
}

fn wkv6(p: &mut Parts<'_, '_>, bonus: Option<WeightId>) -> Result<ValueId, GraphError> {
    let (state, rate) = (p.state(&[HEADS, D, D]), p.activated(Activation::Exp, 3, N)?);
    let log_w = p.b.push(Scale { factor: -1.0 }, &[rate])?;
    let inputs = [p.part(0, N)?, p.part(1, N)?, p.part(2, N)?, log_w];
    p.b.push(Wkv6 { state, bonus, n_head: HEADS, d: D }, &inputs)
}

/// The op between projections, then attention with a window, each beside a residual.
fn graph(source: &Source, body: Body) -> Result<Graph, GraphError> {
    let mut b = Builder::new("recurrence", source);
    source.names().into_iter().for_each(|name| b.ignore(name));
    let linear = |b: &mut Builder<'_>, name: &str, n_out: usize, x: ValueId| {
        let weight = b.weight(name, &[N, n_out])?;
        b.push(Linear { weight, bias: None }, &[x])
    };
    let norm = RmsNorm { group: N, weight: None, eps: 1e-6 };
    let weight = Some(b.weight("embed", &[N, VOCABULARY])?);
    let x = b.push(Embed { weight, features: N, scale: 1.0 }, &[])?;
    let u = b.push(norm.clone(), &[x])?;
    let inputs = linear(&mut b, "in", 6 * N, u)?;
    let y = body(&mut Parts { b: &mut b, inputs })?;
    let y = linear(&mut b, "out", N, y)?;
    let x = b.push(Add, &[x, y])?;

    let u = b.push(norm.clone(), &[x])?;
    let inputs = linear(&mut b, "attention.in", 3 * N, u)?;
    let mut parts = Parts { b: &mut b, inputs };
    let [q, k, v] = [parts.part(0, N)?, parts.part(1, N)?, parts.part(2, N)?];
    let (name, d) = ("kv".into(), D as u32);
    let window = Some(100);
    let state = b.state(StateDecl::KeyValue { name, n_head_kv: HEADS as u32, d_k: d, d_v: d, v_in_k: false, window });
    let op = Attention { state, n_head: HEADS, scale: 0.25, sinks: None, soft_cap: None, temperature: None };
    let y = b.push(op, &[q, k, v])?;
    let y = linear(&mut b, "attention.out", N, y)?;
    let x = b.push(Add, &[x, y])?;

    let x = b.push(SelectRows, &[x])?;
    let x = b.push(norm, &[x])?;
    let logits = linear(&mut b, "logits", VOCABULARY, x)?;
    b.finish(&[(Output::Logits, logits)])
}

fn executor(graph: &Graph, source: &Arc<Source>, device: Arc<dyn Device>) -> Executor {
    let options = ExecutorOptions {
        n_ctx: 1024,
        n_sequences: 2,
        max_rows: 1024,
        max_outputs: 1024,
        checkpoint_slots: 64,
        ..Default::default()
    };
    Executor::load(device, graph, source.clone(), options).expect("loads")
}

fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| philox([i, seed, 0, 0], [5, 6])[0] % VOCABULARY as u32).collect()
}

fn work(sequence: SequenceId, kind: SpanKind, tokens: &[u32]) -> Work {
    let inputs = tokens.iter().map(|&t| Input::Token(t)).collect();
    Work { sequence, kind, inputs, outputs: (0..tokens.len() as u32).collect(), snapshots: Vec::new() }
}

/// Logits of all rows as bits, and what was frozen.
fn issue(executor: &mut Executor, works: Vec<Work>) -> (Vec<u32>, Vec<Frozen>) {
    let issued = executor.issue(works, &Cancel::new()).expect("issues");
    let logits = executor.read(&issued.rows, Output::Logits, 0, issued.rows.n).wait(Duration::MAX).expect("logits");
    let frozen = executor.confirm(issued).into_iter().map(|(_, frozen)| frozen).collect();
    (logits.iter().map(|l| l.to_bits()).collect(), frozen)
}

/// The next tokens of a sequence in pieces, frozen after the given numbers of them.
fn resume(
    executor: &mut Executor,
    sequence: SequenceId,
    tokens: &[u32],
    (piece, kind): (usize, SpanKind),
    places: &[u32],
) -> (Vec<u32>, Vec<Frozen>) {
    let (mut bits, mut frozen) = (Vec::new(), Vec::new());
    for (i, part) in tokens.chunks(piece).enumerate() {
        let from = (i * piece) as u32;
        let due = places.iter().filter(|&&p| p > from && p <= from + part.len() as u32).map(|p| p - from);
        let (more, states) = issue(executor, vec![Work { snapshots: due.collect(), ..work(sequence, kind, part) }]);
        bits.extend(more);
        frozen.extend(states);
    }
    (bits, frozen)
}

fn run(executor: &mut Executor, tokens: &[u32], piece: usize, kind: SpanKind) -> Vec<u32> {
    let free = executor.free();
    let sequence = executor.create().expect("a sequence");
    let (bits, _) = resume(executor, sequence, tokens, (piece, kind), &[]);
    executor.remove(sequence);
    assert_eq!(executor.free(), free, "slots or pages leaked");
    bits
}

#[test]
fn every_cut_gives_the_same_bits() {
    use SpanKind::{Decode, Prefill};
    let (source, tokens) = (Source::new(), tokens(TOKENS, 1));
    for &(name, body) in OPS {
        let graph = graph(&source, body).expect("builds");
        let mut plain = executor(&graph, &source, cpu(1));
        let whole = run(&mut plain, &tokens, TOKENS, Prefill);
        assert!(whole.iter().all(|&bits| f32::from_bits(bits).is_finite()), "{name}");
        for piece in [1, 7, 32, 64, 128, 512] {
            assert!(run(&mut plain, &tokens, piece, Prefill) == whole, "{name}: pieces of {piece} differ");
        }
        assert!(run(&mut plain, &tokens, 1, Decode) == whole, "{name}: one by one differs");
        for (what, device) in [("two threads", cpu(2)), ("the adversary", adversary())] {
            let mut other = executor(&graph, &source, device);
            for (piece, kind) in [(TOKENS, Prefill), (512, Prefill), (64, Prefill), (7, Prefill), (1, Decode)] {
                assert!(run(&mut other, &tokens, piece, kind) == whole, "{name}: {what}, pieces of {piece} differ");
            }
        }
    }
}

#[test]
fn restored_and_replayed_is_cold_bit_for_bit() {
    use SpanKind::Prefill;
    let (source, tokens) = (Source::new(), tokens(TOKENS, 2));
    // Every multiple of 64, and some positions that are none.
    let places: Vec<u32> = (1..TOKENS as u32).filter(|p| p % 64 == 0 || p % 97 == 5).collect();
    for &(name, body) in OPS {
        let graph = graph(&source, body).expect("builds");
        let cold = run(&mut executor(&graph, &source, cpu(1)), &tokens, TOKENS, Prefill);
        // All snapshots in one step, each restored; or some in each, of which every third is.
        for (what, device, piece, step) in
            [("one thread", cpu(1), TOKENS, 1), ("two threads", cpu(2), 192, 3), ("the adversary", adversary(), 192, 3)]
        {
            let mut executor = executor(&graph, &source, device);
            let free = executor.free();
            let sequence = executor.create().expect("a sequence");
            let (bits, frozen) = resume(&mut executor, sequence, &tokens, (piece, Prefill), &places);
            executor.remove(sequence);
            assert!(bits == cold, "{name}, {what}: snapshots change the bits");
            assert_eq!(frozen.len(), places.len());
            for (i, (state, &at)) in frozen.iter().zip(&places).enumerate().step_by(step) {
                assert_eq!(state.n_tokens(), at);
                let sequence = executor.restore(state, at).expect("restores");
                let piece = [64, 100, 512, TOKENS][i % 4];
                let tail = &tokens[at as usize..];
                let (bits, _) = resume(&mut executor, sequence, tail, (piece, Prefill), &[]);
                executor.remove(sequence);
                assert!(bits == cold[at as usize * VOCABULARY..], "{name}, {what}: from {at} in pieces of {piece}");
            }
            frozen.into_iter().for_each(|state| executor.release(state));
            assert_eq!(executor.free(), free, "{name}, {what}: slots or pages leaked");
        }
    }
}

#[test]
fn sequences_in_one_step_are_as_each_alone() {
    use SpanKind::{Decode, Prefill};
    let source = Source::new();
    let (a, b) = (tokens(250, 3), tokens(197, 4));
    for &(name, body) in OPS {
        let graph = graph(&source, body).expect("builds");
        let mut plain = executor(&graph, &source, cpu(1));
        let alone = (run(&mut plain, &a, 250, Prefill), run(&mut plain, &b, 197, Prefill));
        for (what, device) in [("one thread", cpu(1)), ("two threads", cpu(2)), ("the adversary", adversary())] {
            let mut executor = executor(&graph, &source, device);
            let free = executor.free();
            let (first, second) = (executor.create().expect("a"), executor.create().expect("b"));
            let mut bits = (Vec::new(), Vec::new());
            // A long span beside a single row, then the other way round, then two spans.
            for (ra, rb) in [(0..128, 0..1), (128..129, 1..190), (129..250, 190..197)] {
                let split = ra.len() * VOCABULARY;
                let kind = |n: usize| if n == 1 { Decode } else { Prefill };
                let works =
                    vec![work(first, kind(ra.len()), &a[ra.clone()]), work(second, kind(rb.len()), &b[rb.clone()])];
                let (both, _) = issue(&mut executor, works);
                bits.0.extend(&both[..split]);
                bits.1.extend(&both[split..]);
            }
            assert!(bits == alone, "{name}, {what}: together differs from alone");
            executor.remove(first);
            executor.remove(second);
            assert_eq!(executor.free(), free, "{name}, {what}: slots or pages leaked");
        }
    }
}
