//! The engine: requests together give what each gives alone, are played on from, refused, cancelled.

mod common;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use segno_ir::Device;
use segno_ir::sample::{SampleParams, philox};
use segno_models::Model;
use segno_runtime::{
    Engine, EngineOptions, Event, ExecutorOptions, Finish, Generation, Request, RequestError, Sampling,
};

fn model() -> Model {
    common::model(common::FILES[0])
}

fn devices() -> [Arc<dyn Device>; 2] {
    [common::cpu(1), common::adversary()]
}

fn engine(model: &Model, device: Arc<dyn Device>, n_sequences: u32, n_ctx: u32) -> Engine {
    let options = ExecutorOptions { n_ctx, n_sequences, max_rows: 128, ..Default::default() };
    let executor = common::load(model, device, options);
    Engine::start(executor, model.graph.n_tokens(), EngineOptions { max_queued: 8, ..Default::default() })
}

fn request(n: usize, seed: u32, max_tokens: usize) -> Request {
    Request {
        prompt: (0..n as u32).map(|i| philox([i, seed, 0, 0], [3, 4])[0] % 336).collect(),
        max_tokens,
        params: SampleParams { temperature: 1.0, seed: seed.into(), ..SampleParams::default() },
        ..Request::default()
    }
}

#[test]
fn requests_together_give_what_each_gives_alone() {
    let model = model();
    let requests: Vec<Request> = (0..6).map(|i| request(20 + 60 * i, i as u32, 10 + 3 * i)).collect();
    let mut expected = Vec::new();
    for device in devices() {
        let alone = engine(&model, device.clone(), 1, 512);
        let one: Vec<_> =
            requests.iter().map(|r| alone.generate(r.clone()).collect_blocking().expect("alone").0).collect();
        let together = engine(&model, device, 3, 512);
        let generations: Vec<_> = requests.iter().map(|r| together.generate(r.clone())).collect();
        for ((generation, one), request) in generations.into_iter().zip(&one).zip(&requests) {
            let (tokens, report) = generation.collect_blocking().expect("together");
            assert_eq!((&tokens, tokens.len()), (one, request.max_tokens));
            assert_eq!((report.finish, report.prompt_tokens), (Finish::Length, request.prompt.len()));
        }
        expected.push(one);
    }
    assert_eq!(expected[0], expected[1], "the adversarial device draws other tokens");
}

#[test]
fn nothing_happens_while_the_engine_is_held() {
    let model = model();
    for device in devices() {
        let engine = engine(&model, device, 2, 512);
        let expected = engine.generate(request(100, 1, 8)).collect_blocking().expect("runs").0;
        let hold = engine.hold().expect("holds");
        let mut generation = engine.generate(request(100, 1, 8));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(generation.next().now_or_never().is_none(), "a step was made");
        drop(hold);
        assert_eq!(generation.collect_blocking().expect("goes on").0, expected);
    }
}

#[test]
fn a_later_prompt_plays_on_from_what_was_read() {
    let model = model();
    for device in devices() {
        let engine = engine(&model, device, 1, 512);
        let first = request(100, 1, 20);
        let (reply, report) = engine.generate(first.clone()).collect_blocking().expect("a reply");
        assert_eq!(report.reused_tokens, 0);
        let mut next = request(30, 2, 15);
        next.prompt = [first.prompt.clone(), reply.clone(), next.prompt].concat();
        let (warm, report) = engine.generate(next.clone()).collect_blocking().expect("a reply");
        // The last token of a reply is drawn and never read.
        assert_eq!(report.reused_tokens, 119);
        let mut other = next.clone();
        other.prompt[5] += 1;
        let (_, report) = engine.generate(other).collect_blocking().expect("a reply");
        assert_eq!(report.reused_tokens, 0, "another beginning was played on from");
        let again = engine.generate(next.clone()).collect_blocking().expect("a reply");
        assert_eq!((&again.0, again.1.reused_tokens), (&warm, next.prompt.len()), "logits are kept at a prompt's end");
        let (cold, report) = engine.generate(Request { forget: true, ..next }).collect_blocking().expect("a reply");
        assert_eq!((cold, report.reused_tokens), (warm, 0));
    }
}

