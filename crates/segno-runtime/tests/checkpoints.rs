//! Checkpoints: whatever is restored, replies and bits are those of a cold run, only what changed is read again, and
//! nothing leaks. On a plain and on an adversarial device, for every kind of state.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{FILES, Folder, Watch, adversary, cpu, generate, load, model, request, tokens, watched};
use segno_ir::sample::{SampleParams, philox};
use segno_ir::{Cancel, Device, DeviceError, Input, Output, SpanKind, Step};
use segno_models::Model;
use segno_runtime::image::{Fingerprint, Image, Key, Made, Precision};
use segno_runtime::store::{Store, StoreOptions};
use segno_runtime::{
    CheckpointMode, CheckpointOptions, EmbeddedRow, Engine, EngineOptions, Event, Executor, ExecutorOptions, Frozen,
    Report, Request, SequenceId, Tier, Why, Work,
};

// ---- bits -----------------------------------------------------------------------------------------------------------

fn executor(model: &Model, device: Arc<dyn Device>) -> Executor {
    let options = ExecutorOptions {
        n_ctx: 1024,
        n_sequences: 2,
        max_rows: 1024,
        max_outputs: 8,
        checkpoint_slots: 1100,
        ..Default::default()
    };
    load(model, device, options)
}

/// Reads tokens in pieces and freezes after the given numbers of them; the last row's logits as bits.
fn read(
    executor: &mut Executor,
    sequence: SequenceId,
    tokens: &[u32],
    piece: usize,
    snapshots: &[u32],
) -> (Vec<Frozen>, Vec<u32>) {
    let (mut frozen, mut bits, mut at) = (Vec::new(), Vec::new(), 0);
    for part in tokens.chunks(piece) {
        let (from, to) = (at as u32, (at + part.len()) as u32);
        let due = snapshots.iter().filter(|&&s| s > from && s <= to).map(|s| s - from);
        let work = Work {
            sequence,
            kind: SpanKind::Prefill,
            inputs: part.iter().map(|&t| Input::Token(t)).collect(),
            outputs: vec![part.len() as u32 - 1],
            snapshots: due.collect(),
        };
        let issued = executor.issue(vec![work], &Cancel::new()).expect("issues");
        let logits = executor.read(&issued.rows, Output::Logits, 0, 1).wait(Duration::MAX).expect("logits");
        bits = logits.iter().map(|l| l.to_bits()).collect();
        frozen.extend(executor.confirm(issued).into_iter().map(|(_, frozen)| frozen));
        at += part.len();
    }
    (frozen, bits)
}

#[test]
fn restored_and_replayed_is_cold_bit_for_bit() {
    const PIECES: [usize; 6] = [1, 7, 32, 64, 128, 512];
    for file in FILES.iter().chain(&["qwen3next/model-q8_0.gguf"]) {
        let model = model(file);
        let tokens = tokens(&model, 1000, 1);
        let mut one = executor(&model, cpu(1));
        // Every position of a short prompt; the pieces take turns.
        let short = &tokens[..260];
        let sequence = one.create().expect("a sequence");
        let (frozen, cold) = read(&mut one, sequence, short, 260, &(1..260).collect::<Vec<_>>());
        one.remove(sequence);
        for (i, state) in frozen.into_iter().enumerate() {
            let (at, piece) = (state.n_tokens() as usize, PIECES[i % PIECES.len()]);
            assert_eq!(at, i + 1);
            let sequence = one.restore(&state, at as u32).expect("restores");
            let (_, bits) = read(&mut one, sequence, &short[at..], piece, &[]);
            one.remove(sequence);
            one.release(state);
            assert!(bits == cold, "{file}: from {at} of 260 in pieces of {piece}");
        }
        let sequence = one.create().expect("a sequence");
        // Every multiple of 64, and some positions that are none.
        let places: Vec<u32> = (1..=1000).filter(|p| p % 64 == 0 || p % 97 == 5).collect();
        let (frozen, cold) = read(&mut one, sequence, &tokens, 1000, &places);
        one.remove(sequence);
        assert_eq!(frozen.len(), places.len());
        for (i, (state, &at)) in frozen.iter().zip(&places).enumerate() {
            assert_eq!(state.n_tokens(), at);
            for piece in PIECES.into_iter().skip(if i % 8 == 0 { 0 } else { 3 }) {
                if at == 1000 {
                    continue;
                }
                let sequence = one.restore(state, at).expect("restores");
                let (_, bits) = read(&mut one, sequence, &tokens[at as usize..], piece, &[]);
                one.remove(sequence);
                assert!(bits == cold, "{file}: from {at} in pieces of {piece}");
            }
        }
        frozen.into_iter().for_each(|state| one.release(state));
        for device in [cpu(2), adversary()] {
            let mut other = executor(&model, device);
            let before = other.free();
            let sequence = other.create().expect("a sequence");
            let (frozen, bits) = read(&mut other, sequence, &tokens, 192, &places);
            other.remove(sequence);
            assert!(bits == cold, "{file}: another device differs");
            for (state, &at) in frozen.iter().zip(&places).step_by(5) {
                let sequence = other.restore(state, at).expect("restores");
                let (_, bits) = read(&mut other, sequence, &tokens[at as usize..], 64, &[]);
                other.remove(sequence);
                assert!(bits == cold, "{file}: another device, from {at}");
            }
            frozen.into_iter().for_each(|state| other.release(state));
            assert_eq!(other.free(), before, "{file}: something leaked");
        }
    }
}

/// Brings a state to the host.
fn export(executor: &mut Executor, frozen: &Frozen, tokens: &[u32]) -> Image {
    let export = executor.export(frozen);
    let (slot, tables) = executor.finish(export, Duration::MAX).expect("comes");
    let keys = tokens[..frozen.n_tokens() as usize].iter().map(|&t| Key::from(t)).collect();
    let fingerprint = executor.fingerprint();
    Image { fingerprint, keys, made: Made::Prefill, precision: Precision::F32, slot, tables, logits: None }
}

