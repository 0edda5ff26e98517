//! The same bits, whatever travels together, however steps are cut, on any number of threads.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Piece, Random, Rig, Setting, Source, bits, graph, weight};
use segno_ir::op::activate::Activation;
use segno_ir::op::delta_rule::{Decay, HeadMap};
use segno_ir::op::rope::Pairing;
use segno_ir::op::{
    Activate, Add, Attention, DeltaRule, L2Norm, Linear, Mul, RmsNorm, Rope, Scale, SelectiveScan, ShortConv, Slice,
    Softplus, Ssd, TokenShift, Wkv6, Wkv7,
};
use segno_ir::sample::{SampleParams, SampleRow};
use segno_ir::{Builder, DeviceError, Graph, GraphError, Input, KvType, Output, SpanKind, StateDecl, ValueId};
use segno_quant::TensorType;

const WIDTH: usize = 256;

fn linear(b: &mut Builder<'_>, x: ValueId, name: &str, n: usize) -> Result<ValueId, GraphError> {
    let weight = weight(b, name, &[b.features(x), n]);
    let y = b.push(Linear { weight, bias: None }, &[x])?;
    // Sizes stay near 1 whatever the weights are.
    b.push(RmsNorm { group: n, weight: None, eps: 1e-6 }, &[y])
}

/// A hybrid of every op with a state, and a matrix of every type.
fn hybrid() -> (Arc<Source>, Graph) {
    let mut random = Random(21);
    let mut source = Source::default();
    let types = [
        ("q", TensorType::Q4_K, 256),
        ("k", TensorType::Q6_K, 128),
        ("v", TensorType::Q8_0, 128),
        ("wq", TensorType::Q5_K, 256),
        ("wk", TensorType::F16, 128),
        ("wv", TensorType::BF16, 128),
        ("conv_in", TensorType::Q5_0, 3 * 96),
        ("g", TensorType::F32, 3),
        ("beta", TensorType::Q4_0, 3),
        ("gate", TensorType::Q4_1, 256),
        ("up", TensorType::Q5_1, 256),
        ("down", TensorType::Q4_K, 256),
    ];
    for (name, ty, n) in types {
        source.add(&mut random, name, ty, &[WIDTH, n]);
    }
    source.add(&mut random, "mix", TensorType::Q8_0, &[96, WIDTH]);
    source.add(&mut random, "taps", TensorType::F32, &[4, 3 * 96]);
    let source = Arc::new(source);
    let graph = graph(&source, WIDTH, |b, x| {
        let rope = Rope {
            head_dim: 64,
            n_rot: 64,
            pairing: Pairing::Neox,
            base: 10_000.0,
            freq_scale: 1.0,
            yarn: None,
            magnitude: 1.0,
            factors: None,
        };
        let mut x = x;
        for (names, window) in [(["q", "k", "v"], None), (["wq", "wk", "wv"], Some(70))] {
            let q = linear(b, x, names[0], 256)?;
            let k = linear(b, x, names[1], 128)?;
            let v = linear(b, x, names[2], 128)?;
            let (q, k) = (b.push(rope.clone(), &[q])?, b.push(rope.clone(), &[k])?);
            let state = b.state(StateDecl::KeyValue {
                name: "kv".into(),
                n_head_kv: 2,
                d_k: 64,
                d_v: 64,
                v_in_k: false,
                window,
            });
            let y = b.push(
                Attention { state, n_head: 4, scale: 0.125, sinks: None, soft_cap: None, temperature: None },
                &[q, k, v],
            )?;
            x = b.push(Add, &[x, y])?;
        }
        let qkv = linear(b, x, "conv_in", 3 * 96)?;
        let state = b.state(StateDecl::Recurrent { name: "conv".into(), shape: vec![3 * 96, 3] });
        let taps = weight(b, "taps", &[4, 3 * 96]);
        let qkv = b.push(ShortConv { state, weight: taps, bias: None, silu: true }, &[qkv])?;
        let part =
            |b: &mut Builder<'_>, i: usize| b.push(Slice { offset: 96 * i, width: 96, stride: 96, count: 1 }, &[qkv]);
        let (q, k, v) = (part(b, 0)?, part(b, 1)?, part(b, 2)?);
        let (q, k) = (b.push(L2Norm { group: 32, eps: 1e-6 }, &[q])?, b.push(L2Norm { group: 32, eps: 1e-6 }, &[k])?);
        let g = linear(b, x, "g", 3)?;
        let g = b.push(Softplus { bias: None, factor: None }, &[g])?;
        let g = b.push(Scale { factor: -0.3 }, &[g])?;
        let beta = linear(b, x, "beta", 3)?;
        let beta = b.push(Activate { function: Activation::Sigmoid }, &[beta])?;
        let state = b.state(StateDecl::Recurrent { name: "delta".into(), shape: vec![3, 32, 32] });
        let (head_map, decay) = (HeadMap::Grouped, Decay::Head);
        let op = DeltaRule { state, n_head_k: 3, n_head_v: 3, d_k: 32, d_v: 32, head_map, decay, scale: 0.2 };
        let y = b.push(op, &[q, k, v, g, beta])?;
        let y = linear(b, y, "mix", WIDTH)?;
        x = b.push(Add, &[x, y])?;
        let (gate, up) = (linear(b, x, "gate", 256)?, linear(b, x, "up", 256)?);
        let y = b.push(Activate { function: Activation::Silu }, &[gate, up])?;
        let y = linear(b, y, "down", WIDTH)?;
        let y = b.push(Mul { weight: None }, &[y, x])?;
        Ok(vec![b.push(Add, &[x, y])?])
    });
    (source, graph)
}

