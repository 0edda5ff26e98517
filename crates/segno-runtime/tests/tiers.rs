//! The tier in the host's memory: what the device has no room for goes there and comes back as it was, within its
//! budget. On a plain and on an adversarial device.

mod common;

use std::sync::Arc;

use common::{FILES, Folder, adversary, cpu, generate, load, model, request, tokens};
use segno_ir::Device;
use segno_ir::sample::philox;
use segno_models::Model;
use segno_runtime::store::{Store, StoreOptions};
use segno_runtime::{
    CheckpointOptions, CheckpointStats, Engine, EngineOptions, Executor, ExecutorOptions, Place, Report, Request,
};

/// An engine with so much on the device and so much beside it, and perhaps a folder.
fn engine(model: &Model, device: Arc<dyn Device>, bytes: u64, ram: u64, folder: Option<&Folder>) -> Engine {
    let options = ExecutorOptions {
        n_ctx: 1024,
        n_sequences: 2,
        max_rows: 128,
        checkpoint_bytes: Some(bytes),
        checkpoint_ram: ram,
        ..Default::default()
    };
    let executor = load(model, device, options);
    let store = folder.map(|folder| {
        let options = StoreOptions { queue: 1000, ..StoreOptions::default() };
        Arc::new(Store::open(&folder.0, executor.fingerprint(), options).expect("opens"))
    });
    let checkpoints = CheckpointOptions { exact: true, ..CheckpointOptions::default() };
    Engine::start(executor, model.graph.n_tokens(), EngineOptions { checkpoints, store, ..Default::default() })
}

/// The reply, after checking that it is a cold run's and that no budget was exceeded; its report.
fn checked(engine: &Engine, request: Request) -> (Vec<u32>, Report) {
    let (reply, report) = generate(engine, request.clone());
    within(&report.checkpoints);
    let (cold, _) = generate(engine, Request { forget: true, ..request });
    assert_eq!(reply, cold, "restored at {:?}", report.reuse);
    (reply, report)
}

fn within(stats: &CheckpointStats) {
    assert!(stats.device_bytes <= stats.budget, "{stats:?}");
    assert!(stats.ram_bytes <= stats.ram_budget && stats.ram_peak <= stats.ram_budget, "{stats:?}");
}

fn stats(engine: &Engine) -> CheckpointStats {
    engine.flush().expect("runs");
    engine.checkpoints().expect("runs")
}

#[test]
fn what_the_device_has_no_room_for_comes_back() {
    for file in FILES {
        let model = model(file);
        for device in [cpu(1), adversary()] {
            let engine = engine(&model, device, 768 << 10, 64 << 20, None);
            let before = engine.free().expect("runs");
            let prompts: Vec<Vec<u32>> = (0..8).map(|i| tokens(&model, 330, i)).collect();
            for prompt in &prompts {
                checked(&engine, request(prompt, 6));
            }
            let now = stats(&engine);
            assert!(now.in_ram > 0 && now.ram_bytes > 0 && now.on_device < now.count, "{file}: {now:?}");
            let mut brought = 0;
            for prompt in &prompts {
                let (_, report) = checked(&engine, request(prompt, 6));
                assert_eq!(report.reused_tokens, 330, "{file}: {report:?}");
                brought += usize::from(report.reuse.place == Place::Ram);
            }
            assert!(brought >= 4, "{file}: only {brought} came from the host's memory");
            engine.forget().expect("runs");
            let now = stats(&engine);
            assert_eq!((now.count, now.ram_bytes, now.device_bytes), (0, 0, 0), "{file}: something leaked");
            assert_eq!(engine.free().expect("runs"), before, "{file}: a slot or page leaked");
        }
    }
}