#[test]
fn a_state_that_was_on_the_host_is_the_same_to_the_bit() {
    for file in FILES {
        let model = model(file);
        let tokens = tokens(&model, 700, 2);
        let mut one = executor(&model, cpu(1));
        let sequence = one.create().expect("a sequence");
        let (frozen, cold) = read(&mut one, sequence, &tokens, 700, &[64, 333, 500, 512]);
        one.remove(sequence);
        let images: Vec<Image> = frozen.iter().map(|state| export(&mut one, state, &tokens)).collect();
        // Released before its bytes have come.
        let early = one.export(&frozen[2]);
        frozen.into_iter().for_each(|state| one.release(state));
        let (slot, tables) = one.finish(early, Duration::MAX).expect("comes");
        assert!(slot.iter().zip(&images[2].slot).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(tables == images[2].tables, "{file}");
        for device in [cpu(2), adversary()] {
            let mut other = executor(&model, device);
            let before = other.free();
            let states: Vec<Frozen> = images.iter().map(|image| other.import(image).expect("fits")).collect();
            let pages = before.1[0] - other.free().1[0];
            assert!(pages <= 10 + 3, "{file}: {pages} pages for 512 tokens: full ones are not shared");
            for (state, image) in states.iter().zip(&images) {
                let again = export(&mut other, state, &tokens);
                assert!(again.slot.iter().zip(&image.slot).all(|(a, b)| a.to_bits() == b.to_bits()));
                assert!(again.tables == image.tables, "{file}");
                let at = state.n_tokens();
                // Twice: the first goes on in pages of its own.
                for piece in [64, 512] {
                    let sequence = other.restore(state, at).expect("restores");
                    let (_, bits) = read(&mut other, sequence, &tokens[at as usize..], piece, &[]);
                    other.remove(sequence);
                    assert!(bits == cold, "{file}: from {at}");
                }
            }
            states.into_iter().for_each(|state| other.release(state));
            let refused = |other: &mut Executor, change: &dyn Fn(&mut Image), why: &str| {
                let mut image = images[1].clone();
                change(&mut image);
                let error = other.import(&image).expect_err("refused").to_string();
                assert!(error.contains(why), "{file}: {error}");
            };
            let content = Fingerprint { content: 1, ..images[1].fingerprint };
            refused(&mut other, &|image| image.fingerprint = content, "another model");
            let numerics = Fingerprint { numerics: 1, ..images[1].fingerprint };
            refused(&mut other, &|image| image.fingerprint = numerics, "another backend");
            refused(&mut other, &|image| image.slot.push(0.0), "values, the model has");
            refused(&mut other, &|image| image.logits = Some(Arc::new([0.0])), "not the model's");
            refused(&mut other, &|image| drop(image.tables[0].pages.pop()), "group 0 has pages");
            refused(&mut other, &|image| drop(image.tables.pop()), "groups, the model has");
            let long = |image: &mut Image| {
                image.keys.resize(1025, Key::from(0));
                image.tables.iter_mut().for_each(|t| t.pages.resize(17 - t.first as usize, t.pages[0].clone()));
            };
            refused(&mut other, &long, "raise -c");
            assert_eq!(other.free(), before, "{file}: something leaked");
        }
    }
}

#[test]
fn f14_states_keys_and_values_after_a_restore_are_those_of_a_cold_run() {
    for file in FILES {
        let model = model(file);
        // Whole pages: what lies behind the last token of one is anything.
        let tokens = tokens(&model, 640, 24);
        let mut one = executor(&model, cpu(1));
        let sequence = one.create().expect("a sequence");
        let (mut frozen, _) = read(&mut one, sequence, &tokens, 640, &[64, 100, 333, 512, 639, 640]);
        one.remove(sequence);
        let end = frozen.pop().expect("the end");
        let cold = export(&mut one, &end, &tokens);
        one.release(end);
        for (state, piece) in frozen.into_iter().zip([576, 1, 64, 7, 1]) {
            let at = state.n_tokens();
            let sequence = one.restore(&state, at).expect("restores");
            read(&mut one, sequence, &tokens[at as usize..], piece, &[]);
            let end = one.freeze(sequence).expect("freezes");
            let again = export(&mut one, &end, &tokens);
            assert!(again.slot.iter().zip(&cold.slot).all(|(a, b)| a.to_bits() == b.to_bits()), "{file}: from {at}");
            assert!(again.tables == cold.tables, "{file}: from {at}");
            one.remove(sequence);
            one.release(state);
            one.release(end);
        }
    }
}

// ---- the engine -----------------------------------------------------------------------------------------------------

fn engine_of(model: &Model, device: Arc<dyn Device>, checkpoints: CheckpointOptions, n_sequences: u32) -> Engine {
    let options = ExecutorOptions {
        n_ctx: 1024,
        n_sequences,
        max_rows: 128,
        checkpoint_slots: 40,
        checkpoint_bytes: Some(64 << 20),
        ..Default::default()
    };
    let executor = load(model, device, options);
    Engine::start(executor, model.graph.n_tokens(), EngineOptions { checkpoints, ..Default::default() })
}

fn engine(model: &Model, device: Arc<dyn Device>) -> Engine {
    engine_of(model, device, CheckpointOptions::default(), 2)
}

/// The reply, after checking that it is a cold run's; its report.
fn checked(engine: &Engine, request: Request) -> (Vec<u32>, Report) {
    let (reply, report) = generate(engine, request.clone());
    let (cold, _) = generate(engine, Request { forget: true, ..request });
    assert_eq!(reply, cold, "restored at {:?}", report.reuse);
    (reply, report)
}

/// A conversation of messages with their borders.
#[derive(Clone, Default)]
struct Talk {
    messages: Vec<Vec<u32>>,
}

impl Talk {
    fn request(&self, max_tokens: usize) -> Request {
        let mut borders = Vec::new();
        let mut n = 0;
        for message in &self.messages {
            n += message.len() as u32;
            borders.push(n);
        }
        Request { borders, ..request(&self.messages.concat(), max_tokens) }
    }
}

fn talk(model: &Model, system: usize, n: usize, length: usize, seed: u32) -> Talk {
    let mut messages = vec![tokens(model, system, seed)];
    messages.extend((0..n).map(|i| tokens(model, length, seed * 100 + i as u32 + 1)));
    Talk { messages }
}

/// Runs a check on every kind of model, on a plain and on an adversarial device.
fn everywhere(check: impl Fn(&Model, &Engine)) {
    for file in FILES {
        let model = model(file);
        for device in [cpu(1), adversary()] {
            let engine = engine(&model, device);
            let before = engine.free().expect("runs");
            check(&model, &engine);
            engine.forget().expect("runs");
            assert_eq!(engine.free().expect("runs"), before, "{file}: a slot or page leaked");
        }
    }
}

#[test]
fn f1_an_edit_inside_the_prompt_replays_what_follows_it() {
    everywhere(|model, engine| {
        let mut talk = talk(model, 200, 12, 35, 3);
        checked(engine, talk.request(8));
        for depth in [1, 3, 4, 6] {
            let at = talk.messages.len() - depth;
            talk.messages.insert(at, tokens(model, 17, 50 + depth as u32));
            let tail: usize = talk.messages[at..].iter().map(Vec::len).sum();
            let (_, report) = checked(engine, talk.request(8));
            let replayed = report.prompt_tokens - report.reused_tokens;
            assert!(replayed <= tail + 64, "depth {depth}: replayed {replayed} for a tail of {tail}");
        }
        // Anywhere: a bound that grows with the distance from the end.
        let whole = talk.messages.concat();
        for q in [30, 150, 199, 333, 512, 600] {
            let mut edited = whole.clone();
            edited[q] = (edited[q] + 1) % model.graph.n_tokens() as u32;
            let (_, report) = checked(engine, request(&edited, 4));
            let d = whole.len() - q;
            let replayed = report.prompt_tokens - report.reused_tokens;
            let places = engine.checkpoint_positions(&whole).expect("runs");
            assert!(
                replayed <= d + 128.max(d * 35 / 100),
                "{}, edit at {q}: replayed {replayed} of {}, {places:?}",
                model.architecture,
                whole.len()
            );
            assert_eq!((report.reuse.common, report.reuse.diverged), (q, true));
        }
    });
}

#[test]
fn f2_reasoning_that_is_stripped_replays_only_what_stands_behind_it() {
    everywhere(|model, engine| {
        let mut talk = talk(model, 150, 3, 40, 4);
        let (reply, _) = checked(engine, talk.request(60));
        // The first half of the reply was reasoning.
        talk.messages.push(reply[30..].to_vec());
        talk.messages.push(tokens(model, 20, 77));
        let (_, report) = checked(engine, talk.request(8));
        assert!(report.reused_tokens >= 270, "went on from {} of 270", report.reused_tokens);
    });
}

#[test]
fn f3_f8_a_regenerate_replays_nothing() {
    everywhere(|model, engine| {
        let talk = talk(model, 100, 4, 33, 5);
        let (first, _) = checked(engine, talk.request(20));
        let before = engine.checkpoints().expect("runs");
        let (again, report) = generate(engine, talk.request(20));
        assert_eq!((&again, report.reused_tokens), (&first, report.prompt_tokens));
        assert_eq!(report.reuse.why, Some(Why::PromptEnd));
        let other = SampleParams { seed: 99, ..talk.request(20).params };
        let (swipe, report) = checked(engine, Request { params: other, ..talk.request(20) });
        assert_eq!(report.reused_tokens, report.prompt_tokens);
        assert_ne!(swipe, first);
        // Back on the first branch, a message later.
        let back = [talk.request(0).prompt, first, tokens(model, 10, 8)].concat();
        let (_, report) = checked(engine, request(&back, 4));
        assert!(report.prompt_tokens - report.reused_tokens <= 11);
        assert!(engine.checkpoints().expect("runs").count >= before.count);
        // The same prompt without a reply has nothing to do at all.
        let (none, report) = generate(engine, talk.request(0));
        assert_eq!((none.len(), report.generated_tokens), (0, 0));
        assert_eq!(report.reused_tokens, report.prompt_tokens);
    });
}

#[test]
fn f4_f5_side_requests_and_conversations_in_turn_cost_each_other_nothing() {
    everywhere(|model, engine| {
        let mut talks = [talk(model, 120, 3, 30, 6), talk(model, 120, 3, 30, 7), talk(model, 120, 3, 30, 8)];
        for round in 0..4 {
            for (i, talk) in talks.iter_mut().enumerate() {
                let (reply, report) = checked(engine, talk.request(12));
                if round > 0 {
                    let replayed = report.prompt_tokens - report.reused_tokens;
                    assert!(replayed <= 21, "conversation {i} replayed {replayed}");
                }
                talk.messages.push(reply);
                talk.messages.push(tokens(model, 20, 200 + round * 10 + i as u32));
                // A title for it.
                let mut side = talk.clone();
                side.messages.pop();
                side.messages.push(tokens(model, 9, 400 + round));
                let (_, report) = checked(engine, side.request(5));
                assert!(report.prompt_tokens - report.reused_tokens <= 10);
            }
        }
    });
}

#[test]
fn f6_f9_history_that_is_trimmed_or_cut_goes_on_from_the_first_message() {
    everywhere(|model, engine| {
        let mut talk = talk(model, 300, 8, 30, 9);
        checked(engine, talk.request(4));
        talk.messages.drain(1..4);
        let (_, report) = checked(engine, talk.request(4));
        assert!(report.reused_tokens >= 300, "the first message was read again: {}", report.reused_tokens);
        // Cut anywhere.
        let whole = talk.messages.concat();
        for n in [whole.len() - 1, whole.len() - 32, 330, 301, 300, 128, 64] {
            let (_, report) = checked(engine, request(&whole[..n], 4));
            let (replayed, d) = (n - report.reused_tokens, whole.len() - n);
            assert!((1..=128.max(d * 35 / 100)).contains(&replayed), "cut to {n}: replayed {replayed}");
        }
    });
}

#[test]
fn f10_a_reply_that_is_tokenised_anew_replays_a_few_tokens() {
    everywhere(|model, engine| {
        let prompt = tokens(model, 150, 10);
        let (reply, _) = checked(engine, request(&prompt, 40));
        for back in [1usize, 2, 3, 5, 9, 17] {
            let kept = 39 - back;
            let mut next = [&prompt[..], &reply[..kept]].concat();
            next.push((reply[kept] + 1) % model.graph.n_tokens() as u32);
            next.extend(tokens(model, 6, 30 + back as u32));
            let (_, report) = checked(engine, request(&next, 4));
            let replayed = report.prompt_tokens - report.reused_tokens;
            assert!(replayed < 7 + back, "{back} back: replayed {replayed}");
        }
    });
}

#[test]
fn f11_embedded_rows_are_known_by_their_content() {
    let model = model(FILES[0]);
    let width = model.graph.nodes[0].features;
    let engine = engine(&model, cpu(1));
    let row = |position, content: u128| EmbeddedRow {
        position,
        values: (0..width).map(|i| philox([i as u32, content as u32, 0, 0], [1, 1])[0] as f32 / 1e9 - 2.0).collect(),
        content,
    };
    let image = |content: u128| Request {
        rows: (100..118).map(|i| row(i, content * 100 + i as u128)).collect(),
        ..request(&tokens(&model, 120, 11), 6)
    };
    let (first, _) = checked(&engine, image(1));
    let (other, report) = checked(&engine, image(2));
    assert_eq!(report.reuse.common, 100, "another image has another key");
    assert!((64..=100).contains(&report.reused_tokens), "went on from {} of 100", report.reused_tokens);
    assert_ne!(first, other);
    let mut next = image(1);
    next.prompt.extend(tokens(&model, 5, 12));
    let (_, report) = checked(&engine, next);
    assert!(report.reused_tokens >= 120);
    let bad = Request { rows: vec![row(500, 1)], ..image(1) };
    assert!(engine.generate(bad).collect_blocking().expect_err("refused").to_string().contains("row 0"));
}

#[test]
fn f12_windows_are_rewound_past_their_width() {
    let model = model("gemma3/model-f16.gguf");
    let engine = engine(&model, cpu(1));
    let whole = tokens(&model, 700, 13);
    checked(&engine, request(&whole, 4));
    for n in [690, 650, 500, 300, 100, 40] {
        let (_, report) = checked(&engine, request(&[&whole[..n], &tokens(&model, 3, 14)].concat(), 4));
        let d = 700 - n;
        assert!(n - report.reused_tokens <= 128.max(d * 35 / 100), "{n}: went on from {}", report.reused_tokens);
    }
}

#[test]
fn f13_memory_stays_within_the_budget_and_heads_go_last() {
    for file in FILES {
        let model = model(file);
        let options = ExecutorOptions {
            n_ctx: 512,
            n_sequences: 1,
            max_rows: 128,
            checkpoint_bytes: Some(3 << 20),
            ..Default::default()
        };
        let executor = load(&model, cpu(1), options);
        let engine = Engine::start(executor, model.graph.n_tokens(), EngineOptions::default());
        let system = tokens(&model, 130, 15);
        for i in 0..40 {
            let mut talk = talk(&model, 0, 6, 30, 300 + i);
            talk.messages[0] = system.clone();
            let (_, report) = generate(&engine, talk.request(10));
            let stats = report.checkpoints;
            assert!(stats.device_bytes <= stats.budget && stats.budget <= 3 << 20, "{file}: {stats:?}");
            if i > 0 {
                assert!(report.reused_tokens >= 130, "{file}: the system prompt was read again at {i}");
            }
        }
        engine.set_checkpoint_budget(1 << 19).expect("runs");
        let stats = engine.checkpoints().expect("runs");
        assert!(stats.device_bytes <= 1 << 19, "{file}: {stats:?}");
    }
}

#[test]
fn unasked_checkpoints_take_a_quarter_of_what_is_left_at_most() {
    let model = model(FILES[0]);
    let load = |memory_limit, checkpoint_bytes| {
        let options = ExecutorOptions { n_ctx: 4096, memory_limit, checkpoint_bytes, ..Default::default() };
        Executor::load(cpu(1), &model.graph, model.source.clone(), options)
    };
    let all = load(None, None).expect("loads");
    let (total, wanted) = (all.ledger().total(Tier::Device), all.checkpoint_bytes());
    for spare in [0, 1 << 16, 1 << 20] {
        let tight = load(Some(total - wanted + spare), None).expect("the model alone fits");
        assert!(tight.checkpoint_bytes() <= spare / 4, "{} of {spare}", tight.checkpoint_bytes());
    }
    let refused = load(Some(total - wanted), Some(1 << 20)).err().expect("refused");
    assert!(refused.to_string().contains("--checkpoint-budget"), "{refused}");
}

#[test]
fn equal_requests_together_read_the_prompt_once() {
    let model = model(FILES[0]);
    for device in [cpu(2), adversary()] {
        let engine = engine_of(&model, device, CheckpointOptions::default(), 8);
        let prompt = tokens(&model, 300, 16);
        let greedy = Request { params: SampleParams::greedy(), ..request(&prompt, 20) };
        let (alone, _) = generate(&engine, Request { forget: true, ..greedy.clone() });
        let together: Vec<_> = (0..8).map(|_| engine.generate(greedy.clone())).collect();
        let results: Vec<_> = together.into_iter().map(|g| g.collect_blocking().expect("a reply")).collect();
        assert!(results.iter().all(|(reply, _)| *reply == alone));
        let read: usize = results.iter().map(|(_, r)| r.prompt_tokens - r.reused_tokens).sum();
        assert_eq!(read, 300, "the prompt was read more than once");
        // Prompts that part late share what they can.
        let parts: Vec<_> = (0..6)
            .map(|i| engine.generate(request(&[tokens(&model, 256, 17), tokens(&model, 20, 40 + i)].concat(), 3)))
            .collect();
        let read: usize = parts
            .into_iter()
            .map(|g| g.collect_blocking().expect("a reply").1)
            .map(|r| r.prompt_tokens - r.reused_tokens)
            .sum();
        assert!(read <= 256 + 6 * 20 + 64, "{read} tokens were read");
    }
}

#[test]
fn cancelled_requests_leave_the_tree_as_good_as_before() {
    everywhere(|model, engine| {
        let talk = talk(model, 200, 6, 40, 18);
        let (reply, _) = checked(engine, talk.request(10));
        for i in 0..6 {
            let mut other = talk.clone();
            other.messages.insert(2, tokens(model, 100, 60 + i));
            let generation = engine.generate(other.request(50));
            if i % 2 == 0 {
                drop(generation);
            } else {
                generation.cancel_flag().cancel();
                let _ = generation.collect_blocking();
            }
        }
        let (again, report) = generate(engine, talk.request(10));
        assert_eq!((again, report.reused_tokens), (reply, report.prompt_tokens));
    });
}

#[test]
fn exact_requests_go_on_from_a_reply_once_it_was_read_again() {
    let model = model(FILES[0]);
    let prompt = tokens(&model, 150, 21);
    for fair_copy in [false, true] {
        let options = CheckpointOptions { exact: true, fair_copy, ..CheckpointOptions::default() };
        let engine = engine_of(&model, adversary(), options, 2);
        let (reply, report) = generate(&engine, request(&prompt, 60));
        let next = [&prompt[..], &reply, &tokens(&model, 5, 22)].concat();
        // The copy is made as soon as nothing else is to do.
        for _ in 0..500 {
            let places = engine.checkpoint_positions(&next).expect("runs");
            if places.contains(&(209, Why::PromptEnd)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(report.reused_tokens, 0);
        let (_, report) = checked(&engine, request(&next, 5));
        let from = if fair_copy { 209 } else { 150 };
        assert_eq!((report.reused_tokens, report.reuse.made), (from, Made::Prefill), "fair copy: {fair_copy}");
        if !fair_copy {
            continue;
        }
        // A request comes before it.
        let (reply, _) = generate(&engine, request(&tokens(&model, 700, 23), 60));
        let (again, _) = checked(&engine, request(&prompt, 60));
        assert_eq!((reply.len(), again.len()), (60, 60));
    }
}

#[test]
fn f15_a_report_says_what_was_reused_and_where_the_prompt_parts() {
    everywhere(|model, engine| {
        let whole = tokens(model, 500, 25);
        let (reply, cold) = checked(engine, request(&whole, 20));
        assert_eq!((cold.reuse.common, cold.reuse.diverged, cold.reuse.why, cold.reused_tokens), (0, false, None, 0));
        let all = [&whole[..], &reply].concat();
        for i in 0..12u32 {
            let q = 20 + philox([i, 0, 0, 0], [1, 2])[0] as usize % 480;
            let mut edited = all[..q].to_vec();
            // Another token there than any prompt so far.
            edited.push((all[q] + 1 + i) % model.graph.n_tokens() as u32);
            edited.extend(tokens(model, 9, 800 + i));
            let places = engine.checkpoint_positions(&edited).expect("runs");
            let (_, report) = checked(engine, request(&edited, 2));
            let reuse = report.reuse;
            assert_eq!((reuse.common, reuse.diverged), (q, true), "the first token that differs");
            assert_eq!(reuse.restored_at, report.reused_tokens);
            assert_eq!(reuse.why.is_some(), reuse.restored_at > 0);
            let named = places.contains(&(reuse.restored_at as u32, reuse.why.unwrap_or(Why::End)));
            // Attention alone goes back to any token.
            assert!(named || reuse.restored_at == q || reuse.restored_at == 0, "{reuse:?}, {places:?}");
        }
        // A prompt that only goes on parts from nothing.
        let next = [&all[..], &tokens(model, 5, 26)].concat();
        let (_, report) = checked(engine, request(&next, 2));
        assert_eq!((report.reuse.common, report.reuse.diverged), (519, false), "the last token drawn was never read");
    });
}

// ---- defects of other engines ---------------------------------------------------------------------------------------

/// What a device was given to do.
#[derive(Default)]
struct Counts {
    prompt_steps: AtomicUsize,
    prompt_rows: AtomicUsize,
    reply_rows: AtomicUsize,
    /// The next step fails.
    fails: AtomicBool,
}

/// Takes at least so long for a step of a prompt.
const PROMPT_STEP: Duration = Duration::from_millis(2);

impl Watch for Counts {
    fn forward(&self, step: &Step) -> Result<(), DeviceError> {
        if self.fails.swap(false, Ordering::Relaxed) {
            return Err(DeviceError::Invalid("told to fail".into()));
        }
        let rows = |kind| step.spans.iter().filter(|s| s.kind == kind).map(|s| s.inputs.len()).sum::<usize>();
        let prompt_rows = rows(SpanKind::Prefill);
        if prompt_rows > 0 {
            self.prompt_steps.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PROMPT_STEP);
        }
        self.prompt_rows.fetch_add(prompt_rows, Ordering::Relaxed);
        self.reply_rows.fetch_add(rows(SpanKind::Decode), Ordering::Relaxed);
        Ok(())
    }
}

impl Counts {
    /// Takes what was counted: steps of prompts, rows of prompts, rows of replies.
    fn take(&self) -> (usize, usize, usize) {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::Relaxed);
        (take(&self.prompt_steps), take(&self.prompt_rows), take(&self.reply_rows))
    }
}

fn counting(inner: Arc<dyn Device>) -> (Arc<dyn Device>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    (watched(inner, &counts), counts)
}

/// The three policies.
fn policies() -> [CheckpointOptions; 3] {
    [CheckpointMode::Tree, CheckpointMode::Off, CheckpointMode::Hybrid { interval: 64, slots: 4 }]
        .map(|mode| CheckpointOptions { mode, ..CheckpointOptions::default() })
}

/// hybrid-cpp restores a state that has read the whole new prompt, and then feeds the last token to it once more.
#[test]
fn defect_a_a_prompt_that_ends_at_a_checkpoint_leaves_a_token_to_read() {
    for file in FILES {
        let model = model(file);
        for options in policies() {
            let engine = engine_of(&model, adversary(), options.clone(), 2);
            let whole = tokens(&model, 420, 27);
            let (reply, _) = checked(&engine, request(&whole, 20));
            // The last token was drawn, but never read: a state stands at the end of this.
            let all = [&whole[..], &reply[..19]].concat();
            let mut places = engine.checkpoint_positions(&all).expect("runs");
            if places.last().is_none_or(|p| p.0 < 439) {
                places.push((439, Why::End));
            }
            assert!(
                places.len() > 4 || options.mode == CheckpointMode::Off || engine_is_rewindable(file),
                "{places:?}"
            );
            for (p, why) in places.into_iter().rev().filter(|p| p.0 != 420) {
                let (_, report) = checked(&engine, request(&all[..p as usize], 4));
                assert!(
                    report.reused_tokens < p as usize,
                    "{file}, {:?}: nothing to read at {p} ({why})",
                    options.mode
                );
            }
        }
    }
}

/// Whether every position of a model can be gone back to.
fn engine_is_rewindable(file: &str) -> bool {
    file.starts_with("llama")
}

/// hybrid-cpp restores an old state if only the last token drawn differs, which no state has read.
#[test]
fn defect_b_another_last_token_goes_on_from_the_live_state() {
    for file in FILES {
        let model = model(file);
        for options in policies() {
            let engine = engine_of(&model, adversary(), options.clone(), 2);
            let prompt = tokens(&model, 200, 28);
            let (reply, _) = generate(&engine, request(&prompt, 30));
            let mut next = [&prompt[..], &reply].concat();
            next[229] = (next[229] + 1) % model.graph.n_tokens() as u32;
            next.extend(tokens(&model, 5, 29));
            let (_, report) = generate(&engine, request(&next, 4));
            assert_eq!(report.reused_tokens, 229, "{file}, {:?}", options.mode);
        }
    }
}

/// hybrid-cpp clears its pool from another thread without a lock.
#[test]
fn defect_c_checkpoints_are_dropped_while_replies_are_under_way() {
    everywhere(|model, engine| {
        let talks: Vec<Talk> = (0..3).map(|i| talk(model, 130, 3, 30, 600 + i)).collect();
        let cold: Vec<_> =
            talks.iter().map(|t| generate(engine, Request { forget: true, ..t.request(12) }).0).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0u64.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    engine.forget().expect("runs");
                    engine.pin(&talks[0].request(0).prompt, i.is_multiple_of(2)).expect("runs");
                    engine.set_checkpoint_budget((64 << 20) >> (i % 12)).expect("runs");
                }
            });
            let ask = |talk: &Talk| generate(engine, talk.request(12)).0;
            let found: Vec<Vec<_>> = (0..8).map(|_| talks.iter().map(ask).collect()).collect();
            done.store(true, Ordering::Relaxed);
            assert!(found.iter().all(|replies| *replies == cold));
        });
    });
}