const ROWS: usize = 150;

fn rig(source: &Arc<Source>, graph: &Graph, setting: &Setting) -> Rig {
    Rig::new(graph, source, 3, 256, setting)
}

/// Outputs and state of a sequence that is cut as given.
fn cut(rig: &mut Rig, graph: &Graph, inputs: &[Input], cuts: &[usize], kind: SpanKind) -> (Vec<u32>, Vec<u32>) {
    let mut outputs = Vec::new();
    let (mut at, mut next) = (0, cuts.iter().cycle());
    while at < inputs.len() {
        let to = (at + next.next().unwrap()).min(inputs.len());
        outputs.extend(bits(&rig.run(graph, &[Piece { kind, ..Piece::new(0, &inputs[at..to]) }])[0]));
        at = to;
    }
    (outputs, bits(&rig.state(0)))
}

#[test]
fn cuts_kinds_threads_and_company_change_no_bit() {
    let (source, graph) = hybrid();
    let inputs = Random(30).inputs(ROWS, WIDTH);
    let others = [Random(31).inputs(47, WIDTH), Random(32).inputs(140, WIDTH)];
    for (portable, kv) in [(false, KvType::F16), (false, KvType::F32), (true, KvType::F32)] {
        let setting = Setting { portable, kv, ..Setting::default() };
        let whole = cut(&mut rig(&source, &graph, &setting), &graph, &inputs, &[ROWS], SpanKind::Prefill);
        assert!(whole.0.iter().all(|&b| !f32::from_bits(b).is_nan()));
        let cuts: &[&[usize]] = if portable { &[&[64, 7]] } else { &[&[64], &[1], &[7, 1, 30], &[149, 1], &[5, 6]] };
        for cuts in cuts {
            for (threads, kind) in [(1, SpanKind::Decode), (2, SpanKind::Prefill), (5, SpanKind::Prefill)] {
                let mut rig = rig(&source, &graph, &Setting { threads, ..setting.clone() });
                let found = cut(&mut rig, &graph, &inputs, cuts, kind);
                assert!(whole == found, "cuts {cuts:?}, {threads} threads, {kind:?}");
            }
        }
        // Together with others, of both kinds, in another order.
        let mut rig = rig(&source, &graph, &Setting { threads: 2, ..setting });
        let mut outputs = Vec::new();
        for (range, first, second) in [(0..70, 0..46, 0..1), (70..71, 46..47, 1..139), (71..ROWS, 0..0, 139..140)] {
            let mine = Piece::new(0, &inputs[range]);
            let mut pieces = vec![Piece { kind: SpanKind::Decode, ..Piece::new(2, &others[1][second]) }, mine];
            if !first.is_empty() {
                pieces.insert(1, Piece::new(1, &others[0][first]));
            }
            let y = rig.run(&graph, &pieces).remove(0);
            let before: usize = pieces[..pieces.len() - 1].iter().map(|p| p.inputs.len() * WIDTH).sum();
            outputs.extend(bits(&y[before..]));
        }
        assert!(whole == (outputs, bits(&rig.state(0))), "together");
    }
}

