//! What a checkpoint costs: bytes, the time to take one and to go on from one, each beside the floor, which is its bytes
//! over the bandwidth that large copies reach on the same device, or to or from the host, in the same run.
//!
//! `cargo run --release --example checkpoint [DEVICE [MODEL.gguf [TOKENS]]]`
//!
//! "alone" is the time until one is done, the device's latency included; "of many" is its share when several are queued
//! and waited for once. A second table tells what going back a few tokens of a reply costs. Both are Markdown.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segno::{Cancel, GenerateOptions, LoadOptions, Model, StoreOptions, Why, open_device};
use segno_ir::{
    Device, Input, KvType, Output, PageId, Pool, PoolPlan, SlotId, SpanKind, StateDecl, StateId, StateLayout,
};
use segno_runtime::image::{Image, Key, Made, Precision};
use segno_runtime::store::Store;
use segno_runtime::{Executor, ExecutorOptions, Frozen, Request, Work};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const WAIT: Duration = Duration::from_secs(60);
/// Operations that are queued at once.
const MANY: usize = 16;
/// Bytes of a large copy. Half a dozen are more than caches hold, and few enough for any GPU's buffers.
const LARGE: usize = 16 << 20;

/// A pool of slots with so many floats, and nothing else.
fn slots_of(device: &dyn Device, floats: usize, slots: u32) -> Result<Arc<dyn Pool>> {
    let layout = StateLayout {
        states: vec![StateDecl::Recurrent { name: "slot".into(), shape: vec![floats as u32] }],
        recurrent: vec![(StateId(0), 0)],
        slot_floats: floats,
        groups: Vec::new(),
        k_type: KvType::F32,
        v_type: KvType::F32,
    };
    Ok(device.pool(&PoolPlan { layout, slots, pages: Vec::new() })?)
}

/// The shortest of several times: what other work on the machine adds is no cost of a checkpoint.
fn shortest(times: Vec<f64>) -> f64 {
    times.into_iter().fold(f64::INFINITY, f64::min)
}

/// Times in microseconds.
struct Clock {
    /// A few bytes, to wait for all that was issued.
    fence: Arc<dyn Pool>,
}

impl Clock {
    fn wait(&self) -> Result<()> {
        self.fence.read_slot(SlotId(1)).wait(WAIT)?;
        Ok(())
    }

    /// Microseconds until `n` operations are done, the shortest of several times.
    fn time(&self, n: usize, mut issue: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        let mut once = || -> Result<f64> {
            let begun = Instant::now();
            issue(n)?;
            self.wait()?;
            Ok(begun.elapsed().as_secs_f64() * 1e6)
        };
        Ok(shortest((0..20).map(|_| once()).collect::<Result<_>>()?))
    }

    /// Of one alone, and of one among many without the wait for the device to answer.
    fn both(&self, mut issue: impl FnMut(usize) -> Result<()>) -> Result<(f64, f64)> {
        let nothing = self.time(0, |_| Ok(()))?;
        let alone = self.time(1, &mut issue)?;
        Ok((alone, (self.time(MANY, issue)? - nothing).max(0.0) / MANY as f64))
    }
}