/// hybrid-cpp fails a request whose decode fails in the middle, and leaves the state where that was.
#[test]
fn defect_e_a_step_that_fails_leaves_every_state_as_it_was() {
    for file in FILES {
        let model = model(file);
        let (device, counts) = counting(cpu(1));
        let engine = engine(&model, device);
        let before = engine.free().expect("runs");
        let talk = talk(&model, 150, 4, 30, 610);
        let (reply, _) = checked(&engine, talk.request(10));
        let next = [talk.request(0).prompt, reply, tokens(&model, 300, 611)].concat();
        counts.fails.store(true, Ordering::Relaxed);
        let error = engine.generate(request(&next, 10)).collect_blocking().expect_err("it fails").to_string();
        assert!(error.contains("told to fail"), "{error}");
        let (_, report) = checked(&engine, request(&next, 10));
        assert_eq!(report.reused_tokens, 279, "{file}: what the failed request went on from is gone");
        engine.forget().expect("runs");
        assert_eq!(engine.free().expect("runs"), before, "{file}: a slot or page leaked");
    }
}

/// hybrid-cpp saves states that nothing will ever restore.
#[test]
fn defect_f_nothing_is_saved_that_cannot_be_used() {
    for file in FILES {
        let model = model(file);
        for options in policies() {
            let engine = engine_of(&model, adversary(), options.clone(), 1);
            let talk = talk(&model, 200, 6, 30, 620);
            let (_, report) = generate(&engine, Request { forget: true, ..talk.request(40) });
            let held = (report.saved, report.checkpoints.count, report.checkpoints.device_bytes);
            assert_eq!(held, (0, 0, 0), "{file}, {:?}: left behind by a request that forgets", options.mode);
            let (_, report) = generate(&engine, talk.request(40));
            let most = match options.mode {
                CheckpointMode::Off => 0,
                // Any position can be gone back to: the end is enough.
                CheckpointMode::Tree if engine_is_rewindable(file) => 1,
                _ => usize::MAX,
            };
            assert!(report.saved <= most, "{file}, {:?}: {} saved", options.mode, report.saved);
        }
        // States that generating has made are not a cold run's where its kernels differ.
        let options = CheckpointOptions { exact: true, ..CheckpointOptions::default() };
        let engine = engine_of(&model, adversary(), options, 1);
        let (reply, report) = generate(&engine, request(&tokens(&model, 100, 621), 40));
        let all = [tokens(&model, 100, 621), reply].concat();
        let places = engine.checkpoint_positions(&all).expect("runs");
        let useless = places.iter().filter(|p| matches!(p.1, Why::Recent | Why::Reply)).count();
        assert_eq!(useless, 0, "{file}: {} saved, {places:?}", report.saved);
    }
}