#[test]
fn checkpoints_of_one_conversation_share_their_pages() {
    let model = model(FILES[0]);
    for device in [cpu(1), adversary()] {
        let executor_options = ExecutorOptions { n_ctx: 1024, ..Default::default() };
        let probe = load(&model, device.clone(), executor_options);
        let (slot, page) = (probe.slot_bytes(), probe.pool().plan().layout.groups[0].page_bytes as u64);
        drop(probe);
        let engine = engine(&model, device, 4 << 20, 64 << 20, None);
        let borders = (1..=10).map(|i| i * 64).collect();
        let ask = Request { borders, ..request(&tokens(&model, 650, 1), 1) };
        engine.generate(ask.clone()).collect_blocking().expect("a reply");
        // All go, one after the other.
        engine.set_checkpoint_budget(0).expect("runs");
        let now = stats(&engine);
        assert!(now.on_device == 0 && now.in_ram >= 10, "{now:?}");
        let own = now.in_ram as u64 * (slot + 650 * 16);
        // Full pages once; of those that are not full, one each at most.
        let most = own + (10 + now.in_ram as u64) * page + 3 * 4 * model.graph.n_tokens() as u64;
        assert!(now.ram_bytes <= most, "{} bytes of {most} for {} states", now.ram_bytes, now.in_ram);
        // One that comes back brings its pages; the next needs but its slot.
        engine.set_checkpoint_budget(4 << 20).expect("runs");
        let (_, report) = checked(&engine, Request { prompt: ask.prompt[..400].to_vec(), ..ask.clone() });
        assert_eq!((report.reused_tokens, report.reuse.place), (384, Place::Ram));
        let free = engine.free().expect("runs").1[0];
        let (_, report) = checked(&engine, Request { prompt: ask.prompt[..350].to_vec(), borders: Vec::new(), ..ask });
        assert_eq!((report.reused_tokens, report.reuse.place), (320, Place::Ram));
        let taken = free - engine.free().expect("runs").1[0];
        assert!(taken <= 2, "{taken} pages were taken for 320 tokens that were there and 30 new ones");
    }
}

#[test]
fn what_is_worth_least_goes_first_and_pins_stay() {
    let model = model(FILES[0]);
    for device in [cpu(1), adversary()] {
        // Room for a few states beside the device.
        let engine = engine(&model, device, 512 << 10, 768 << 10, None);
        let system = tokens(&model, 130, 1);
        let talk = |i: u32| {
            let prompt = [&system[..], &tokens(&model, 200, 10 + i)].concat();
            Request { borders: vec![130], ..request(&prompt, 4) }
        };
        checked(&engine, talk(0));
        assert!(engine.pin(&talk(0).prompt, true).expect("runs") > 0);
        let pinned = engine.checkpoint_positions(&talk(0).prompt).expect("runs");
        for i in 1..20 {
            let (_, report) = checked(&engine, talk(i));
            assert!(report.reused_tokens >= 128, "the system prompt was read again at {i}: {:?}", report.reuse);
        }
        for place in pinned {
            let left = engine.checkpoint_positions(&talk(0).prompt).expect("runs");
            assert!(left.contains(&place), "{place:?} was pinned; {left:?} are left");
        }
        let (_, report) = checked(&engine, talk(0));
        assert_eq!(report.reused_tokens, 330, "{report:?}");
        engine.pin(&talk(0).prompt, false).expect("runs");
        let full = stats(&engine);
        assert!(full.in_ram > 0, "{full:?}");
        // A smaller budget is kept at once.
        for bytes in [300 << 10, 100 << 10, 0] {
            engine.set_checkpoint_ram(bytes).expect("runs");
            let now = engine.checkpoints().expect("runs");
            assert!(now.ram_budget == bytes && now.ram_bytes <= bytes, "{now:?}");
        }
    }
}

#[test]
fn what_the_hosts_memory_has_no_room_for_goes_to_the_folder() {
    let model = model(FILES[0]);
    for (i, device) in [cpu(1), adversary()].into_iter().enumerate() {
        let folder = Folder::new(&format!("spill-{i}"));
        let engine = engine(&model, device, 512 << 10, 1 << 20, Some(&folder));
        let prompts: Vec<Vec<u32>> = (0..12).map(|i| tokens(&model, 330, 40 + i)).collect();
        for prompt in &prompts {
            checked(&engine, request(prompt, 6));
        }
        let now = stats(&engine);
        assert!(now.in_ram > 0 && now.on_disk.0 > now.in_ram, "{now:?}");
        let mut places = Vec::new();
        for prompt in prompts.iter().rev() {
            let (_, report) = checked(&engine, request(prompt, 6));
            assert_eq!(report.reused_tokens, 330, "{report:?}");
            places.push(report.reuse.place);
        }
        // What is in memory meanwhile depends on when the moves came to an end.
        assert!(places.contains(&Place::Folder), "{places:?}");
    }
}

