//! Failures of one request, or of the device, harm nothing else: what is parked, refused or broken off leaves the tree
//! and the others' replies as they would have been.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use common::{FILES, Watch, adversary, cpu, generate, load, model, tokens, watched};
use segno_ir::sample::SampleParams;
use segno_ir::{Device, DeviceError, Step};
use segno_models::Model;
use segno_runtime::{
    CheckpointMode, CheckpointOptions, Engine, EngineOptions, ExecutorOptions, Request, RequestError, Sampling,
};

fn engine_with(model: &Model, device: Arc<dyn Device>, executor: ExecutorOptions, options: EngineOptions) -> Engine {
    let executor = ExecutorOptions { n_ctx: 512, max_rows: 128, checkpoint_slots: 40, ..executor };
    let executor = load(model, device, executor);
    Engine::start(executor, model.graph.n_tokens(), options)
}

fn engine(model: &Model, device: Arc<dyn Device>, n_sequences: u32) -> Engine {
    let options = ExecutorOptions { n_sequences, checkpoint_bytes: Some(16 << 20), ..Default::default() };
    engine_with(model, device, options, EngineOptions::default())
}

fn request(prompt: &[u32], max_tokens: usize, seed: u64) -> Request {
    let request = common::request(prompt, max_tokens);
    Request { params: SampleParams { seed, ..request.params }, ..request }
}

fn on_host(request: Request) -> Request {
    // Penalties and mirostat: the chain's state depends on all that it has drawn.
    let sampling = Sampling { temperature: 1.0, penalty_repeat: 1.3, mirostat: 2, ..Sampling::default() };
    Request { host: Some(sampling), ..request }
}

#[test]
fn parked_and_resumed_is_what_each_gives_alone() {
    for file in FILES {
        let model = model(file);
        let requests: Vec<Request> = (0..5)
            .map(|i| {
                let request = request(&tokens(&model, 60 + 35 * i, i as u32), 90, i as u64);
                if i % 2 == 0 { request } else { on_host(request) }
            })
            .collect();
        for (mode, device) in [(CheckpointMode::Tree, adversary()), (CheckpointMode::Off, cpu(1))] {
            let alone = engine(&model, device.clone(), 1);
            let alone: Vec<Vec<u32>> =
                requests.iter().map(|r| generate(&alone, Request { forget: true, ..r.clone() }).0).collect();
            // All together need about 1,000 tokens.
            let bytes = Some(0);
            let options = ExecutorOptions {
                n_sequences: 4,
                shared_tokens: Some(512),
                checkpoint_bytes: bytes,
                ..Default::default()
            };
            let checkpoints = CheckpointOptions { mode, ..Default::default() };
            let together = engine_with(&model, device, options, EngineOptions { checkpoints, ..Default::default() });
            let before = together.free().expect("runs");
            let generations: Vec<_> = requests.iter().map(|r| together.generate(r.clone())).collect();
            let mut parked = 0;
            for ((generation, alone), request) in generations.into_iter().zip(&alone).zip(&requests) {
                let (reply, report) = generation.collect_blocking().expect("a reply");
                assert!(reply == *alone, "{file}, {mode:?}: another reply, parked {} times", report.parked);
                assert_eq!((reply.len(), report.prompt_tokens), (90, request.prompt.len()));
                parked += report.parked;
            }
            assert!(parked > 0, "{file}, {mode:?}: there were enough pages for all");
            together.forget().expect("runs");
            assert_eq!(together.free().expect("runs"), before, "{file}, {mode:?}: a slot or page leaked");
        }
    }
}

#[test]
fn parked_after_its_first_token_a_request_does_not_draw_it_again() {
    let model = model(FILES[0]);
    for device in [cpu(1), adversary()] {
        let options = ExecutorOptions {
            n_sequences: 2,
            shared_tokens: Some(512),
            checkpoint_bytes: Some(0),
            ..Default::default()
        };
        let engine = engine_with(&model, device, options, EngineOptions::default());
        // The second one's next page is one too many.
        let requests = [request(&tokens(&model, 256, 1), 60, 1), request(&tokens(&model, 320, 2), 60, 2)];
        let together = requests.each_ref().map(|r| engine.generate(r.clone()));
        let [(one, first), (two, second)] = together.map(|g| g.collect_blocking().expect("a reply"));
        assert!(first.parked == 0 && second.parked > 0, "parked {} and {} times", first.parked, second.parked);
        let [alone_one, alone_two] =
            requests.each_ref().map(|r| generate(&engine, Request { forget: true, ..r.clone() }).0);
        assert!(one == alone_one && two == alone_two);
    }
}

