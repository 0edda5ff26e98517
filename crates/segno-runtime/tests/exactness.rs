//! The exactness rules on the CPU: whatever way a sequence is cut, batched, threaded or disturbed,
//! its logits have the same bits. On a plain and on an adversarial device.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{adversary, cpu, load, model};
use segno_ir::sample::{SampleParams, SampleRow};
use segno_ir::{Cancel, Device, DeviceError, Input, KvType, Output, SpanKind};
use segno_models::Model;
use segno_runtime::{Executor, ExecutorError, ExecutorOptions, SequenceId, Work};

const FILES: &[&str] = &[
    "qwen35/model-f16.gguf",
    "qwen35/model-q8_0.gguf",
    "qwen35/model-q4_k_m.gguf",
    "qwen35moe/model-f16.gguf",
    "qwen35moe/model-q4_k_m.gguf",
    "qwen3next/model-q8_0.gguf",
    "lfm2/model-q4_k_m.gguf",
    "lfm2moe/model-f32.gguf",
    "gemma3/model-f16.gguf",
    "llama/model-f32.gguf",
    "qwen2/model-f32.gguf",
    "qwen3/model-f32.gguf",
    "qwen3moe/model-f32.gguf",
];

fn executor(model: &Model, device: Arc<dyn Device>, n_sequences: u32) -> Executor {
    let options = ExecutorOptions { n_ctx: 640, n_sequences, max_rows: 640, max_outputs: 640, ..Default::default() };
    load(model, device, options)
}

fn with_pages(model: &Model, device: Arc<dyn Device>, k_type: KvType, v_type: KvType) -> Executor {
    let options = ExecutorOptions { n_ctx: 640, max_rows: 640, max_outputs: 640, k_type, v_type, ..Default::default() };
    load(model, device, options)
}

fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| segno_ir::sample::philox([i, seed, 0, 0], [1, 2])[0] % 336).collect()
}

fn work(sequence: SequenceId, kind: SpanKind, tokens: &[u32]) -> Work {
    let inputs = tokens.iter().map(|&t| Input::Token(t)).collect();
    Work { sequence, kind, inputs, outputs: (0..tokens.len() as u32).collect(), snapshots: Vec::new() }
}

fn issue(executor: &mut Executor, works: Vec<Work>) -> Vec<u32> {
    let issued = executor.issue(works, &Cancel::new()).expect("issues");
    let logits = executor.read(&issued.rows, Output::Logits, 0, issued.rows.n).wait(Duration::MAX).expect("logits");
    executor.confirm(issued);
    logits.iter().map(|l| l.to_bits()).collect()
}

/// Logits as bits of the next tokens of a sequence, computed in pieces.
fn resume(executor: &mut Executor, sequence: SequenceId, tokens: &[u32], piece: usize, kind: SpanKind) -> Vec<u32> {
    tokens.chunks(piece).flat_map(|part| issue(executor, vec![work(sequence, kind, part)])).collect()
}

fn run(executor: &mut Executor, tokens: &[u32], piece: usize, kind: SpanKind) -> Vec<u32> {
    let sequence = executor.create().expect("a sequence");
    let bits = resume(executor, sequence, tokens, piece, kind);
    executor.remove(sequence);
    bits
}

#[test]
fn every_cut_gives_the_same_bits() {
    use SpanKind::{Decode, Prefill};
    for file in FILES {
        let model = model(file);
        let tokens = tokens(600, 7);
        let whole = run(&mut executor(&model, cpu(1), 1), &tokens, 600, Prefill);
        assert!(whole.iter().all(|&b| f32::from_bits(b).is_finite()), "{file}");
        let mut one = executor(&model, cpu(1), 1);
        for piece in [1, 7, 32, 64, 512] {
            assert!(
                run(&mut one, &tokens, piece, Prefill) == whole,
                "{file}: pieces of {piece} differ from one prefill"
            );
        }
        assert!(run(&mut one, &tokens, 1, Decode) == whole, "{file}: decoding differs from prefill");
        assert!(run(&mut executor(&model, cpu(2), 1), &tokens, 512, Prefill) == whole, "{file}: two threads differ");
        assert!(
            run(&mut executor(&model, adversary(), 1), &tokens, 64, Prefill) == whole,
            "{file}: adversarial differs"
        );
    }
}