/// Reads tokens and returns the state after each of `snapshots`.
fn read(executor: &mut Executor, from: &Frozen, tokens: &[u32], snapshots: &[u32]) -> Result<Vec<Frozen>> {
    let sequence = executor.restore(from, from.n_tokens())?;
    let last = tokens.len() as u32 - 1;
    let inputs = tokens.iter().map(|&t| Input::Token(t)).collect();
    let work = Work { sequence, kind: SpanKind::Prefill, inputs, outputs: vec![last], snapshots: snapshots.to_vec() };
    let issued = executor.issue(vec![work], &Cancel::new())?;
    executor.read(&issued.rows, Output::Logits, 0, 1).wait(WAIT)?;
    let frozen = executor.confirm(issued).into_iter().map(|(_, frozen)| frozen).collect();
    executor.remove(sequence);
    Ok(frozen)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "cpu".into());
    let device = open_device(&name, None)?;
    let model = arguments.next().map_or_else(Model::demo, Model::open)?;
    let n: u32 = arguments.next().map_or(Ok(1000), |n| n.parse())?;
    let n = n.max(65);
    let tokens: Vec<u32> = (0..n + 64).map(|i| i * 7 % model.graph().graph.n_tokens() as u32).collect();

    let clock = Clock { fence: slots_of(&*device, 64, 2)? };
    let large = slots_of(&*device, LARGE / 4, 7)?;
    let there_and_back = [(SlotId(1), SlotId(2)), (SlotId(2), SlotId(1))];
    let per_byte = |us: f64| us / LARGE as f64;
    (1..7).try_for_each(|slot| large.write_slot(SlotId(slot), &vec![1.0; LARGE / 4]))?;
    // In turn, so that none finds its bytes in a cache.
    let mut at = 0;
    let mut next = |_| {
        at = at % 3 + 1;
        (SlotId(at), SlotId(at + 3))
    };
    // Many hide a GPU's latency; one is less often interrupted on a CPU.
    let (alone, many) = clock.both(|n| Ok(large.copy_slots(&(0..n).map(&mut next).collect::<Vec<_>>())?))?;
    let copied = per_byte(alone.min(many));
    let to_host = per_byte(clock.time(1, |_| Ok(large.read_slot(SlotId(1)).wait(WAIT).map(drop)?))?);
    let numbers = vec![1.0; LARGE / 4];
    let from_host = per_byte(clock.time(1, |_| Ok(large.write_slot(SlotId(1), &numbers)?))?);
    drop((large, numbers));

    let options = ExecutorOptions {
        n_ctx: n + 64,
        n_sequences: 2,
        checkpoint_bytes: Some(1 << 30),
        checkpoint_slots: 16,
        ..Default::default()
    };
    let mut executor = model.executor(device.clone(), options)?;
    let plan = executor.pool().plan().clone();
    let slot_bytes = plan.layout.slot_bytes();
    let page_bytes: usize = plan.layout.groups.iter().map(|g| g.page_bytes).sum();
    let sequence = executor.create()?;
    let empty = executor.freeze(sequence)?;
    executor.remove(sequence);
    let mut state = empty;
    for part in tokens[..n as usize].chunks(512) {
        let next = read(&mut executor, &state, part, &[part.len() as u32])?.pop().ok_or("no state")?;
        executor.release(std::mem::replace(&mut state, next));
    }

    println!(
        "{} on {} ({}). Large copies: {:.1} GB/s on the device, {:.1} to the host, {:.1} from it. A slot has {} bytes, \
         a page of 64 tokens {page_bytes}.\n",
        model.name(),
        device.describe().name,
        device.describe().driver,
        1e-3 / copied,
        1e-3 / to_host,
        1e-3 / from_host,
        slot_bytes,
    );
    println!("| what | bytes | alone, us | of many, us | floor, us | of many to floor |\n|---|---|---|---|---|---|");
    // `per_byte`: microseconds, of the bandwidth that bounds it.
    let row = |what: &str, bytes: usize, per_byte: f64, (alone, many): (f64, f64)| {
        let floor = bytes as f64 * per_byte;
        let (floor, ratio) = match floor > 0.0 {
            true => (format!("{floor:.1}"), format!("{:.1}", many / floor)),
            false => (String::new(), String::new()),
        };
        println!("| {what} | {bytes} | {alone:.1} | {many:.1} | {floor} | {ratio} |");
    };

    // Slots and pages of the model's own layout, which hold nothing.
    let scratch = device.pool(&PoolPlan { slots: 3, pages: vec![2; plan.layout.groups.len()], ..plan.clone() })?;
    let zeros = vec![0.0; plan.layout.slot_floats];
    scratch.write_slot(SlotId(1), &zeros)?;
    row(
        "take: copy of a slot on the device",
        slot_bytes,
        copied,
        clock.both(|n| Ok(scratch.copy_slots(&there_and_back.repeat(n.div_ceil(2))[..n])?))?,
    );
    let rest = &tokens[n as usize..];
    let mut times = [Vec::new(), Vec::new()];
    let inside = [13, 26, 39, 52];
    for _ in 0..12 {
        for (times, snapshots) in times.iter_mut().zip([&[][..], &inside]) {
            let begun = Instant::now();
            let taken = read(&mut executor, &state, rest, snapshots)?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
            taken.into_iter().for_each(|frozen| executor.release(frozen));
        }
    }
    let [without, with] = times.map(shortest);
    let each = (with - without) / inside.len() as f64;
    row("take: inside a step of 64 tokens", slot_bytes, copied, (each, each));
    println!("| (that step without) | | {without:.1} | | | |");
    let mut references = |n: usize| -> Result<()> {
        for _ in 0..n {
            let sequence = executor.restore(&state, state.n_tokens())?;
            let frozen = executor.freeze(sequence)?;
            executor.remove(sequence);
            executor.release(frozen);
        }
        Ok(())
    };
    row("restore and freeze by reference", 0, copied, clock.both(&mut references)?);
    if let Some(group) = plan.layout.groups.first() {
        let last = n_last(state.n_tokens());
        let bytes = group.page_bytes * last as usize / 64;
        let copy = |_| Ok(scratch.copy_pages(0, &[(PageId(0), PageId(1))], last)?);
        row("restore: copy of the page it ends in", bytes, copied, clock.both(|n| (0..n).try_for_each(copy))?);
        let whole = clock.both(|n| references(n).and_then(|()| (0..n).try_for_each(copy)))?;
        row("restore: both, for slot and page", slot_bytes + bytes, copied, whole);
    }

    let host = |n: usize| -> Result<()> {
        let pending: Vec<_> = (0..n).map(|_| scratch.read_slot(SlotId(1))).collect();
        pending.into_iter().try_for_each(|p| p.wait(WAIT).map(drop))?;
        Ok(())
    };
    row("slot to the host", slot_bytes, to_host, clock.both(host)?);
    row(
        "slot from the host",
        slot_bytes,
        from_host,
        clock.both(|n| Ok((0..n).try_for_each(|_| scratch.write_slot(SlotId(1), &zeros))?))?,
    );

    let keys: Vec<Key> = tokens[..n as usize].iter().map(|&t| Key::from(t)).collect();
    let fingerprint = executor.fingerprint();
    let export = |executor: &mut Executor, state: &Frozen| -> Result<Image> {
        let export = executor.export(state);
        let (slot, tables) = executor.finish(export, WAIT)?;
        let (keys, made, precision) = (keys.clone(), Made::Prefill, Precision::F32);
        Ok(Image { fingerprint, keys, made, precision, slot, tables, logits: None })
    };
    // What is still on the host is not brought there again, so each image is dropped before the next comes.
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        export(&mut executor, &state)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let first = shortest(times);
    let image = export(&mut executor, &state)?;
    let pages: usize = image.tables.iter().zip(&plan.layout.groups).map(|(t, g)| t.pages.len() * g.page_bytes).sum();
    let all = slot_bytes + pages;
    row(&format!("whole state of {n} tokens to the host"), all, to_host, (first, first));
    executor.release(state);
    let take = |executor: &mut Executor, image: &Image| -> Result<()> {
        let state = executor.import(image)?;
        clock.wait()?;
        executor.release(state);
        Ok(())
    };
    let took = clock.time(1, |_| take(&mut executor, &image))?;
    row("whole state from the host", all, from_host, (took, took));

    let folder = std::env::temp_dir().join(format!("segno-bench-{}", std::process::id()));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        let store = Store::open(&folder, fingerprint, StoreOptions::default())?;
        let begun = Instant::now();
        store.save(image.clone());
        store.flush();
        times[0].push(begun.elapsed().as_secs_f64() * 1e6);
        drop(store);
        let store = Store::open(&folder, fingerprint, StoreOptions::default())?;
        let stored = *store.list().first().ok_or("nothing was written")?;
        let begun = Instant::now();
        let image = store.load(stored.id)?;
        take(&mut executor, &image)?;
        times[1].push(begun.elapsed().as_secs_f64() * 1e6);
        drop(store);
        std::fs::remove_dir_all(&folder)?;
    }
    let [saved, loaded] = times.map(shortest);
    row("whole state from the host to the folder, synced", all, 0.0, (saved, saved));
    row("whole state from the folder (cached by the system)", all, 0.0, (loaded, loaded));
    drop((executor, scratch, device));
    rewind(&model, &name, &tokens[..n as usize], slot_bytes)
}