#[test]
fn the_queue_is_bounded_and_what_is_refused_changes_nothing() {
    let model = model(FILES[0]);
    let options = EngineOptions { max_queued: 2, ..Default::default() };
    let engine = engine_with(&model, cpu(1), ExecutorOptions::default(), options);
    let prompt = tokens(&model, 200, 1);
    let (reply, _) = generate(&engine, request(&prompt, 10, 1));
    let before = (engine.checkpoints().expect("runs"), engine.free().expect("runs"));
    let refused = |request: Request| engine.generate(request).collect_blocking().expect_err("refused");
    let long = refused(request(&tokens(&model, 600, 2), 10, 1)).to_string();
    assert!(long.contains("600 tokens") && long.contains("512") && long.contains("-c"), "{long}");
    assert!(matches!(refused(request(&[], 10, 1)), RequestError::EmptyPrompt));
    assert!(matches!(refused(request(&[u32::MAX], 10, 1)), RequestError::Token { .. }));
    let mad = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(matches!(refused(Request { host: Some(mad), ..request(&prompt, 10, 1) }), RequestError::Sampling(_)));
    assert_eq!((engine.checkpoints().expect("runs"), engine.free().expect("runs")), before);
    // One runs, two wait, the rest hear why not.
    let many: Vec<_> = (0..6).map(|i| engine.generate(request(&tokens(&model, 100, 10 + i), 60, 1))).collect();
    let results: Vec<_> = many.into_iter().map(|g| g.collect_blocking().map(|(reply, _)| reply.len())).collect();
    let refused: Vec<String> = results.iter().filter_map(|r| r.as_ref().err()).map(ToString::to_string).collect();
    assert!(!refused.is_empty() && refused.iter().all(|r| r.contains("2 requests are waiting")), "{results:?}");
    assert!(results.iter().filter(|r| matches!(r, Ok(60))).count() >= 2, "{results:?}");
    let (again, report) = generate(&engine, request(&prompt, 10, 1));
    assert_eq!((again, report.reused_tokens), (reply, 200));
}

// ---- a device that fails --------------------------------------------------------------------------------------------

/// Where the next fault is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Forward,
    Sample,
    /// What was drawn never comes.
    Ticket,
    Read,
}

/// Calls of each kind until one fails; negative: none does.
#[derive(Default)]
struct Faults {
    left: [AtomicI64; 4],
    lost: std::sync::atomic::AtomicBool,
}

impl Faults {
    /// The `n`-th call from now on fails.
    fn set(&self, at: At, n: i64) {
        self.left[at as usize].store(n, Ordering::SeqCst);
    }

    fn check(&self, at: At) -> Result<(), DeviceError> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(DeviceError::Lost { device: "test".into(), reason: "unplugged".into() });
        }
        match self.left[at as usize].fetch_sub(1, Ordering::SeqCst) {
            1 => Err(DeviceError::Invalid("a fault of the test".into())),
            _ => Ok(()),
        }
    }
}

impl Watch for Faults {
    fn forward(&self, _: &Step) -> Result<(), DeviceError> {
        self.check(At::Forward)
    }

    fn sample(&self) -> Result<(), DeviceError> {
        self.check(At::Sample)
    }

    fn ticket(&self) -> Result<(), DeviceError> {
        self.check(At::Ticket)
    }

    fn read(&self) -> Result<(), DeviceError> {
        self.check(At::Read)
    }
}

#[test]
fn after_a_fault_the_conversation_goes_on_from_the_tree() {
    for file in FILES {
        let model = model(file);
        for inner in [cpu(1), adversary()] {
            let faults = Arc::new(Faults::default());
            let device = watched(inner, &faults);
            let engine = engine(&model, device, 2);
            let before = engine.free().expect("runs");
            let first = tokens(&model, 250, 1);
            let (reply, _) = generate(&engine, request(&first, 20, 1));
            let next = [&first[..], &reply, &tokens(&model, 150, 2)].concat();
            let make = |host: bool| if host { on_host(request(&next, 30, 2)) } else { request(&next, 30, 2) };
            let cold = [false, true].map(|host| generate(&engine, Request { forget: true, ..make(host) }).0);
            // In the prompt, at its end, in the reply.
            let kinds = [(At::Forward, false), (At::Sample, false), (At::Ticket, false), (At::Read, true)];
            for (at, host) in kinds {
                for n in [1, 2, 3, 7, 20] {
                    faults.set(at, n);
                    let beside = engine.generate(request(&tokens(&model, 40, 3), 40, 3));
                    let failed = engine.generate(make(host)).collect_blocking();
                    let beside = beside.collect_blocking();
                    let error = [failed.err(), beside.err()].into_iter().flatten().next();
                    let error = error.unwrap_or_else(|| panic!("{file}: no fault at {at:?} {n}")).to_string();
                    assert!(error.contains("a fault of the test"), "{error}");
                    faults.set(at, -1);
                    let (warm, report) = generate(&engine, make(host));
                    assert!(warm == cold[usize::from(host)], "{file}: another reply after {at:?} {n}");
                    assert!(report.reused_tokens >= 269, "{file}, {at:?} {n}: went on from {}", report.reused_tokens);
                }
            }
            engine.forget().expect("runs");
            assert_eq!(engine.free().expect("runs"), before, "{file}: a slot or page leaked");
        }
    }
}

#[test]
fn a_lost_device_ends_all_requests_with_its_reason() {
    let model = model(FILES[0]);
    for inner in [cpu(1), adversary()] {
        let faults = Arc::new(Faults::default());
        let device = watched(inner, &faults);
        let engine = engine(&model, device, 1);
        generate(&engine, request(&tokens(&model, 100, 1), 5, 1));
        faults.lost.store(true, Ordering::SeqCst);
        let all: Vec<_> = (0..3).map(|i| engine.generate(request(&tokens(&model, 100, 5 + i), 50, 1))).collect();
        for generation in all {
            let error = generation.collect_blocking().expect_err("lost").to_string();
            assert!(error.contains("was lost (unplugged)") && error.contains("--device cpu"), "{error}");
        }
        // The engine still answers.
        let later = engine.generate(request(&[1, 2, 3], 5, 1)).collect_blocking().expect_err("lost").to_string();
        assert!(later.contains("was lost"), "{later}");
        assert!(engine.checkpoints().expect("runs").count > 0);
    }
}
