//! The fixtures on the GPU backend: right within bounds, and the same bits whatever way it is computed.
//! On a software Vulkan driver unless SEGNO_TEST_DEVICE names another device.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{FIXTURES, executor, issue, long_fixtures, max_abs, rms, run, with_context, with_pages, work};
use segno::{GenerateOptions, LoadOptions, Model, open_device};
use segno_ir::sample::{SampleParams, SampleRow};
use segno_ir::{Cancel, Device, Input, KvType, Output, PAGE_TOKENS, SlotId, SpanKind};
use segno_runtime::{Executor, ExecutorOptions, Frozen, Work};

fn device_name() -> String {
    std::env::var("SEGNO_TEST_DEVICE").unwrap_or_else(|_| "vulkan".into())
}

fn gpu() -> Arc<dyn Device> {
    let hint = "no GPU adapter; on Debian install a software one: apt-get install mesa-vulkan-drivers libvulkan1";
    open_device(&device_name(), None).expect(hint)
}

fn fixture(name: &str) -> std::path::PathBuf {
    FIXTURES[0].path(name)
}

fn tokens(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| segno_ir::sample::philox([i, seed, 0, 0], [5, 6])[0] % 336).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn logits_are_those_of_transformers_and_of_the_decoded_weights() {
    for fixture in FIXTURES {
        let ids = fixture.tokens();
        for file in fixture.files() {
            let model = Model::open(fixture.path(&file)).expect("opens");
            let expected = fixture.expected(&file);
            let found = run(&mut executor(&model, gpu(), 1), &ids, 96, SpanKind::Prefill);
            let what = format!("{} {file}", fixture.name);
            if file == fixture.plain {
                let max = max_abs(&found, &expected);
                println!("{what}: max abs error {max:.2e}");
                assert!(max <= 2e-3, "{what}: max abs error {max}");
            } else {
                let cpu = open_device("cpu", None).expect("the CPU");
                let cpu = rms(&run(&mut executor(&model, cpu, 1), &ids, 96, SpanKind::Prefill), &expected);
                let gpu = rms(&found, &expected);
                println!("{what}: RMS error {gpu:.2e}, the CPU's {cpu:.2e}");
                assert!(gpu <= (1.25 * cpu).max(1e-3), "{what}: RMS error {gpu}, the CPU's {cpu}");
            }
        }
    }
}

#[test]
fn long_sequences_give_the_logits_of_transformers() {
    assert!(long_fixtures().count() >= 5);
    for fixture in long_fixtures() {
        let (model, long) = (Model::open(fixture.path(fixture.plain)).expect("opens"), fixture.long());
        let n = long.tokens.len() as u32;
        let mut executor = with_context(&model, gpu(), n);
        let (max, cosine) = long.compare(&run(&mut executor, &long.tokens, 256, SpanKind::Prefill));
        println!("{}: max abs error {max:.2e}, cosine {cosine:.9}", fixture.name);
        assert!(max <= 2e-3 && cosine >= 0.99999, "{}: max abs error {max}, cosine {cosine}", fixture.name);
    }
}