#[test]
fn every_type_of_pages_is_exact() {
    use SpanKind::{Decode, Prefill};
    let places = [1, 31, 64, 100, 128, 199];
    let pairs = [
        (KvType::F16, KvType::F16),
        (KvType::Q8_0, KvType::Q8_0),
        (KvType::Q4_0, KvType::Q4_0),
        (KvType::Q8_0, KvType::Q4_0),
    ];
    for file in ["qwen35/model-f16.gguf", "lfm2/model-q4_k_m.gguf"] {
        let model = model(file);
        let (tokens, n_vocab) = (tokens(200, 9), model.graph.n_vocab());
        for (k, v) in pairs {
            let what = format!("{file}, {}/{}", k.name(), v.name());
            let whole = run(&mut with_pages(&model, cpu(1), k, v), &tokens, 200, Prefill);
            let mut one = with_pages(&model, cpu(1), k, v);
            for (piece, kind) in [(1, Decode), (7, Prefill), (64, Prefill)] {
                assert!(run(&mut one, &tokens, piece, kind) == whole, "{what}: pieces of {piece}");
            }
            assert!(run(&mut with_pages(&model, cpu(2), k, v), &tokens, 200, Prefill) == whole, "{what}: two threads");
            let mut executor = with_pages(&model, adversary(), k, v);
            let free = executor.free();
            let sequence = executor.create().expect("a sequence");
            let cold = Work { snapshots: places.to_vec(), ..work(sequence, Prefill, &tokens) };
            let issued = executor.issue(vec![cold], &Cancel::new()).expect("issues");
            let frozen = executor.confirm(issued);
            executor.remove(sequence);
            assert_eq!(frozen.len(), places.len());
            for ((_, state), at) in frozen.into_iter().zip(places) {
                let sequence = executor.restore(&state, at).expect("restores");
                let replayed = resume(&mut executor, sequence, &tokens[at as usize..], 64, Prefill);
                assert!(replayed == whole[at as usize * n_vocab..], "{what}: from {at}");
                executor.remove(sequence);
                executor.release(state);
            }
            assert_eq!(executor.free(), free, "{what}: slots or pages leaked");
        }
    }
}

#[test]
fn states_of_other_pages_have_another_name() {
    let model = model(FILES[0]);
    let mut names = Vec::new();
    for (k, v) in KvType::ALL.into_iter().flat_map(|k| KvType::ALL.map(|v| (k, v))) {
        let name = with_pages(&model, cpu(1), k, v).numerics();
        assert!(!names.contains(&name), "{name} names two ways to store");
        names.push(name);
    }
    assert_eq!(with_pages(&model, cpu(2), KvType::F32, KvType::F32).numerics(), names[0], "threads change no bit");
}

#[test]
fn smaller_pages_take_fewer_bytes_and_suit_only_whole_blocks() {
    let bytes = |k, v| {
        let executor = with_pages(&model(FILES[0]), cpu(1), k, v);
        executor.ledger().bytes("keys and values") as f64
    };
    let f32 = bytes(KvType::F32, KvType::F32);
    for (ty, bits) in [(KvType::F16, 16.0), (KvType::Q8_0, 8.5), (KvType::Q4_0, 4.5)] {
        assert_eq!(bytes(ty, ty), f32 * bits / 32.0, "{}", ty.name());
        assert_eq!(bytes(KvType::F32, ty), f32 * (1.0 + bits / 32.0) / 2.0, "{}", ty.name());
    }
    // Heads of 16 and 24 numbers.
    for file in ["gemma3/model-f16.gguf", "qwen3/model-f32.gguf"] {
        let model = model(file);
        for (k_type, v_type, flag) in
            [(KvType::Q8_0, KvType::F16, "--cache-type-k f16"), (KvType::F32, KvType::Q4_0, "--cache-type-v f16")]
        {
            let options = ExecutorOptions { k_type, v_type, ..Default::default() };
            match Executor::load(cpu(1), &model.graph, model.source.clone(), options) {
                Err(ExecutorError::Options(text)) => {
                    assert!(text.contains(flag) && text.contains("blk.0.kv"), "{file}: {text}");
                }
                _ => panic!("{file} was loaded"),
            }
        }
    }
}

#[test]
fn sequences_in_one_step_are_as_each_alone() {
    for file in FILES {
        let model = model(file);
        let n_vocab = model.graph.n_vocab();
        let (a, b) = (tokens(150, 1), tokens(97, 2));
        let mut one = executor(&model, cpu(1), 1);
        let alone = (run(&mut one, &a, 150, SpanKind::Prefill), run(&mut one, &b, 97, SpanKind::Prefill));
        for device in [cpu(2), adversary()] {
            let mut executor = executor(&model, device, 2);
            let (first, second) = (executor.create().expect("a"), executor.create().expect("b"));
            let mut bits = (Vec::new(), Vec::new());
            // A long span beside a single row, then the other way round, then two spans.
            for (ra, rb) in [(0..64, 0..1), (64..65, 1..90), (65..150, 90..97)] {
                let split = ra.len() * n_vocab;
                let kind = if rb.len() == 1 { SpanKind::Decode } else { SpanKind::Prefill };
                let works = vec![work(first, SpanKind::Prefill, &a[ra]), work(second, kind, &b[rb])];
                let both = issue(&mut executor, works);
                bits.0.extend(&both[..split]);
                bits.1.extend(&both[split..]);
            }
            assert!(bits == alone, "{file}: together differs from alone");
        }
    }
}