/// hybrid-cpp's states are worth nothing once another conversation has taken the place of their keys and values.
#[test]
fn defect_g_a_checkpoint_holds_its_keys_and_values() {
    for file in FILES {
        let model = model(file);
        let engine = engine_of(&model, adversary(), CheckpointOptions::default(), 1);
        let talk = talk(&model, 150, 4, 30, 630);
        let (reply, _) = checked(&engine, talk.request(20));
        // The only sequence is used up to its end, again and again.
        for i in 0..4 {
            generate(&engine, Request { forget: true, ..request(&tokens(&model, 1000, 631 + i), 20) });
        }
        let (again, report) = checked(&engine, talk.request(20));
        assert_eq!((again, report.reused_tokens), (reply, 270), "{file}");
        let mut edited = talk.clone();
        edited.messages[3] = tokens(&model, 30, 640);
        let (_, report) = checked(&engine, edited.request(20));
        assert_eq!(report.reused_tokens, if engine_is_rewindable(file) { report.reuse.common } else { 210 }, "{file}");
    }
}

/// hybrid-cpp's `cache_prompt: false` may run as if it were true, and no field of the reply says so.
#[test]
fn defect_h_a_request_that_forgets_reads_all_and_leaves_nothing() {
    for file in FILES {
        let model = model(file);
        let (device, counts) = counting(adversary());
        let engine = engine(&model, device);
        let talk = talk(&model, 150, 4, 30, 650);
        let (reply, _) = generate(&engine, talk.request(20));
        let held = engine.checkpoints().expect("runs");
        counts.take();
        let (again, report) = generate(&engine, Request { forget: true, ..talk.request(20) });
        assert_eq!((again, counts.take().1), (reply, 270), "{file}: tokens of the prompt that were read");
        assert_eq!((report.reused_tokens, report.reuse.why, report.saved), (0, None, 0), "{file}: what it says");
        assert_eq!(engine.checkpoints().expect("runs"), held, "{file}: what is remembered has changed");
    }
}

