//! `segno bench`: tokens per second, with llama-bench's flags and table.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;
use segno::{HubName, Model, open_device};
use segno_gguf::Value;
use segno_ir::sample::SampleParams;
use segno_ir::{Capabilities, KvType, PAGE_TOKENS};
use segno_runtime::{Engine, EngineOptions, Event, ExecutorOptions, Report, Request};
use serde_json::json;

use super::cache::CacheType;
use super::model::{of_file, of_hub};
use super::multiturn::{self, MultiturnArgs};
use super::{inspect, progress};

const EXAMPLES: &str = "\
Examples:
  segno bench -m MODEL.gguf -p 512 -n 128                 a prompt of 512 tokens, a reply of 128
  segno bench -m A.gguf,B.gguf -t 4,8 -o csv              two models, 4 and 8 threads
  segno bench -m MODEL.gguf -p 0 -n 32 -d 0,4096,16384    replies behind a long context
  segno bench multiturn -m MODEL.gguf --tokens 15000      what edits deep in a long chat cost";

/// Measure tokens per second. Flags that take several values measure all combinations.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// GGUF files [default: the built-in demo model]
    #[arg(short, long, value_name = "FILE", value_delimiter = ',')]
    model: Vec<PathBuf>,
    /// Models of the Hugging Face hub (also -hf)
    #[arg(long, value_name = "USER/REPO[:QUANT]", value_delimiter = ',')]
    hf_repo: Vec<HubName>,
    /// Read a prompt of N tokens; 0: don't
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<u32>,
    /// Generate N tokens; 0: don't
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<u32>,
    /// Read P tokens, then generate G (also -pg)
    #[arg(long = "pg", value_name = "P,G", value_parser = pair)]
    prompt_gen: Vec<(u32, u32)>,
    /// Tokens that the context holds already
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<u32>,
    /// Measure each this many times
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Threads of the CPU backend [default: one per core]
    #[arg(short, long, value_name = "N", value_delimiter = ',', help_heading = "Device", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Vec<u32>,
    /// Most tokens of a step; the smaller of this and -ub counts
    #[arg(short, long, value_name = "N", value_delimiter = ',', default_value = "2048", help_heading = "Device", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: Vec<u32>,
    /// Tokens of a step (also -ub)
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "512", help_heading = "Device", value_parser = clap::value_parser!(u32).range(1..=65536))]
    ubatch_size: Vec<u32>,
    /// Types of stored keys (also -ctk)
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "f32", help_heading = "Memory")]
    cache_type_k: Vec<CacheType>,
    /// Types of stored values (also -ctv)
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "f32", help_heading = "Memory")]
    cache_type_v: Vec<CacheType>,
    /// Devices: auto, cpu, or entries of `segno devices`
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "auto", help_heading = "Device")]
    device: Vec<String>,
    /// How results are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    output: Format,
}

#[derive(Subcommand)]
enum What {
    /// Measure turns of a long conversation that is edited
    Multiturn(Box<MultiturnArgs>),
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Md,
    Csv,
    Json,
    Jsonl,
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(',').and_then(|(p, g)| Some((p.trim().parse().ok()?, g.trim().parse().ok()?)));
    parsed.ok_or_else(|| format!("'{text}' is not two numbers: P,G"))
}

/// One line of the table, before it is measured.
#[derive(Clone, Copy)]
struct Test {
    prompt: u32,
    generate: u32,
    depth: u32,
}

impl Test {
    fn name(&self) -> String {
        let what = match (self.prompt, self.generate) {
            (p, 0) => format!("pp{p}"),
            (0, g) => format!("tg{g}"),
            (p, g) => format!("pp{p}+tg{g}"),
        };
        if self.depth > 0 { format!("{what} @ d{}", self.depth) } else { what }
    }

    fn tokens(&self) -> u32 {
        self.prompt + self.generate
    }
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let prompts = args.n_prompt.iter().map(|&p| (p, 0));
    let generations = args.n_gen.iter().map(|&g| (0, g));
    let all: Vec<_> = prompts.chain(generations).chain(args.prompt_gen.iter().copied()).collect();
    let at = |depth: u32| all.iter().map(move |&(prompt, generate)| Test { prompt, generate, depth });
    args.n_depth.iter().flat_map(|&d| at(d)).filter(|t| t.tokens() > 0).collect()
}

/// Random tokens, other ones at each call.
struct Tokens {
    state: u64,
    n_vocab: u64,
}

impl Tokens {
    fn take(&mut self, n: u32) -> Vec<u32> {
        let mut next = || {
            // Knuth's MMIX constants.
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((self.state >> 33) % self.n_vocab) as u32
        };
        (0..n).map(|_| next()).collect()
    }
}