#[test]
fn cuts_batches_and_kinds_change_no_bit() {
    for fixture in FIXTURES {
        let file = fixture.files().last().expect("a file");
        let what = format!("{} {file}", fixture.name);
        let model = Model::open(fixture.path(&file)).expect("opens");
        let n_vocab = model.graph().graph.n_vocab();
        let (a, b) = (tokens(200, 1), tokens(70, 2));
        let mut one = executor(&model, gpu(), 1);
        let whole = bits(&run(&mut one, &a, 200, SpanKind::Prefill));
        assert!(bits(&run(&mut one, &a, 64, SpanKind::Prefill)) == whole, "{what}: cut at multiples of 64");
        assert!(bits(&run(&mut one, &a[..80], 1, SpanKind::Decode)) == whole[..80 * n_vocab], "{what}: one by one");
        let alone = bits(&run(&mut one, &b, 70, SpanKind::Prefill));
        let mut two = executor(&model, gpu(), 2);
        let (first, second) = (two.create().expect("a"), two.create().expect("b"));
        let mut found: (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        for (ra, rb) in [(0..64, 0..1), (64..65, 1..64), (65..200, 64..70)] {
            let split = ra.len() * n_vocab;
            let works = vec![work(first, SpanKind::Prefill, &a[ra]), work(second, SpanKind::Prefill, &b[rb])];
            let both = bits(&issue(&mut two, works));
            found.0.extend(&both[..split]);
            found.1.extend(&both[split..]);
        }
        assert!(found.0 == whole && found.1 == alone, "{what}: together differs from alone");
    }
}

#[test]
fn snapshots_in_mid_scan_are_final_states_of_spans_cut_there() {
    use segno_ir::{PageId, PageTable, PoolPlan, ProgramLimits, Span, StateLayout, Step};
    let model = Model::open(fixture("model-q8_0.gguf")).expect("opens");
    let graph = &model.graph().graph;
    let device = gpu();
    let layout = StateLayout::new(graph, KvType::F32, KvType::F32);
    let plan = PoolPlan { slots: 8, pages: vec![6], layout };
    let limits = ProgramLimits { max_rows: 192, max_spans: 2, max_outputs: 8, max_context: 256, guard: true };
    let weights = device.weights(model.graph().source.clone(), graph).expect("weights");
    let pool = device.pool(&plan).expect("a pool");
    let mut program = device.compile(graph, &weights, &pool, &limits).expect("compiles");
    let ids = tokens(150, 3);
    let mut step = |from: u32, to: u32, start: usize, end: usize, snapshots: Vec<(u32, SlotId)>| {
        let pages = (0..(end as u32).div_ceil(PAGE_TOKENS)).map(PageId).collect();
        let span = Span {
            from: SlotId(from),
            to: SlotId(to),
            tables: vec![PageTable { first: 0, pages }],
            start: start as u32,
            kind: SpanKind::Prefill,
            inputs: ids[start..end].iter().map(|&t| Input::Token(t)).collect(),
            outputs: vec![(end - start) as u32 - 1],
            snapshots,
        };
        let rows = program.forward(&Step { spans: vec![span], cancel: Cancel::new() }).expect("runs");
        program.read(&rows, Output::Logits, 0, 1).wait(Duration::from_secs(300)).expect("logits")
    };
    let whole = step(0, 1, 0, 150, vec![(1, SlotId(2)), (64, SlotId(3)), (101, SlotId(4)), (150, SlotId(5))]);
    let slot = |i: u32| bits(&pool.read_slot(SlotId(i)).wait(Duration::from_secs(300)).expect("a slot"));
    for (snapshot, end) in [(2, 1), (3, 64), (4, 101), (5, 150)] {
        step(0, 6, 0, end, Vec::new());
        assert!(slot(snapshot) == slot(6), "the snapshot after {end} rows");
    }
    assert_eq!(slot(1), slot(5));
    // Played on from a snapshot: the same logits.
    assert_eq!(bits(&step(3, 7, 64, 150, Vec::new())), bits(&whole));
    assert_eq!(slot(7), slot(1));
    pool.copy_slots(&[(SlotId(7), SlotId(6))]).expect("copies");
    assert_eq!(slot(6), slot(1));
    assert!(slot(0).iter().all(|&b| b == 0), "slot 0 was written");
}

#[test]
fn two_steps_in_flight_draw_what_one_draws() {
    let model = Model::open(fixture("model-q8_0.gguf")).expect("opens");
    let prompt = tokens(30, 4);
    for params in [SampleParams::greedy(), SampleParams { seed: 3, temperature: 1.0, ..Default::default() }] {
        let draw =
            |position| SampleRow { row: 0, params: params.clone(), position, bias: vec![(7, -1.0)], stop: vec![9] };
        let mut executor = executor(&model, gpu(), 1);
        let sequence = executor.create().expect("a sequence");
        let first = Work { outputs: vec![29], ..work(sequence, SpanKind::Prefill, &prompt) };
        let mut flight = executor.issue(vec![first], &Cancel::new()).expect("issues");
        let mut ticket = executor.sample(&flight.rows, &[draw(30)]).expect("draws");
        let mut ids = Vec::new();
        for position in 31..45 {
            let input = Input::Sampled { ticket: ticket.id, row: 0 };
            let next =
                Work { sequence, kind: SpanKind::Decode, inputs: vec![input], outputs: vec![0], snapshots: Vec::new() };
            let next = executor.issue(vec![next], &Cancel::new()).expect("issues");
            let drawn = executor.sample(&next.rows, &[draw(position)]).expect("draws");
            let before = std::mem::replace(&mut ticket, drawn);
            ids.push(before.tokens.wait(Duration::from_secs(300)).expect("a token")[0].id);
            executor.confirm(std::mem::replace(&mut flight, next));
        }
        executor.confirm(flight);
        executor.remove(sequence);
        // The same, each token known and drawn on the host.
        let sequence = executor.create().expect("a sequence");
        let mut logits = issue(&mut executor, vec![work(sequence, SpanKind::Prefill, &prompt)]).split_off(29 * 336);
        for (i, &id) in ids.iter().enumerate() {
            assert_eq!(segno_ir::sample::sample(&logits, &draw(30 + i as u32)), id, "draw {i} of {params:?}");
            logits = issue(&mut executor, vec![work(sequence, SpanKind::Decode, &[id])]);
        }
        executor.remove(sequence);
    }
}

/// At every multiple of 64 of 1,000 tokens: one step of 64, 128 or 512 tokens from the state restored there gives the
/// cold run's logits and the cold run's state at its end, pages and all. So does, step by step, what is read on to the end
/// of the prompt, which is done from one place as well, and 64 tokens one by one.
#[test]
fn restored_and_replayed_is_cold_bit_for_bit() {
    const N: usize = 1000;
    const STEPS: [usize; 3] = [64, 128, 512];
    let page = PAGE_TOKENS as usize;
    let ids = tokens(N, 6);
    for (turn, name) in ["qwen35", "qwen3next", "lfm2", "gemma3"].into_iter().enumerate() {
        let fixture = FIXTURES.iter().find(|f| f.name == name).expect("a fixture");
        let model = Model::open(fixture.path(&fixture.files().next().expect("a file"))).expect("opens");
        let options =
            ExecutorOptions { n_ctx: 1024, n_sequences: 2, max_rows: 512, max_outputs: 9, ..Default::default() };
        let mut executor = model.executor(gpu(), options).expect("loads");
        let before = executor.free();
        let wait = Duration::from_secs(300);
        // One step: the logits after each multiple of 64 and after its last token; the states there, if they are wanted.
        let step = |executor: &mut Executor, sequence, part: std::ops::Range<usize>, snapshots: bool| {
            let places: Vec<usize> = part.clone().map(|i| i + 1).filter(|n| n % page == 0 || *n == part.end).collect();
            let rows: Vec<u32> = places.iter().map(|n| (n - part.start) as u32).collect();
            let outputs = rows.iter().map(|row| row - 1).collect();
            let snapshots = if snapshots { rows } else { Vec::new() };
            let work = Work { outputs, snapshots, ..work(sequence, SpanKind::Prefill, &ids[part]) };
            let issued = executor.issue(vec![work], &Cancel::new()).expect("issues");
            let n = places.len() as u32;
            let logits = bits(&executor.read(&issued.rows, Output::Logits, 0, n).wait(wait).expect("logits"));
            let logits: Vec<Vec<u32>> = logits.chunks(logits.len() / places.len()).map(<[u32]>::to_vec).collect();
            let states: Vec<Frozen> = executor.confirm(issued).into_iter().map(|(_, state)| state).collect();
            (places, logits, states)
        };
        // The slot, and the pages that are full: the rest of a page is whatever was there.
        let whole = |executor: &mut Executor, state: &Frozen| {
            let export = executor.export(state);
            let (slot, tables) = executor.finish(export, wait).expect("comes");
            let open = usize::from(!state.n_tokens().is_multiple_of(PAGE_TOKENS));
            let full =
                tables.into_iter().map(|t| (t.first, t.pages[..t.pages.len() - open.min(t.pages.len())].to_vec()));
            (bits(&slot), full.collect::<Vec<_>>())
        };
        let sequence = executor.create().expect("a sequence");
        let mut cold = Vec::new();
        for start in (0..N).step_by(512) {
            let (places, logits, states) = step(&mut executor, sequence, start..N.min(start + 512), true);
            for ((at, logits), state) in places.into_iter().zip(logits).zip(states) {
                cold.push((at, logits, whole(&mut executor, &state), state));
            }
        }
        executor.remove(sequence);
        assert_eq!(cold.len(), N.div_ceil(page), "{name}");
        for (i, (at, _, _, state)) in cold.iter().enumerate() {
            let one_by_one = (i == 6).then_some(1);
            for size in STEPS.into_iter().chain(one_by_one).filter(|_| *at < N) {
                let sequence = executor.restore(state, *at as u32).expect("restores");
                let to_end = i == 4 + turn && size == STEPS[turn % 3];
                let until = if to_end { N } else { at + if size == 1 { page } else { 1 } };
                let mut start = *at;
                while start < until.min(N) {
                    let end = N.min(start + size);
                    let what = format!("{name}: tokens {start} to {end} after a restore at {at}, in steps of {size}");
                    let (_, logits, _) = step(&mut executor, sequence, start..end, false);
                    start = end;
                    if size == 1 && end < until {
                        continue;
                    }
                    let state = executor.freeze(sequence).expect("a slot");
                    let (_, cold_logits, cold_state, _) = cold.iter().find(|c| c.0 == end).expect("a place");
                    assert!(logits.last() == Some(cold_logits), "{what}: logits");
                    assert!(whole(&mut executor, &state) == *cold_state, "{what}: state");
                    executor.release(state);
                }
                executor.remove(sequence);
            }
        }
        cold.into_iter().for_each(|(_, _, _, state)| executor.release(state));
        assert_eq!(executor.free(), before, "{name}: a slot or page leaked");
    }
}

#[test]
fn every_type_of_pages_is_exact() {
    let model = Model::open(fixture("model-f16.gguf")).expect("opens");
    let ids = tokens(150, 7);
    for (k, v) in [(KvType::Q8_0, KvType::Q8_0), (KvType::Q4_0, KvType::Q4_0), (KvType::F16, KvType::Q8_0)] {
        let what = format!("{}/{}", k.name(), v.name());
        let mut executor = with_pages(&model, gpu(), k, v);
        let sequence = executor.create().expect("a sequence");
        let places = vec![1, 37, 64, 100, 149];
        let cold = Work { snapshots: places.clone(), ..work(sequence, SpanKind::Prefill, &ids) };
        let issued = executor.issue(vec![cold], &Cancel::new()).expect("issues");
        let logits = executor.read(&issued.rows, Output::Logits, 0, 150).wait(Duration::from_secs(300));
        let logits = logits.expect("logits");
        let (cold, frozen) = (bits(&logits), executor.confirm(issued));
        executor.remove(sequence);
        for ((_, state), at) in frozen.into_iter().zip(places) {
            let sequence = executor.restore(&state, at).expect("restores");
            let replayed = issue(&mut executor, vec![work(sequence, SpanKind::Prefill, &ids[at as usize..])]);
            assert!(bits(&replayed) == cold[at as usize * 336..], "{what}: from {at}");
            executor.remove(sequence);
            executor.release(state);
        }
        assert!(bits(&run(&mut executor, &ids[..70], 1, SpanKind::Decode)) == cold[..70 * 336], "{what}: one by one");
        // The CPU differs by its own rounding alone: a number may fall on the other side of a step.
        let cpu = open_device("cpu", None).expect("the CPU");
        let cpu = run(&mut with_pages(&model, cpu, k, v), &ids, 150, SpanKind::Prefill);
        let error = rms(&logits, &cpu);
        println!("{what}: RMS difference from the CPU {error:.2e}");
        assert!(error < 1e-3, "{what}: RMS difference from the CPU {error}");
    }
}

/// Questions and replies of the conversation that the README shows.
fn readme_conversation() -> Vec<(String, String)> {
    let readme = include_str!("../../../README.md");
    let mut lines = readme.lines().skip_while(|line| !line.starts_with("> "));
    let mut turns = Vec::new();
    while let Some(question) = lines.next().and_then(|line| line.strip_prefix("> ")) {
        turns.push((question.to_string(), lines.next().unwrap_or_default().to_string()));
    }
    turns
}

#[test]
fn the_demo_model_holds_the_readmes_conversation() {
    let turns = readme_conversation();
    assert!(turns.len() >= 2, "the README shows {turns:?}");
    let options = LoadOptions { device: device_name(), context: Some(512), batch: 64, ..Default::default() };
    let session = Model::demo().expect("opens").load(&options).expect("loads");
    let options = GenerateOptions::greedy();
    let mut chat = session.chat();
    for (question, answer) in turns {
        chat.user(&question);
        let mut reply = chat.reply(&options).expect("a reply");
        for piece in &mut reply {
            piece.expect("text");
        }
        let text = reply.text().to_string();
        println!("{question} {text} {:?}, {}", reply.report(), session.engine().profile());
        assert_eq!(text, answer, "{question}");
        chat.assistant(&text);
    }
}