#[test]
fn a_snapshot_in_mid_scan_is_the_state_of_a_span_cut_there() {
    let (source, graph) = hybrid();
    let inputs = Random(33).inputs(ROWS, WIDTH);
    let mut once = rig(&source, &graph, &Setting { threads: 2, ..Setting::default() });
    let snapshots = vec![(1, 0), (65, 1), (ROWS as u32, 2)];
    once.run(&graph, &[Piece { snapshots, ..Piece::new(0, &inputs) }]);
    let mut steps = rig(&source, &graph, &Setting::default());
    for (i, range) in [0..1, 1..65, 65..ROWS].into_iter().enumerate() {
        steps.run(&graph, &[Piece::new(0, &inputs[range])]);
        assert!(bits(&once.slot(once.snapshots[i])) == bits(&steps.state(0)), "snapshot {i}");
    }
    // Resumed from the middle one.
    let end = once.state(0);
    let state = once.snapshots[1];
    once.rewind(0, 65, state);
    once.run(&graph, &[Piece::new(0, &inputs[65..])]);
    assert!(bits(&end) == bits(&once.state(0)));
}

/// Every recurrence that [`hybrid`] does not have, side by side on parts of the rows.
fn scans() -> (Arc<Source>, Graph) {
    let (n_head, d) = (3, 20);
    let n = n_head * d;
    let mut random = Random(22);
    let mut source = Source::default();
    source.add(&mut random, "u", TensorType::F32, &[n]);
    source.add_between(&mut random, "a", &[d, n], -4.0, -0.1);
    source.add_between(&mut random, "a_head", &[n_head], -4.0, -0.1);
    source.add(&mut random, "d", TensorType::F32, &[n]);
    source.add(&mut random, "d_head", TensorType::F32, &[n_head]);
    let source = Arc::new(source);
    let graph = graph(&source, 6 * n, |b, x| {
        let part = |b: &mut Builder<'_>, offset: usize, width: usize| {
            b.push(Slice { offset, width, stride: width, count: 1 }, &[x])
        };
        let state = |b: &mut Builder<'_>, shape: &[usize]| {
            b.state(StateDecl::Recurrent { name: "s".into(), shape: shape.iter().map(|&n| n as u32).collect() })
        };
        let (r, k, v) = (part(b, 0, n)?, part(b, n, n)?, part(b, 2 * n, n)?);
        let (k_one, r_one) = (part(b, n, d)?, part(b, 0, d)?);
        let (dt, kk, rate) = (part(b, 3 * n, n)?, part(b, 4 * n, n)?, part(b, 5 * n, n)?);
        let (dt_head, beta) = (part(b, 3 * n, n_head)?, part(b, 5 * n, n_head)?);
        let softplus = Softplus { bias: None, factor: None };
        let (dt, dt_head) = (b.push(softplus.clone(), &[dt])?, b.push(softplus, &[dt_head])?);
        let g = b.push(Scale { factor: -0.5 }, &[dt])?;
        let unit = L2Norm { group: d, eps: 1e-6 };
        let (q_unit, k_unit, kk) = (b.push(unit.clone(), &[r])?, b.push(unit.clone(), &[k])?, b.push(unit, &[kk])?);
        let sigmoid = Activate { function: Activation::Sigmoid };
        let (beta, rate) = (b.push(sigmoid.clone(), &[beta])?, b.push(sigmoid, &[rate])?);
        let (minus, change) = (b.push(Scale { factor: -1.0 }, &[kk])?, b.push(Mul { weight: None }, &[kk, rate])?);
        let square = [n_head, d, d];
        let (head_map, decay) = (HeadMap::Grouped, Decay::Channel);
        let delta = DeltaRule {
            state: state(b, &square),
            n_head_k: n_head,
            n_head_v: n_head,
            d_k: d,
            d_v: d,
            head_map,
            decay,
            scale: 0.2,
        };
        let mut ends = vec![b.push(delta, &[q_unit, k_unit, v, g, beta])?];
        for bonus in [None, Some(weight(b, "u", &[n]))] {
            let op = Wkv6 { state: state(b, &square), bonus, n_head, d };
            ends.push(b.push(op, &[r, k, v, g])?);
        }
        let op = Wkv7 { state: state(b, &square), n_head, d };
        ends.push(b.push(op, &[r, k, v, g, minus, change])?);
        let (a, skip) = (weight(b, "a_head", &[n_head]), weight(b, "d_head", &[n_head]));
        let op = Ssd { state: state(b, &square), a, d: skip, n_head, n_group: 1, d_k: d, d_v: d };
        ends.push(b.push(op, &[v, dt_head, k_one, r_one])?);
        let (a, skip) = (weight(b, "a", &[d, n]), weight(b, "d", &[n]));
        let op = SelectiveScan { state: state(b, &[n, d]), a, d: skip, d_state: d };
        ends.push(b.push(op, &[v, dt, k_one, r_one])?);
        let op = TokenShift { state: state(b, &[n]) };
        ends.push(b.push(op, &[v])?);
        Ok(ends)
    });
    (source, graph)
}