/// KoboldCpp's figures are wrong after reuse: time a token read, times all tokens of the prompt.
#[test]
fn defect_i_figures_are_true_after_reuse() {
    for file in FILES {
        let model = model(file);
        for (options, inner) in policies().into_iter().zip([cpu(1), adversary(), adversary()]) {
            let (device, counts) = counting(inner);
            let engine = engine_of(&model, device, options, 1);
            let mut text = tokens(&model, 300, 660);
            for turn in 0..10u32 {
                let fresh = tokens(&model, 25, 661 + turn);
                match turn {
                    1 | 6 => {}
                    3 => text.truncate(200),
                    4 => drop(text.splice(100..110, fresh)),
                    8 => text = fresh,
                    _ => text.extend(fresh),
                }
                let max_tokens = if turn == 6 { 0 } else { 15 };
                counts.take();
                let begun = Instant::now();
                let mut generation = engine.generate(request(&text, max_tokens));
                let mut read = None;
                let (mut drawn, mut report) = (Vec::new(), None);
                while let Some(event) = generation.next_blocking() {
                    match event {
                        Event::Prompt { done, total } => read = Some((done, total)),
                        Event::Token(id) => drawn.push(id),
                        Event::Done(r) => report = Some(r),
                        Event::Failed(error) => panic!("{error}"),
                    }
                }
                let (took, report) = (begun.elapsed(), report.expect("a report"));
                let (steps, prompt_rows, reply_rows) = counts.take();
                assert_eq!(report.prompt_tokens, text.len());
                assert_eq!(report.reused_tokens + prompt_rows, text.len(), "{file}, turn {turn}: rows read");
                assert_eq!(report.generated_tokens, drawn.len());
                // The last token is not read; a step that was under way at the end may have read one more.
                let most = drawn.len() + 1;
                assert!((drawn.len().saturating_sub(1)..=most).contains(&reply_rows), "{reply_rows} of {most}");
                assert!(read.is_none_or(|(done, total)| done <= total && total == text.len()));
                assert!(report.prompt_time >= PROMPT_STEP * steps as u32, "{:?}, {steps} steps", report.prompt_time);
                assert!(report.prompt_time + report.generation_time <= took, "{report:?} in {took:?}");
                assert!(report.reuse.restore_time <= report.prompt_time && report.save_time <= took);
                text.extend(&drawn);
            }
        }
    }
}