#[test]
fn a_cancelled_step_leaves_the_sequence_as_it_was() {
    let model = model(FILES[0]);
    let tokens = tokens(300, 3);
    let mut executor = executor(&model, cpu(2), 1);
    let whole = run(&mut executor, &tokens, 300, SpanKind::Prefill);
    let before = executor.free();
    let sequence = executor.create().expect("a sequence");
    let head = resume(&mut executor, sequence, &tokens[..100], 100, SpanKind::Prefill);
    // Cancelled before it starts, then at several moments while it runs.
    for delay in [None, Some(0), Some(50), Some(300), Some(1000), Some(3000)] {
        let cancel = Cancel::new();
        if delay.is_none() {
            cancel.cancel();
        }
        let result = std::thread::scope(|scope| {
            let flag = cancel.clone();
            scope.spawn(move || {
                std::thread::sleep(Duration::from_micros(delay.unwrap_or(0)));
                flag.cancel();
            });
            executor.issue(vec![work(sequence, SpanKind::Prefill, &tokens[100..300])], &cancel)
        });
        match result {
            Err(ExecutorError::Device(DeviceError::Cancelled)) => {}
            // It was faster than the flag: take it back by hand.
            Ok(mut issued) => {
                assert!(delay.is_some(), "a step ran though its flag was set");
                executor.undo(&mut issued, sequence);
                executor.confirm(issued);
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(executor.len(sequence).expect("it is there"), 100);
    }
    let tail = resume(&mut executor, sequence, &tokens[100..], 64, SpanKind::Prefill);
    assert!([head, tail].concat() == whole, "the cancelled steps have left something");
    executor.remove(sequence);
    assert_eq!(executor.free(), before, "slots or pages leaked");
}

#[test]
fn forks_share_pages_and_do_not_disturb_each_other() {
    let model = model(FILES[1]);
    for device in [cpu(1), adversary()] {
        let (head, a, b) = (tokens(100, 4), tokens(80, 5), tokens(70, 6));
        let mut executor = executor(&model, device, 2);
        let free = executor.free();
        let mut whole = |tail: &[u32]| run(&mut executor, &[&head, tail].concat(), 64, SpanKind::Prefill);
        let (alone_a, alone_b) = (whole(&a), whole(&b));
        let first = executor.create().expect("a sequence");
        let bits = resume(&mut executor, first, &head, 64, SpanKind::Prefill);
        let second = executor.fork(first).expect("a fork");
        let shared = executor.free();
        let tail_b = resume(&mut executor, second, &b, 64, SpanKind::Prefill);
        let tail_a = resume(&mut executor, first, &a, 64, SpanKind::Prefill);
        assert!([bits.clone(), tail_a].concat() == alone_a && [bits, tail_b].concat() == alone_b);
        assert_eq!(free.1[0] - shared.1[0], 2, "a fork of two pages took more");
        executor.remove(first);
        executor.remove(second);
        assert_eq!(executor.free(), free, "slots or pages leaked");
    }
}

#[test]
fn steps_in_flight_feed_each_other() {
    let model = model(FILES[1]);
    let prompt = tokens(40, 8);
    let draw = |position| {
        let params = SampleParams { seed: 5, ..SampleParams::default() };
        SampleRow { row: 0, params, position, bias: Vec::new(), stop: Vec::new() }
    };
    // Each token known before the next step is issued, or fed back on the device.
    let generate = |device: Arc<dyn Device>, overlapped: bool| {
        let mut executor = executor(&model, device, 1);
        let sequence = executor.create().expect("a sequence");
        let first = Work { outputs: vec![39], ..work(sequence, SpanKind::Prefill, &prompt) };
        let mut flight = Some(executor.issue(vec![first], &Cancel::new()).expect("issues"));
        let rows = flight.as_ref().expect("issued").rows;
        let mut ticket = executor.sample(&rows, &[draw(40)]).expect("samples");
        let mut ids = Vec::new();
        for position in 41..80 {
            let (ticket_id, mut tokens) = (ticket.id, Some(ticket.tokens));
            let mut known = || ids.push(tokens.take().expect("once").wait(Duration::MAX).expect("a token")[0].id);
            let input = match overlapped {
                true => Input::Sampled { ticket: ticket_id, row: 0 },
                false => {
                    known();
                    executor.confirm(flight.take().expect("issued"));
                    Input::Token(*ids.last().expect("pushed"))
                }
            };
            let next =
                Work { sequence, kind: SpanKind::Decode, inputs: vec![input], outputs: vec![0], snapshots: Vec::new() };
            let next = executor.issue(vec![next], &Cancel::new()).expect("issues");
            ticket = executor.sample(&next.rows, &[draw(position)]).expect("samples");
            if let Some(tokens) = tokens {
                ids.push(tokens.wait(Duration::MAX).expect("a token")[0].id);
            }
            flight.replace(next).into_iter().for_each(|before| drop(executor.confirm(before)));
        }
        flight.into_iter().for_each(|last| drop(executor.confirm(last)));
        ids
    };
    let plain = generate(cpu(1), false);
    assert_eq!(generate(adversary(), true), plain);
}