/// What it costs to go back `r` tokens of a reply of 100 and go on with another token there.
fn rewind(model: &Model, device: &str, prompt: &[u32], slot_bytes: usize) -> Result<()> {
    const BACK: [usize; 9] = [1, 2, 3, 5, 8, 13, 21, 34, 55];
    let load = LoadOptions {
        device: device.into(),
        context: Some(prompt.len() as u32 + 200),
        // Room for the states of all branches of a round: a full budget drops those of the last tokens first.
        checkpoint_bytes: Some(80 * slot_bytes as u64 + (256 << 20)),
        ..LoadOptions::default()
    };
    let session = model.load(&load)?;
    let n_tokens = model.graph().graph.n_tokens() as u32;
    let options = |n| GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::greedy() };
    let mut read = BACK.map(|_| 0);
    let mut times = BACK.map(|_| Vec::new());
    let (mut cold, mut recent) = (Vec::new(), 0);
    for round in 0..3 {
        session.engine().forget()?;
        let mut text = session.text();
        text.append_tokens(prompt);
        text.append_tokens(&[round]);
        text.generate(&options(100))?;
        let places = session.engine().checkpoint_positions(text.tokens())?;
        recent = places.iter().filter(|p| p.1 == Why::Recent).count();
        // The furthest last: what one leaves behind is of no use to the next.
        for (i, back) in BACK.into_iter().enumerate() {
            let mut branch = text.branch();
            let other = (text.tokens()[text.len() - back] + 1) % n_tokens;
            branch.rewind(back);
            branch.append_tokens(&[other]);
            branch.generate(&options(1))?;
            let report = branch.report().ok_or("no report")?;
            read[i] = read[i].max(report.prompt_tokens - report.reused_tokens);
            times[i].push(report.prompt_time.as_secs_f64() * 1e3);
        }
        let request = Request { prompt: text.tokens().to_vec(), max_tokens: 1, forget: true, ..Request::default() };
        let (_, report) = session.engine().generate(request).collect_blocking()?;
        cold.push(report.prompt_time.as_secs_f64() * 1e3);
    }
    let bytes = recent * slot_bytes;
    println!("\n{recent} states of the last tokens, {:.1} MB.\n", bytes as f64 / 1e6);
    println!("| tokens back | tokens read | ms |\n|---|---|---|");
    for ((back, read), times) in BACK.into_iter().zip(read).zip(times) {
        println!("| {back} | {read} | {:.1} |", shortest(times));
    }
    println!("| all read again | {} | {:.1} |", prompt.len() + 101, shortest(cold));
    Ok(())
}

/// Tokens in the page that a state of `n` tokens ends in.
fn n_last(n: u32) -> u32 {
    (n - 1) % 64 + 1
}