/// hybrid-cpp ends a decode call at every checkpoint.
#[test]
fn hole_8_checkpoints_split_no_step() {
    for file in FILES {
        let model = model(file);
        let steps = policies().map(|options| {
            let (device, counts) = counting(cpu(1));
            let engine = engine_of(&model, device, options, 1);
            let (_, report) = generate(&engine, talk(&model, 200, 20, 33, 670).request(3));
            (counts.take().0, report.saved)
        });
        assert_eq!(steps.map(|s| s.0), [7; 3], "{file}: steps for 860 tokens in batches of 128");
        assert!(steps[0].1 >= if engine_is_rewindable(file) { 1 } else { 12 }, "{file}: {} saved", steps[0].1);
    }
}

/// hybrid-cpp takes no checkpoint while it generates, so an edit of a long reply reads all of it again.
#[test]
fn hole_4_an_edit_inside_a_long_reply_replays_little_before_it() {
    everywhere(|model, engine| {
        let prompt = tokens(model, 120, 680);
        let (reply, _) = checked(engine, request(&prompt, 300));
        for (i, back) in
            [1, 2, 3, 5, 8, 13, 21, 34, 40, 52, 60, 63, 64, 100, 150, 200, 250, 290].into_iter().enumerate()
        {
            let kept = 299 - back;
            let mut next = [&prompt[..], &reply[..kept]].concat();
            next.push((reply[kept] + 1) % model.graph.n_tokens() as u32);
            let (_, report) = if i % 4 == 0 { checked } else { generate }(engine, request(&next, 3));
            let extra = 120 + kept - report.reused_tokens;
            let most = if back < 128 { back - 1 } else { 128 };
            assert!(extra <= most, "{}, {back} back: {extra} more than what follows", model.architecture);
        }
    });
}

/// hybrid-cpp loses the state near the end when a prompt grows by a few tokens, and the grid has holes where it was.
#[test]
fn hole_5_many_short_turns_leave_no_hole() {
    everywhere(|model, engine| {
        let mut talk = talk(model, 100, 0, 0, 690);
        for i in 0..40 {
            talk.messages.push(tokens(model, 7, 691 + i));
            let (reply, _) = generate(engine, talk.request(4));
            talk.messages.push(reply);
        }
        let whole = talk.messages.concat();
        for d in [3, 9, 30, 70, 130, 200, 300, 400] {
            let q = whole.len() - d;
            let edited = [&whole[..q], &tokens(model, d, 750 + d as u32)].concat();
            let (_, report) = checked(engine, request(&edited, 2));
            let extra = report.reuse.common - report.reused_tokens;
            assert!(extra <= 128.max(d * 35 / 100), "{}, {d} from the end: {extra} more", model.architecture);
        }
    });
}

// ---- folders --------------------------------------------------------------------------------------------------------

/// An engine with a folder for checkpoints.
fn engine_with(model: &Model, device: Arc<dyn Device>, folder: &Folder, exact: bool, store: StoreOptions) -> Engine {
    let options = ExecutorOptions {
        n_ctx: 1024,
        n_sequences: 2,
        max_rows: 128,
        checkpoint_bytes: Some(16 << 20),
        ..Default::default()
    };
    let executor = load(model, device, options);
    let store = Store::open(&folder.0, executor.fingerprint(), store).expect("opens");
    let checkpoints = CheckpointOptions { exact, ..CheckpointOptions::default() };
    let options = EngineOptions { checkpoints, store: Some(Arc::new(store)), ..Default::default() };
    Engine::start(executor, model.graph.n_tokens(), options)
}

fn store_options() -> StoreOptions {
    StoreOptions { queue: 1000, ..StoreOptions::default() }
}

#[test]
fn f7_a_restart_loses_nothing() {
    for (i, file) in FILES.iter().enumerate() {
        let model = model(file);
        let folder = Folder::new(&format!("restart-{i}"));
        let device = || if i % 2 == 0 { cpu(1) } else { adversary() };
        let start = || engine_with(&model, device(), &folder, false, store_options());
        let mut talk = talk(&model, 200, 6, 35, 70);
        let first = start();
        let (reply, report) = checked(&first, talk.request(20));
        assert_eq!(report.reused_tokens, 0);
        drop(first);

        let second = start();
        let before = second.free().expect("runs");
        // A retry: not a token, thanks to the logits.
        let (again, report) = checked(&second, talk.request(20));
        assert_eq!((&again, report.reused_tokens), (&reply, report.prompt_tokens), "{file}");
        assert!(report.checkpoints.on_disk.0 >= 2, "{:?}", report.checkpoints);
        second.forget().expect("runs");
        assert_eq!(second.free().expect("runs"), before, "{file}: a slot or page leaked");
        drop(second);

        let third = start();
        // The next turn: the last token of the reply, which nobody has read, and the question.
        let edited = talk.clone();
        talk.messages.push(reply);
        talk.messages.push(tokens(&model, 15, 71));
        let (_, report) = checked(&third, talk.request(4));
        assert!(report.prompt_tokens - report.reused_tokens <= 16, "{file}: went on from {}", report.reused_tokens);
        drop(third);

        // An edit: from the first message's end.
        let fourth = start();
        let mut edited = edited;
        edited.messages[1] = tokens(&model, 30, 72);
        let (_, report) = checked(&fourth, edited.request(4));
        assert!(report.reused_tokens >= 200, "{file}: went on from {}", report.reused_tokens);
    }
}

#[test]
fn what_the_device_has_no_room_for_comes_back_from_the_folder() {
    let model = model(FILES[0]);
    let folder = Folder::new("evicted");
    let engine = engine_with(&model, adversary(), &folder, false, store_options());
    engine.set_checkpoint_budget(1 << 20).expect("runs");
    let talks: Vec<Talk> = (0..6).map(|i| talk(&model, 150, 5, 30, 80 + i)).collect();
    for talk in &talks {
        generate(&engine, talk.request(10));
    }
    engine.flush().expect("runs");
    for talk in &talks {
        let (_, report) = checked(&engine, talk.request(10));
        assert_eq!(report.reused_tokens, report.prompt_tokens, "{report:?}");
        let stats = report.checkpoints;
        assert!(stats.device_bytes <= stats.budget, "{stats:?}");
    }
}