fn generate(engine: &Engine, prompt: Vec<u32>, max_tokens: u32, forget: bool) -> anyhow::Result<Report> {
    let params = SampleParams { temperature: 0.0, ..SampleParams::default() };
    let request = Request { prompt, max_tokens: max_tokens as usize, params, forget, ..Request::default() };
    let mut generation = engine.generate(request);
    loop {
        match generation.next_blocking().context("the engine has stopped")? {
            Event::Done(report) => return Ok(report),
            Event::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
}

/// Time of one repetition. The token that a prompt's end gives counts as part of the prompt.
fn measure(engine: &Engine, test: &Test, tokens: &mut Tokens) -> anyhow::Result<Duration> {
    let decode = |report: &Report| -> anyhow::Result<Duration> {
        anyhow::ensure!(report.generated_tokens as u32 == test.generate + 1, "the reply ended early");
        Ok(report.generation_time)
    };
    if test.prompt == 0 {
        return decode(&generate(engine, tokens.take(test.depth.max(1)), test.generate + 1, true)?);
    }
    let mut prompt = tokens.take(test.depth);
    if test.depth > 0 {
        engine.forget()?;
        generate(engine, prompt.clone(), 1, false)?;
    }
    prompt.extend(tokens.take(test.prompt));
    let report = generate(engine, prompt, test.generate + 1, test.depth == 0)?;
    let reused = report.reused_tokens;
    anyhow::ensure!(reused as u32 == test.depth, "the engine kept {reused} of {} tokens of context", test.depth);
    Ok(report.prompt_time + decode(&report)?)
}

/// What is measured on: one engine.
struct Setting<'a> {
    model: &'a Model,
    path: Option<&'a Path>,
    device: &'a str,
    threads: Option<u32>,
    batch: u32,
    ubatch: u32,
    k_type: KvType,
    v_type: KvType,
}

struct Described {
    model: String,
    bytes: u64,
    parameters: u64,
}

fn describe(model: &Model) -> Described {
    let summary = inspect::summary(model.gguf());
    let architecture = model.gguf().get("general.architecture").and_then(Value::as_str).unwrap_or("?");
    let most = || summary.bytes_of_type.iter().max_by_key(|(_, bytes)| **bytes).map(|(name, _)| *name);
    let ty = model.gguf().file_type().or_else(most).unwrap_or("?");
    let name = format!("{architecture} {} {ty}", scaled(summary.parameters).replace(' ', ""));
    Described { model: name, bytes: summary.tensor_bytes, parameters: summary.parameters }
}

fn scaled(n: u64) -> String {
    if n < 1_000_000_000 { format!("{:.2} M", n as f64 / 1e6) } else { format!("{:.2} B", n as f64 / 1e9) }
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.2} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// Mean and sample standard deviation.
fn statistics(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|s| (s - mean) * (s - mean)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// Prints results as they come.
struct Printer<W: Write> {
    out: W,
    format: Format,
    n: usize,
}

impl<W: Write> Printer<W> {
    fn print(
        &mut self,
        set: &Setting<'_>,
        device: &Capabilities,
        about: &Described,
        test: &Test,
        times: &[Duration],
    ) -> anyhow::Result<()> {
        let threads =
            set.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), |n| n as usize);
        let ns: Vec<f64> = times.iter().map(|t| t.as_nanos() as f64).collect();
        let rates: Vec<f64> = ns.iter().map(|ns| f64::from(test.tokens()) * 1e9 / ns.max(1.0)).collect();
        let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (statistics(&ns), statistics(&rates));
        let Described { model, bytes, parameters } = about;
        let fields = json!({
            "build_commit": env!("CARGO_PKG_VERSION"), "backends": device.backend, "device": device.name,
            "driver": device.driver, "model_filename": set.path, "model_type": model, "model_size": bytes,
            "model_n_params": parameters, "n_batch": set.batch, "n_ubatch": set.ubatch, "n_threads": threads,
            "type_k": set.k_type.name(), "type_v": set.v_type.name(), "n_prompt": test.prompt,
            "n_gen": test.generate, "n_depth": test.depth, "avg_ns": avg_ns.round() as u64,
            "stddev_ns": stddev_ns.round() as u64, "avg_ts": avg_ts, "stddev_ts": stddev_ts,
        });
        let with_samples = || {
            let mut all = fields.clone();
            all["samples_ns"] = json!(times.iter().map(|t| t.as_nanos() as u64).collect::<Vec<_>>());
            all["samples_ts"] = json!(rates);
            all
        };
        let first = self.n == 0;
        self.n += 1;
        match self.format {
            Format::Json => write!(self.out, "{}{:#}", if first { "[\n" } else { ",\n" }, with_samples())?,
            Format::Jsonl => writeln!(self.out, "{}", with_samples())?,
            Format::Csv => {
                let fields = fields.as_object().context("fields")?;
                if first {
                    writeln!(self.out, "{}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(","))?;
                }
                let quoted = |v: &serde_json::Value| {
                    let text = v.as_str().map_or_else(|| v.to_string(), str::to_string);
                    format!("\"{}\"", text.replace('"', "\"\""))
                };
                writeln!(self.out, "{}", fields.values().map(quoted).collect::<Vec<_>>().join(","))?;
            }
            Format::Md => {
                if first {
                    let head = ["model", "size", "params", "backend", "threads", "test", "t/s"];
                    writeln!(
                        self.out,
                        "| {:<30} | {:>10} | {:>10} | {:<10} | {:>7} | {:>15} | {:>20} |",
                        head[0], head[1], head[2], head[3], head[4], head[5], head[6]
                    )?;
                    let rule = |n: usize| "-".repeat(n);
                    writeln!(
                        self.out,
                        "| {} | {}: | {}: | {} | {}: | {}: | {}: |",
                        rule(30),
                        rule(9),
                        rule(9),
                        rule(10),
                        rule(6),
                        rule(14),
                        rule(19)
                    )?;
                }
                let (size, parameters, rate) =
                    (size(*bytes), scaled(*parameters), format!("{avg_ts:.2} ± {stddev_ts:.2}"));
                let (backend, test) = (device.backend, test.name());
                writeln!(
                    self.out,
                    "| {model:<30} | {size:>10} | {parameters:>10} | {backend:<10} | {threads:>7} | {test:>15} | {rate:>20} |"
                )?;
            }
        }
        Ok(self.out.flush()?)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        if let Format::Json = self.format {
            writeln!(self.out, "{}", if self.n == 0 { "[]" } else { "\n]" })?;
        }
        Ok(())
    }
}

fn bench(
    set: &Setting<'_>,
    tests: &[Test],
    repetitions: u32,
    printer: &mut Printer<impl Write>,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let device = open_device(set.device, set.threads.map(|n| n as usize))?;
    let described = device.describe().clone();
    let options = ExecutorOptions {
        n_ctx: tests.iter().map(|t| t.depth + t.tokens() + 2).max().unwrap_or(0).max(PAGE_TOKENS),
        max_rows: set.batch.min(set.ubatch).max(PAGE_TOKENS),
        k_type: set.k_type,
        v_type: set.v_type,
        ..ExecutorOptions::default()
    };
    let n_vocab = set.model.graph().graph.n_tokens();
    bar.set_message("loading the model");
    let engine = Engine::start(set.model.executor(device, options)?, n_vocab, EngineOptions::default());
    let about = describe(set.model);
    let mut tokens = Tokens { state: 1, n_vocab: n_vocab as u64 };
    for test in tests {
        bar.set_message(test.name());
        let mut measured = || {
            let time = measure(&engine, test, &mut tokens).with_context(|| test.name());
            bar.inc(1);
            time
        };
        measured()?; // warms up
        let times = (0..repetitions).map(|_| measured()).collect::<Result<Vec<_>, _>>()?;
        bar.suspend(|| printer.print(set, &described, &about, test, &times))?;
    }
    Ok(())
}

pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    if let Some(What::Multiturn(args)) = args.what {
        return multiturn::run(*args);
    }
    let tests = tests(&args);
    anyhow::ensure!(!tests.is_empty(), "there is nothing to measure; give -p, -n or -pg more than 0 tokens");
    let mut paths = args.model.iter().map(|path| of_file(path).map(Some)).collect::<Result<Vec<_>, _>>()?;
    for name in &args.hf_repo {
        paths.push(Some(of_hub(name)?));
    }
    if paths.is_empty() {
        paths.push(None);
    }
    let threads: Vec<_> =
        if args.threads.is_empty() { vec![None] } else { args.threads.iter().map(|&n| Some(n)).collect() };
    let engines = paths.len() * args.device.len() * threads.len() * args.batch_size.len() * args.ubatch_size.len();
    let engines = engines * args.cache_type_k.len() * args.cache_type_v.len();
    let bar = progress::bar("{msg} {bar:30} {pos}/{len}");
    bar.set_length(engines as u64 * tests.len() as u64 * u64::from(args.repetitions + 1));
    let mut printer = Printer { out: std::io::stdout().lock(), format: args.output, n: 0 };
    for path in paths {
        let model = match &path {
            Some(path) => Model::open(path)?,
            None => Model::demo()?,
        };
        for device in &args.device {
            for &threads in &threads {
                for (&batch, &ubatch) in
                    args.batch_size.iter().flat_map(|b| args.ubatch_size.iter().map(move |u| (b, u)))
                {
                    for (k_type, v_type) in
                        args.cache_type_k.iter().flat_map(|k| args.cache_type_v.iter().map(move |v| (k.kv(), v.kv())))
                    {
                        let path = path.as_deref();
                        let set = Setting { model: &model, path, device, threads, batch, ubatch, k_type, v_type };
                        bench(&set, &tests, args.repetitions, &mut printer, &bar)?;
                    }
                }
            }
        }
    }
    bar.finish_and_clear();
    printer.finish()
}