#[test]
fn stop_tokens_end_a_reply_and_are_not_part_of_it() {
    let model = model();
    for device in devices() {
        let engine = engine(&model, device, 2, 512);
        let free = request(50, 9, 40);
        let (tokens, _) = engine.generate(free.clone()).collect_blocking().expect("a reply");
        let stop = tokens[10];
        let at = tokens.iter().position(|&t| t == stop).expect("it is there");
        let (stopped, report) =
            engine.generate(Request { stop: vec![stop], ..free.clone() }).collect_blocking().expect("a reply");
        assert_eq!((&stopped[..], report.finish), (&tokens[..at], Finish::Stop));
        // The step that was under way when it ended has left nothing: the next turn continues exactly.
        let mut next = free;
        next.prompt.extend(&stopped);
        next.prompt.push(stop);
        let (tail, report) = engine.generate(next).collect_blocking().expect("a reply");
        assert!(report.reused_tokens >= 50 + at);
        assert_eq!(tail[..10], tokens[at + 1..at + 11]);
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason() {
    let model = model();
    let [cpu, _] = devices();
    let engine = engine(&model, cpu, 1, 100);
    let fails = |r: Request| engine.generate(r).collect_blocking().expect_err("refused");
    assert!(matches!(fails(request(0, 1, 5)), RequestError::EmptyPrompt));
    assert!(matches!(fails(request(100, 1, 5)), RequestError::PromptTooLong { tokens: 100, n_ctx: 100 }));
    let mut outside = request(10, 1, 5);
    outside.prompt[3] = 336;
    assert!(matches!(fails(outside), RequestError::Token { id: 336, position: 3, n_vocab: 336 }));
    let (tokens, report) = engine.generate(request(90, 1, usize::MAX)).collect_blocking().expect("a reply");
    assert_eq!((tokens.len(), report.finish), (11, Finish::Context));
    let (tokens, report) = engine.generate(request(20, 1, 0)).collect_blocking().expect("a reply");
    assert_eq!((tokens.len(), report.finish), (0, Finish::Length));
    // More than may wait: the first is at work, eight wait, the others are refused.
    let many: Vec<_> = (0..20).map(|i| engine.generate(request(90, i, usize::MAX))).collect();
    let results: Vec<_> = many.into_iter().map(|g| g.collect_blocking()).collect();
    let refused = results.iter().filter(|r| matches!(r, Err(RequestError::QueueFull(_)))).count();
    assert!((1..=12).contains(&refused), "{refused} were refused");
}

/// Waits until the reply has begun.
fn first_token(generation: &mut Generation) {
    loop {
        match generation.next_blocking() {
            Some(Event::Token(_)) => return,
            Some(Event::Prompt { .. }) => {}
            other => panic!("no token, but {other:?}"),
        }
    }
}

#[test]
fn a_dropped_or_cancelled_reply_ends_and_the_next_is_right() {
    let model = model();
    for device in devices() {
        let engine = engine(&model, device, 2, 512);
        let (expected, _) = engine.generate(request(60, 5, 12)).collect_blocking().expect("a reply");
        let mut dropped = engine.generate(request(200, 6, usize::MAX));
        first_token(&mut dropped);
        drop(dropped);
        let mut cancelled = engine.generate(request(200, 7, usize::MAX));
        first_token(&mut cancelled);
        cancelled.cancel_flag().cancel();
        let (_, report) = cancelled.collect_blocking().expect("a report");
        assert_eq!(report.finish, Finish::Cancelled);
        let (again, _) = engine.generate(request(60, 5, 12)).collect_blocking().expect("a reply");
        assert_eq!(again, expected);
    }
}

#[test]
fn a_chain_on_the_host_draws_as_the_device_does_beside_others() {
    let model = model();
    for device in devices() {
        let engine = engine(&model, device, 3, 512);
        let requests: Vec<Request> = (0..3).map(|i| request(30 + 50 * i, i as u32, 20)).collect();
        let expected: Vec<_> =
            requests.iter().map(|r| engine.generate(r.clone()).collect_blocking().expect("a reply").0).collect();
        // The same samplers on the host, alone and between two on the device; then all on the host.
        let on_host = |r: &Request| Request {
            host: Some(Sampling { temperature: 1.0, ..Sampling::default() }),
            forget: true,
            ..r.clone()
        };
        for hosts in [[false, true, false], [true, true, true], [true, false, false]] {
            let generations: Vec<_> = requests
                .iter()
                .zip(hosts)
                .map(|(r, host)| engine.generate(if host { on_host(r) } else { r.clone() }))
                .collect();
            for (generation, expected) in generations.into_iter().zip(&expected) {
                assert_eq!(&generation.collect_blocking().expect("a reply").0, expected);
            }
        }
    }
}

#[test]
fn penalties_give_the_same_reply_from_a_checkpoint() {
    let model = model();
    let host = Sampling {
        penalty_repeat: 1.3,
        penalty_last_n: -1,
        dry_multiplier: 0.8,
        xtc_probability: 0.5,
        ..Sampling::default()
    };
    for device in devices() {
        let engine = engine(&model, device, 2, 512);
        let first = Request { host: Some(host.clone()), ..request(100, 1, 30) };
        let (reply, _) = engine.generate(first.clone()).collect_blocking().expect("a reply");
        let (plain, _) = engine.generate(Request { host: None, ..first.clone() }).collect_blocking().expect("a reply");
        assert_ne!(reply, plain, "penalties change nothing");
        let (again, report) = engine.generate(first.clone()).collect_blocking().expect("a reply");
        assert_eq!((&again, report.reused_tokens), (&reply, 100), "drawn again from the kept logits");
        // Edited in the reply: what was kept of it is read as a prompt and goes on the same way.
        let mut edited = Request { max_tokens: 18, ..first };
        edited.prompt.extend(&reply[..12]);
        let (tail, report) = engine.generate(edited.clone()).collect_blocking().expect("a reply");
        assert!(report.reused_tokens >= 100);
        assert_eq!(tail, reply[12..]);
        let (cold, _) = engine.generate(Request { forget: true, ..edited }).collect_blocking().expect("a reply");
        assert_eq!(cold, tail);
    }
    let engine = engine(&model, devices()[0].clone(), 1, 512);
    let wrong = Request { host: Some(Sampling { top_p: 2.0, ..host }), ..request(10, 1, 5) };
    let error = engine.generate(wrong).collect_blocking().expect_err("refused");
    assert_eq!(error.to_string(), "top-p is 2, expected a number from 0 to 1");
}