#[test]
fn rounded_states_are_for_those_who_asked_only() {
    let model = model(FILES[0]);
    let folder = Folder::new("rounded");
    let prompt = tokens(&model, 300, 90);
    let int8 = StoreOptions { precision: Precision::Int8, ..store_options() };
    generate(&engine_with(&model, cpu(1), &folder, false, int8.clone()), request(&prompt, 10));
    // Another run takes them, and what it reads on after them stays marked.
    let next = [&prompt[..], &tokens(&model, 40, 91)].concat();
    let (_, report) = generate(&engine_with(&model, cpu(1), &folder, false, store_options()), request(&next, 10));
    assert_eq!((report.reused_tokens, report.reuse.made), (300, Made::Rounded));
    let exact = engine_with(&model, cpu(1), &folder, true, store_options());
    let (_, report) = checked(&exact, request(&next, 10));
    assert_eq!(report.reused_tokens, 0);
    // What the exact run has read takes their place.
    drop(exact);
    let (_, report) = checked(&engine_with(&model, cpu(1), &folder, true, store_options()), request(&next, 10));
    assert_eq!((report.reused_tokens, report.reuse.made), (340, Made::Prefill));
}

#[test]
fn a_saved_conversation_is_loaded_by_its_own_model_only() {
    let qwen = model(FILES[0]);
    let folder = Folder::new("saved");
    let talk = talk(&qwen, 100, 4, 30, 95);
    let (reply, end) = {
        let engine = engine(&qwen, cpu(1));
        assert!(engine.save(&folder.0, &tokens(&qwen, 9, 1)).is_err(), "nothing is remembered");
        let (reply, _) = checked(&engine, talk.request(20));
        let whole = [talk.messages.concat(), reply.clone(), vec![1, 2]].concat();
        (reply, engine.save(&folder.0, &whole).expect("saves"))
    };
    assert_eq!(end, 220 + 19, "all but the last token, which nobody has read");
    let other = engine(&qwen, cpu(1));
    assert_eq!(other.load(&folder.0).expect("loads"), end);
    let (again, report) = checked(&other, talk.request(20));
    assert_eq!((again, report.reused_tokens), (reply, 220));

    let refusal = |engine: &Engine| {
        let before = engine.free().expect("runs");
        let error = engine.load(&folder.0).expect_err("refused").to_string();
        assert_eq!(engine.free().expect("runs"), before);
        error
    };
    let lfm2 = engine(&model(FILES[1]), cpu(1));
    assert!(refusal(&lfm2).contains("another model"));
    let fresh = engine(&qwen, cpu(1));
    for (at, value, why) in [(12, 9, "format version 9"), (8, 1, "byte order")] {
        for path in folder.files("images") {
            let mut bytes = std::fs::read(&path).expect("reads");
            bytes[at] = value;
            std::fs::write(&path, bytes).expect("writes");
        }
        assert!(refusal(&fresh).contains(why), "{}", refusal(&fresh));
    }
    assert!(fresh.load(Path::new("nowhere")).expect_err("refused").to_string().contains("no folder"));
}

// ---- hybrid-cpp's policy --------------------------------------------------------------------------------------------

/// The rules of hybrid-cpp, written down once more as its documentation has them, over token lists.
#[derive(Default)]
struct Rules {
    interval: usize,
    n_slots: usize,
    slots: Vec<(usize, bool)>,
    live: Vec<u32>,
}

impl Rules {
    fn turn(&mut self, prompt: &[u32], reply: &[u32]) -> usize {
        let common = self.live.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let mut n_past = 0;
        if !self.live.is_empty() && common + 1 >= self.live.len() && prompt.len() >= self.live.len() {
            n_past = self.live.len() - 1;
        } else if let Some(best) = self.slots.iter().map(|s| s.0).filter(|&p| p <= common && p < prompt.len()).max() {
            n_past = best;
            self.slots.retain(|s| s.0 <= best);
            self.slots.iter_mut().filter(|s| s.0 == best).for_each(|s| s.1 = false);
        }
        if n_past == 0 {
            self.slots.clear();
        }
        let length = prompt.len();
        let tail = length.checked_sub(32).filter(|&t| t > 0);
        for position in n_past + 1..=length {
            let is_tail = Some(position) == tail;
            if is_tail || (position % self.interval == 0 && tail.is_some_and(|t| position < t)) {
                if is_tail {
                    self.slots.retain(|s| !s.1);
                }
                self.slots.push((position, is_tail));
                while self.slots.iter().filter(|s| !s.1).count() > self.n_slots {
                    let oldest = self.slots.iter().position(|s| !s.1).expect("counted");
                    self.slots.remove(oldest);
                }
            }
        }
        self.slots.retain(|s| Some(s.0) == tail || tail.is_some_and(|t| s.0 < t && s.0 % self.interval == 0));
        self.slots.iter_mut().for_each(|s| s.1 = Some(s.0) == tail);
        self.live = [prompt, reply].concat();
        n_past
    }
}

#[test]
fn hybrid_mode_keeps_and_restores_what_the_original_does() {
    let model = model("lfm2/model-f16.gguf");
    for seed in 0..12u32 {
        let (interval, slots) = [(32, 3), (64, 4), (100, 2), (33, 8)][seed as usize % 4];
        let options =
            CheckpointOptions { mode: CheckpointMode::Hybrid { interval, slots }, ..CheckpointOptions::default() };
        let engine = engine_of(&model, cpu(1), options, 1);
        let mut rules = Rules { interval: interval as usize, n_slots: slots as usize, ..Rules::default() };
        let mut text = tokens(&model, 180, seed);
        for turn in 0..14u32 {
            let random = |k: u32, n: usize| philox([turn, k, seed, 9], [3, 1])[0] as usize % n.max(1);
            let fresh = |n: usize| tokens(&model, n, 1000 + seed * 50 + turn);
            match random(0, 6) {
                0 => {
                    let at = random(1, text.len());
                    text.splice(at..at, fresh(1 + random(2, 50)));
                }
                1 => text.truncate(1 + random(1, text.len())),
                2 if text.len() > 60 => drop(text.drain(20..20 + random(1, 30))),
                3 => text = fresh(5 + random(1, 300)),
                _ => text.extend(fresh(random(1, 70))),
            }
            text.truncate(900);
            let (reply, report) = generate(&engine, request(&text, 1 + random(5, 30)));
            let n_past = rules.turn(&text, &reply);
            assert_eq!(report.reused_tokens, n_past, "seed {seed}, turn {turn}");
            let found = engine.checkpoint_positions(&text).expect("runs");
            let found: Vec<(usize, bool)> = found.iter().map(|(p, why)| (*p as usize, *why == Why::Tail)).collect();
            assert_eq!(found, rules.slots, "seed {seed}, turn {turn}");
            text.extend(&reply);
        }
    }
}