#[test]
fn every_recurrence_resumes_anywhere_with_the_same_bits() {
    let (source, graph) = scans();
    let (n, width) = (60, 360);
    let inputs = Random(37).inputs(ROWS, width);
    let exact = segno_ir::reference::Reference::new(&graph, &*source)
        .unwrap()
        .run(&inputs, &(0..ROWS as u32).collect::<Vec<_>>())
        .unwrap();
    for portable in [false, true] {
        let setting = Setting { portable, ..Setting::default() };
        for at in [[1, 31, 32], [63, 64, 65], [100, 127, 149]] {
            let snapshots = at.iter().enumerate().map(|(i, &at)| (at as u32, i)).collect();
            let mut cold = rig(&source, &graph, &setting);
            let whole = cold.run(&graph, &[Piece { snapshots, ..Piece::new(0, &inputs) }]);
            let end = bits(&cold.state(0));
            for (whole, (_, exact)) in whole.iter().zip(&exact) {
                let size = exact.iter().fold(0f64, |a, b| a.max(b.abs()));
                assert!(whole.iter().zip(exact).all(|(y, e)| (f64::from(*y) - e).abs() <= 1e-5 * size));
            }
            // From the start, and from each snapshot, on one thread and on three.
            for (at, snapshot) in [(0, None)].into_iter().chain(at.into_iter().zip((0..).map(Some))) {
                for threads in if snapshot.is_none() { &[1, 3][..] } else { &[1] } {
                    let mut other = rig(&source, &graph, &Setting { threads: *threads, ..setting.clone() });
                    for step in [1, 7, 32, 64, 128] {
                        let rig = if snapshot.is_none() { &mut other } else { &mut cold };
                        rig.rewind(0, at as u32, snapshot.map_or(segno_ir::SlotId::ZERO, |i: usize| rig.snapshots[i]));
                        let mut found = vec![Vec::new(); whole.len()];
                        for part in inputs[at..].chunks(step) {
                            let outputs = rig.run(&graph, &[Piece::new(0, part)]);
                            found.iter_mut().zip(outputs).for_each(|(all, y)| all.extend(y));
                        }
                        for (i, (found, whole)) in found.iter().zip(&whole).enumerate() {
                            assert!(bits(found) == bits(&whole[at * n..]), "output {i}: steps of {step} from {at}");
                        }
                        assert!(bits(&rig.state(0)) == end, "the state after steps of {step} from {at}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_cancelled_step_harms_nothing() {
    let (source, graph) = hybrid();
    let inputs = Random(34).inputs(ROWS, WIDTH);
    for threads in [1, 2] {
        let setting = Setting { threads, ..Setting::default() };
        let whole = cut(&mut rig(&source, &graph, &setting), &graph, &inputs, &[100, 50], SpanKind::Prefill);
        let mut rig = rig(&source, &graph, &setting);
        let mut outputs = bits(&rig.run(&graph, &[Piece::new(0, &inputs[..100])])[0]);
        let (state, page) = (rig.state(0), rig.page(0, 0, 0));
        for delay in [0, 300, 1000, 3000] {
            let step = rig.step(&[Piece::new(0, &inputs[100..])]);
            let cancel = step.cancel.clone();
            let stop = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(delay));
                cancel.cancel();
            });
            if delay == 0 {
                while !step.cancel.is_cancelled() {
                    std::thread::yield_now();
                }
            }
            let result = rig.program.forward(&step);
            stop.join().unwrap();
            // A step may end before the flag is set.
            assert!(matches!(result, Ok(_) | Err(DeviceError::Cancelled)), "{result:?}");
            assert!(delay > 0 || result == Err(DeviceError::Cancelled));
            rig.abort(&step);
            assert!(bits(&state) == bits(&rig.state(0)) && page == rig.page(0, 0, 0));
        }
        outputs.extend(bits(&rig.run(&graph, &[Piece::new(0, &inputs[100..])])[0]));
        assert!(whole == (outputs, bits(&rig.state(0))));
    }
}

#[test]
fn exact_activations_are_closer_to_the_reference() {
    let (source, graph) = hybrid();
    let inputs = Random(35).inputs(20, WIDTH);
    let rows: Vec<u32> = (0..20).collect();
    let exact = segno_ir::reference::Reference::new(&graph, &*source).unwrap().run(&inputs, &rows).unwrap().remove(0).1;
    let error = |setting: Setting| {
        let y = rig(&source, &graph, &setting).run(&graph, &[Piece::new(0, &inputs)]).remove(0);
        y.iter().zip(&exact).map(|(y, e)| (*y as f64 - e).abs()).fold(0.0, f64::max)
    };
    let (rounded, full) = (error(Setting::default()), error(Setting { exact: true, ..Setting::default() }));
    assert!(full < 1e-4 && rounded < 0.5 && full * 10.0 < rounded, "{full} and {rounded}");
}

#[test]
fn calls_that_break_a_rule_are_refused() {
    let (source, graph) = hybrid();
    let inputs = Random(36).inputs(4, WIDTH);
    let mut rig = rig(&source, &graph, &Setting::default());
    let pieces = [Piece::new(0, &inputs), Piece::new(1, &inputs)];
    let invalid = |rig: &mut Rig, step: &segno_ir::Step| {
        assert!(matches!(rig.program.forward(step), Err(DeviceError::Invalid(_))));
        rig.abort(step);
    };
    let good = rig.step(&pieces);
    let mut step = good.clone();
    step.spans[1].to = step.spans[0].to;
    assert!(matches!(rig.program.forward(&step), Err(DeviceError::Invalid(_))));
    rig.abort(&good);
    let mut step = rig.step(&pieces);
    step.spans[1].tables = step.spans[0].tables.clone();
    invalid(&mut rig, &step);
    let mut step = rig.step(&pieces);
    step.spans[1].from = step.spans[0].to;
    invalid(&mut rig, &step);
    let mut step = rig.step(&pieces);
    step.spans[0].inputs[2] = Input::Sampled { ticket: 1, row: 0 };
    invalid(&mut rig, &step);
    let mut step = rig.step(&pieces);
    step.spans[0].inputs[2] = Input::Token(0);
    invalid(&mut rig, &step);
    assert!(rig.pool.write_slot(segno_ir::SlotId(0), &rig.slot(segno_ir::SlotId(1))).is_err());
    assert!(rig.pool.read_slot(segno_ir::SlotId(99)).wait(Duration::ZERO).is_err());
    assert!(rig.pool.read_page(0, segno_ir::PageId(999)).wait(Duration::ZERO).is_err());
    assert!(rig.pool.copy_pages(7, &[], 1).is_err());
    // And then all is well.
    rig.run(&graph, &pieces);
}

/// Embedding, a matrix, logits.
fn tiny() -> (Arc<Source>, Graph) {
    let mut random = Random(40);
    let mut source = Source::default();
    source.add(&mut random, "embedding", TensorType::F16, &[32, 50]);
    source.add(&mut random, "w", TensorType::Q8_0, &[32, 50]);
    let source = Arc::new(source);
    let mut b = Builder::new("tiny", &*source);
    let table = weight(&mut b, "embedding", &[32, 50]);
    let x = b.push(segno_ir::op::Embed { weight: Some(table), features: 32, scale: 1.0 }, &[]).unwrap();
    let x = b.push(segno_ir::op::SelectRows, &[x]).unwrap();
    let w = weight(&mut b, "w", &[32, 50]);
    let y = b.push(Linear { weight: w, bias: None }, &[x]).unwrap();
    let graph = b.finish(&[(Output::Logits, y)]).unwrap();
    (source, graph)
}

#[test]
fn tokens_and_outputs_of_two_steps_stay() {
    let (source, graph) = tiny();
    let mut rig = Rig::new(&graph, &source, 1, 64, &Setting::default());
    let forward = |rig: &mut Rig, input: Input| {
        let inputs = [input];
        let pieces = [Piece::new(0, &inputs)];
        let step = rig.step(&pieces);
        let rows = rig.program.forward(&step);
        match rows {
            Ok(_) => rig.commit(&pieces, &step),
            Err(_) => rig.abort(&step),
        }
        rows
    };
    let request =
        |stop: Vec<u32>| SampleRow { row: 0, params: SampleParams::greedy(), position: 1, bias: Vec::new(), stop };
    let greedy = |y: &[f32]| (0..50).fold(0, |best, i| if y[i as usize] > y[best as usize] { i } else { best });

    let first = forward(&mut rig, Input::Token(3)).unwrap();
    let logits = rig.read(&first, Output::Logits).unwrap();
    let ticket = rig.program.sample(&first, &[request(vec![greedy(&logits)])]).unwrap();
    let mut tokens = ticket.tokens;
    let drawn = tokens.try_take().unwrap().unwrap()[0];
    assert_eq!((drawn.id, drawn.done), (greedy(&logits), true));

    let second = forward(&mut rig, Input::Sampled { ticket: ticket.id, row: 0 }).unwrap();
    let by_sample = rig.read(&second, Output::Logits).unwrap();
    // What follows an end is marked, too.
    let next = rig.program.sample(&second, &[request(Vec::new())]).unwrap();
    assert!(next.tokens.wait(Duration::ZERO).unwrap()[0].done);
    assert_eq!(bits(&rig.read(&first, Output::Logits).unwrap()), bits(&logits));

    let third = forward(&mut rig, Input::Token(drawn.id)).unwrap();
    assert_eq!(bits(&rig.read(&third, Output::Logits).unwrap()), bits(&by_sample));
    assert!(rig.read(&first, Output::Logits).is_err());
    assert_eq!(bits(&rig.read(&second, Output::Logits).unwrap()), bits(&by_sample));
    assert!(rig.program.sample(&first, &[request(Vec::new())]).is_err());
    assert!(rig.program.sample(&third, &[SampleRow { row: 1, ..request(Vec::new()) }]).is_err());
    let later = rig.program.sample(&third, &[request(Vec::new())]).unwrap();
    // The first ticket's tokens are gone.
    assert!(forward(&mut rig, Input::Sampled { ticket: ticket.id, row: 0 }).is_err());
    assert!(forward(&mut rig, Input::Sampled { ticket: later.id, row: 1 }).is_err());
    forward(&mut rig, Input::Sampled { ticket: later.id, row: 0 }).unwrap();
}

#[test]
fn outputs_stay_while_the_next_step_runs() {
    let (source, graph) = hybrid();
    let inputs = Random(41).inputs(40, WIDTH);
    for guard in [false, true] {
        let mut rig = rig(&source, &graph, &Setting { guard, ..Setting::default() });
        let mut before = None;
        for part in inputs.chunks(9) {
            let pieces = [Piece::new(0, part)];
            let step = rig.step(&pieces);
            let rows = rig.program.forward(&step).unwrap();
            rig.commit(&pieces, &step);
            let mine = bits(&rig.read(&rows, Output::Hidden(0)).unwrap());
            if let Some((rows, bits_then)) = before.replace((rows, mine)) {
                assert!(bits(&rig.read(&rows, Output::Hidden(0)).unwrap()) == bits_then, "guard {guard}");
            }
        }
    }
}

#[test]
fn a_step_without_outputs_runs() {
    let (source, graph) = tiny();
    let mut rig = Rig::new(&graph, &source, 1, 64, &Setting::default());
    let inputs = [Input::Token(1)];
    let mut step = rig.step(&[Piece::new(0, &inputs)]);
    step.spans[0].outputs.clear();
    let rows = rig.program.forward(&step).unwrap();
    assert_eq!(rig.read(&rows, Output::Logits).unwrap(), Vec::<f32>::new());
}

#[test]
fn needs_are_what_is_mapped_and_copied() {
    use segno_ir::Device;
    let (_, graph) = hybrid();
    let device = Setting::default().device();
    let mut limits =
        segno_ir::ProgramLimits { max_rows: 64, max_spans: 1, max_outputs: 1, max_context: 64, guard: false };
    let small = device.needs(&graph, &limits);
    limits.max_rows = 128;
    let large = device.needs(&graph, &limits);
    let taps = 4 * 4 * 3 * 96;
    let matrices: usize = graph.weights.iter().map(|w| w.ty.row_bytes(w.row_len()).unwrap() * w.n_rows()).sum();
    assert_eq!((small.weight_bytes, small.mapped_bytes), (taps, matrices as u64 - taps));
    assert!(large.activation_bytes > small.activation_bytes);
    // Reuse: the sum of all values would be several times as much.
    let all: usize = graph.nodes.iter().map(|n| 4 * n.features * 128).sum();
    assert!(large.activation_bytes < all as u64, "{} of {all}", large.activation_bytes);
}
