//! Checkpoints: whatever is restored, replies and bits are those of a cold run, only what changed is read again, and
//! nothing leaks. On a plain and on an adversarial device, for every kind of state.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use segno_cpu::{CpuDevice, CpuOptions};
use segno_gguf::Gguf;
use segno_ir::sample::{SampleParams, philox};
use segno_ir::{Cancel, Device, Input, Output, SpanKind};
use segno_models::Model;
use segno_runtime::adversary::Adversary;
use segno_runtime::image::{Fingerprint, Image, Key, Made, Precision};
use segno_runtime::store::{Store, StoreOptions};
use segno_runtime::{
    CheckpointMode, CheckpointOptions, EmbeddedRow, Engine, EngineOptions, Executor, ExecutorOptions, Frozen, Report,
    Request, SequenceId, Tier, Why, Work,
};

/// Recurrent with attention, convolutions with attention, windows, attention alone.
const FILES: &[&str] =
    &["qwen35/model-q8_0.gguf", "lfm2/model-f16.gguf", "gemma3/model-f16.gguf", "llama/model-f32.gguf"];

fn model(file: &str) -> Model {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(file);
    segno_models::build(&Gguf::open(path).expect("opens")).expect("builds")
}

fn cpu(threads: usize) -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(threads), ..CpuOptions::default() }))
}

fn adversary() -> Arc<dyn Device> {
    Arc::new(Adversary::new(cpu(1)))
}

/// Reproducible tokens that the model has.
fn tokens(model: &Model, n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| philox([i, seed, 0, 0], [7, 8])[0] % model.graph.n_tokens() as u32).collect()
}

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
    Executor::load(device, &model.graph, model.source.clone(), options).expect("loads")
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
    for file in FILES {
        let model = model(file);
        let tokens = tokens(&model, 1000, 1);
        let mut one = executor(&model, cpu(1));
        let sequence = one.create().expect("a sequence");
        // Every multiple of 64, and some positions that are none.
        let places: Vec<u32> = (1..=1000).filter(|p| p % 64 == 0 || p % 97 == 5).collect();
        let (frozen, cold) = read(&mut one, sequence, &tokens, 1000, &places);
        one.remove(sequence);
        assert_eq!(frozen.len(), places.len());
        for (i, (state, &at)) in frozen.iter().zip(&places).enumerate() {
            assert_eq!(state.n_tokens(), at);
            for piece in [1, 7, 32, 64, 128, 512].into_iter().skip(if i % 8 == 0 { 0 } else { 3 }) {
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
    let executor = Executor::load(device, &model.graph, model.source.clone(), options).expect("loads");
    Engine::start(executor, model.graph.n_tokens(), EngineOptions { checkpoints, ..Default::default() })
}

fn engine(model: &Model, device: Arc<dyn Device>) -> Engine {
    engine_of(model, device, CheckpointOptions::default(), 2)
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let params = SampleParams { temperature: 1.0, seed: 5, ..SampleParams::default() };
    Request { prompt: prompt.to_vec(), max_tokens, params, ..Request::default() }
}

fn generate(engine: &Engine, request: Request) -> (Vec<u32>, Report) {
    engine.generate(request).collect_blocking().expect("a reply")
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
        // Cut anywhere: a token is left to read, never none, never two.
        let whole = talk.messages.concat();
        for n in [64, 128, 300, 301, 330, whole.len() - 32, whole.len() - 1] {
            let (_, report) = checked(engine, request(&whole[..n], 4));
            assert!(report.reused_tokens <= n);
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
            assert!(replayed < 7 + 2 * back + 1, "{back} back: replayed {replayed}");
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
    assert!(report.reused_tokens <= 100);
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
        let executor = Executor::load(cpu(1), &model.graph, model.source.clone(), options).expect("loads");
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

// ---- folders --------------------------------------------------------------------------------------------------------

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("segno-checkpoints-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }

    /// All images in it.
    fn images(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.join("images")).expect("the folder");
        entries.map(|e| e.expect("an entry").path()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An engine with a folder for checkpoints.
fn engine_with(model: &Model, device: Arc<dyn Device>, folder: &Folder, exact: bool, store: StoreOptions) -> Engine {
    let options = ExecutorOptions {
        n_ctx: 1024,
        n_sequences: 2,
        max_rows: 128,
        checkpoint_bytes: Some(16 << 20),
        ..Default::default()
    };
    let executor = Executor::load(device, &model.graph, model.source.clone(), options).expect("loads");
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
        for path in folder.images() {
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

// ---- random scripts -------------------------------------------------------------------------------------------------

/// Random edits of a few conversations; every reply is held to a cold run of the same request. Returns the first
/// difference.
fn script(model: &Model, device: Arc<dyn Device>, seed: u32, off_by_one: bool) -> Result<(), String> {
    let options = ExecutorOptions {
        n_ctx: 512,
        n_sequences: 2,
        max_rows: 64 + 64 * (seed % 3),
        checkpoint_bytes: Some(256 << 10 << (seed % 4)),
        ..Default::default()
    };
    let interval = [0, 0, 32, 48][seed as usize / 2 % 4];
    let checkpoints = CheckpointOptions { interval, exact: true, ..CheckpointOptions::default() };
    let folder = Folder::new(&format!("script-{seed}-{off_by_one}"));
    let start = || {
        let device = device.clone();
        let mut executor = Executor::load(device, &model.graph, model.source.clone(), options.clone()).expect("loads");
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