/// The conversation that hybrid-cpp's rules are published with, interval 256 and 4 slots, but for its last turn, whose
/// replay of no token is mended.
#[test]
fn hybrid_mode_reproduces_the_published_trace() {
    let model = model("lfm2/model-f16.gguf");
    let options = ExecutorOptions { n_ctx: 2048, max_rows: 512, checkpoint_slots: 16, ..Default::default() };
    let executor = load(&model, cpu(1), options);
    let mode = CheckpointMode::Hybrid { interval: 256, slots: 4 };
    let checkpoints = CheckpointOptions { mode, ..CheckpointOptions::default() };
    let engine = Engine::start(executor, model.graph.n_tokens(), EngineOptions { checkpoints, ..Default::default() });
    let mut seed = 700;
    let mut fresh = |n| {
        seed += 1;
        tokens(&model, n, seed)
    };
    // Reads a prompt: its reply, `n_past`, how many states were saved, and the pool with its tail.
    let turn = |prompt: &[u32], reply: usize, length: usize, n_past: usize, saved: usize, pool: &[u32], tail| {
        assert_eq!(prompt.len(), length);
        let (reply, report) = generate(&engine, request(prompt, reply));
        assert_eq!((report.reused_tokens, report.saved), (n_past, saved), "a prompt of {length}");
        let expected: Vec<(u32, Why)> =
            pool.iter().map(|&p| (p, Why::Interval)).chain(Option::<u32>::map(tail, |t| (t, Why::Tail))).collect();
        assert_eq!(engine.checkpoint_positions(prompt).expect("runs"), expected, "after a prompt of {length}");
        reply
    };
    let a = fresh(1500);
    let reply = turn(&a, 100, 1500, 0, 6, &[512, 768, 1024, 1280], Some(1468));
    let b = [a, reply, fresh(60)].concat();
    let reply = turn(&b, 80, 1660, 1599, 1, &[512, 768, 1024, 1280], Some(1628));
    let c = [&b[..1480], &fresh(40), &b[1480..], &reply, &fresh(50)].concat();
    turn(&c, 20, 1830, 1280, 3, &[1024, 1280, 1536, 1792], Some(1798));
    let reply = turn(&c, 20, 1830, 1798, 0, &[1024, 1280, 1536, 1792], Some(1798));
    let d = [&c[..300], &fresh(10), &c[300..]].concat();
    assert_eq!(reply.len(), 20);
    let reply = turn(&d, 20, 1840, 0, 8, &[1024, 1280, 1536, 1792], Some(1808));
    let e = [d, reply, fresh(10)].concat();
    let reply = turn(&e, 5, 1870, 1859, 0, &[1024, 1280, 1536, 1792], None);
    let f = [&e[..1500], &fresh(5), &e[1500..], &reply, &fresh(3)].concat();
    turn(&f, 5, 1883, 1280, 3, &[1024, 1280, 1536, 1792], Some(1851));
    turn(&f[..1024], 5, 1024, 0, 4, &[256, 512, 768], Some(992));
}

// ---- random scripts -------------------------------------------------------------------------------------------------

/// Random edits of a few conversations; every reply is held to a cold run of the same request. Returns the first
/// difference.
fn script(model: &Model, device: Arc<dyn Device>, seed: u32, off_by_one: bool) -> Result<(), String> {
    let options = ExecutorOptions {
        n_ctx: 512,
        n_sequences: 2,
        max_rows: 64 + 64 * (seed % 3),
        checkpoint_bytes: Some(256 << 10 << (seed % 4)),
        checkpoint_ram: if seed % 5 < 3 { 0 } else { 256 << 10 << (seed / 5 % 4) },
        ..Default::default()
    };
    let interval = [0, 0, 32, 48][seed as usize / 2 % 4];
    let checkpoints = CheckpointOptions { interval, exact: true, ..CheckpointOptions::default() };
    let folder = Folder::new(&format!("script-{seed}-{off_by_one}"));
    let start = || {
        let device = device.clone();
        let mut executor = load(model, device, options.clone());
        if off_by_one {
            executor.sabotage();
        }
        // Files take time to write.
        let store = seed.is_multiple_of(8).then(|| {
            let max_bytes = (64 << 10) << (seed / 8 % 6);
            let store = StoreOptions { max_bytes, ..StoreOptions::default() };
            Arc::new(Store::open(&folder.0, executor.fingerprint(), store).expect("opens"))
        });
        let options = EngineOptions { checkpoints: checkpoints.clone(), store, ..Default::default() };
        Engine::start(executor, model.graph.n_tokens(), options)
    };
    let mut engine = start();
    let before = engine.free().expect("runs");
    let mut texts = vec![tokens(model, 90, seed), tokens(model, 40, seed + 1)];
    let shared = texts[0][..50].to_vec();
    texts[1].splice(0..0, shared);
    for turn in 0..8u32 {
        let random = |k: u32, n: usize| philox([turn, k, seed, 4], [2, 6])[0] as usize % n.max(1);
        let fresh = |n: usize| tokens(model, n, 5000 + seed * 31 + turn);
        let which = random(0, texts.len());
        let mut text = texts[which].clone();
        if seed.is_multiple_of(4) && random(7, 4) == 0 {
            // The program ends, and its user has saved a conversation.
            let saved = Folder::new(&format!("script-save-{seed}-{off_by_one}"));
            let is_saved = engine.save(&saved.0, &text).is_ok();
            drop(engine);
            engine = start();
            if is_saved && let Err(error) = engine.load(&saved.0) {
                return Err(format!("seed {seed}, turn {turn}: {error}"));
            }
        }
        match random(1, 8) {
            0 => {
                let at = random(2, text.len());
                text.splice(at..at, fresh(1 + random(3, 40)));
            }
            1 => {
                let at = random(2, text.len());
                let end = (at + 1 + random(3, 30)).min(text.len());
                text.drain(at..end);
            }
            2 => {
                let n = text.len() / 2;
                let (i, j) = (random(2, n), n + random(3, n.max(1)));
                let j = j.min(text.len() - 1);
                text.swap(i, j);
            }
            3 => texts.push(text.clone()),
            4 => text.truncate(1 + random(2, text.len())),
            5 => {
                let generation = engine.generate(request(&[&text[..], &fresh(80)].concat(), 30));
                generation.cancel_flag().cancel();
                let _ = generation.collect_blocking();
            }
            6 => engine.set_checkpoint_budget((16 << 10) << random(2, 8)).expect("runs"),
            _ => text.extend(fresh(random(2, 60))),
        }
        text.truncate(400);
        if text.is_empty() {
            text = fresh(3);
        }
        let mut ask = request(&text, 1 + random(6, 12));
        ask.borders = (0..4).map(|i| (i + 1) * text.len() as u32 / 5).collect();
        let (reply, report) = generate(&engine, ask.clone());
        let (cold, _) = generate(&engine, Request { forget: true, ..ask });
        if reply != cold {
            return Err(format!("seed {seed}, turn {turn}: {:?}", report.reuse));
        }
        let stats = report.checkpoints;
        if stats.device_bytes > stats.budget {
            return Err(format!("seed {seed}, turn {turn}: {stats:?}"));
        }
        text.extend(&reply);
        texts[which] = text;
    }
    engine.forget().expect("runs");
    match engine.free().expect("runs") == before {
        true => Ok(()),
        false => Err(format!("seed {seed}: a slot or page leaked")),
    }
}

/// How many scripts, from `SEGNO_TEST_SCRIPTS`; a start for their seeds from `SEGNO_TEST_SEED`.
fn scripts() -> std::ops::Range<u32> {
    let number = |name: &str, default: u32| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first = number("SEGNO_TEST_SEED", 1);
    first..first + number("SEGNO_TEST_SCRIPTS", 500)
}

#[test]
fn random_edits_give_what_a_cold_run_gives() {
    let models: Vec<Model> = FILES.iter().map(|file| model(file)).collect();
    for seed in scripts() {
        let device = if seed % 3 == 0 { adversary() } else { cpu(1) };
        script(&models[seed as usize % models.len()], device, seed, false).expect("as a cold run");
    }
}

#[test]
fn a_restore_that_is_off_by_one_is_found() {
    let model = model(FILES[0]);
    let found = (0..40).filter(|&seed| script(&model, cpu(1), seed, true).is_err()).count();
    assert!(found >= 20, "only {found} of 40 scripts noticed");
}