#[test]
fn nothing_is_planned_that_the_host_has_not() {
    let model = model(FILES[0]);
    let load = |checkpoint_ram, host_limit| {
        let options = ExecutorOptions { n_ctx: 512, checkpoint_ram, host_limit, ..Default::default() };
        Executor::load(cpu(1), &model.graph, model.source.clone(), options)
    };
    assert_eq!(load(1 << 20, Some(1 << 20)).expect("fits").checkpoint_ram(), 1 << 20);
    assert_eq!(load(1 << 20, None).expect("no limit is known").checkpoint_ram(), 1 << 20);
    let refused = load(1 << 20, Some(1 << 19)).err().expect("refused").to_string();
    assert!(refused.contains("--checkpoint-ram") && refused.contains("host"), "{refused}");
}

/// Random edits of a few conversations over budgets that change; every reply is held to a cold run.
fn script(model: &Model, device: Arc<dyn Device>, seed: u32) {
    let folder = seed.is_multiple_of(3).then(|| Folder::new(&format!("script-{seed}")));
    let (bytes, ram) = (256 << 10 << (seed % 3), 128 << 10 << (seed / 3 % 6));
    let engine = engine(model, device, bytes, ram, folder.as_ref());
    let before = engine.free().expect("runs");
    let mut texts = vec![tokens(model, 90, seed), tokens(model, 200, seed + 1), tokens(model, 300, seed + 2)];
    let shared = texts[0][..70].to_vec();
    texts[1].splice(0..0, shared);
    for turn in 0..10u32 {
        let random = |k: u32, n: usize| philox([turn, k, seed, 4], [3, 6])[0] as usize % n.max(1);
        let fresh = |n: usize| tokens(model, n, 7000 + seed * 31 + turn);
        let which = random(0, texts.len());
        let mut text = texts[which].clone();
        match random(1, 9) {
            0 => {
                let at = random(2, text.len());
                text.splice(at..at, fresh(1 + random(3, 40)));
            }
            1 => {
                let at = random(2, text.len());
                text.drain(at..(at + 1 + random(3, 30)).min(text.len()));
            }
            2 => texts.push(text.clone()),
            3 => text.truncate(1 + random(2, text.len())),
            4 => {
                let generation = engine.generate(request(&[&text[..], &fresh(80)].concat(), 30));
                generation.cancel_flag().cancel();
                let _ = generation.collect_blocking();
            }
            5 => engine.set_checkpoint_budget((16 << 10) << random(2, 7)).expect("runs"),
            6 => engine.set_checkpoint_ram((16 << 10) << random(2, 8)).expect("runs"),
            7 => drop(engine.pin(&text, random(2, 2) == 0).expect("runs")),
            _ => text.extend(fresh(random(2, 90))),
        }
        text.truncate(500);
        if text.is_empty() {
            text = fresh(3);
        }
        let mut ask = request(&text, 1 + random(6, 12));
        ask.borders = (0..4).map(|i| (i + 1) * text.len() as u32 / 5).collect();
        let (reply, report) = engine.generate(ask.clone()).collect_blocking().expect("a reply");
        let (cold, _) = engine.generate(Request { forget: true, ..ask }).collect_blocking().expect("a reply");
        assert_eq!(reply, cold, "seed {seed}, turn {turn}: {:?}", report.reuse);
        let stats = report.checkpoints;
        // What is pinned stays, whatever the budget.
        let pins = (0..=turn).any(|t| philox([t, 1, seed, 4], [3, 6])[0] % 9 == 7);
        assert!(pins || stats.device_bytes <= stats.budget, "seed {seed}, turn {turn}: {stats:?}");
        assert!(stats.ram_peak <= ram, "seed {seed}, turn {turn}: {stats:?}");
        assert!(pins || folder.is_some() || stats.ram_bytes <= stats.ram_budget, "seed {seed}, turn {turn}: {stats:?}");
        text.extend(&reply);
        texts[which] = text;
    }
    engine.forget().expect("runs");
    let now = stats(&engine);
    assert_eq!((now.count, now.ram_bytes, now.device_bytes), (0, 0, 0), "seed {seed}: something leaked");
    assert_eq!(engine.free().expect("runs"), before, "seed {seed}: a slot or page leaked");
}

#[test]
fn random_edits_over_changing_budgets_give_what_a_cold_run_gives() {
    let number = |name: &str, default: u32| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first = number("SEGNO_TEST_SEED", 1);
    let models: Vec<Model> = FILES.iter().map(|file| model(file)).collect();
    for seed in first..first + number("SEGNO_TEST_SCRIPTS", 64) {
        let device = if seed % 2 == 0 { adversary() } else { cpu(1) };
        script(&models[seed as usize / 2 % models.len()], device, seed);
    }
}
