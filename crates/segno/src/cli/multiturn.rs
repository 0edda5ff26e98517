//! `segno bench multiturn`: what an edit deep in a conversation costs, turn after turn.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures::{FutureExt, StreamExt};
use indicatif::ProgressBar;
use segno::{CheckpointMode, CheckpointOptions, HubName, LoadOptions, Model, Session};
use segno_ir::SampleParams;
use segno_ir::sample::philox;
use segno_runtime::{Event, Request};
use serde_json::json;

use super::cache::CacheArgs;
use super::checkpoints::{Budget, bytes};
use super::model::{of_file, of_hub};
use super::{DeviceArgs, progress};

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Edit {
    Append,
    Depth4,
    System,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Mode {
    Off,
    Hybrid,
    Tree,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Format {
    Md,
    Csv,
    Json,
}

const EXAMPLES: &str = "\
Examples:
  segno bench multiturn -m MODEL.gguf --tokens 15000 --device vulkan
  segno bench multiturn --edits depth4 --modes off,hybrid,tree --svg TURNS.svg
  segno bench multiturn -m MODEL.gguf --modes tree --budget 500M -o csv";

/// Measure turns of a long conversation that is edited.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct MultiturnArgs {
    /// A GGUF file [default: the built-in demo model]
    #[arg(short, long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Instead: a model of the Hugging Face hub (also -hf)
    #[arg(long, value_name = "USER/REPO[:QUANT]", conflicts_with = "model")]
    hf_repo: Option<HubName>,
    /// Tokens of the first prompt
    #[arg(long, default_value_t = 15_000, value_name = "N", value_parser = clap::value_parser!(u32).range(256..=10_000_000), help_heading = "Conversation")]
    tokens: u32,
    /// Turns
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Conversation")]
    turns: u32,
    /// Tokens of a message and of a reply
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Conversation")]
    message: u32,
    /// Tokens of the text at depth 4, or of the system prompt's tail
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096), help_heading = "Conversation")]
    injection: u32,
    /// What changes from turn to turn: append: two messages more; depth4: as that, and a text four messages before the
    /// end is another one; system: as append, and the last tokens of the system prompt are others
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "append,depth4,system",
        value_name = "KIND",
        help_heading = "Conversation"
    )]
    edits: Vec<Edit>,
    /// What is remembered
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "off,hybrid,tree",
        value_name = "MODE",
        help_heading = "Checkpoints"
    )]
    modes: Vec<Mode>,
    /// Of the mode hybrid: tokens between checkpoints
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(32..), help_heading = "Checkpoints")]
    interval: u32,
    /// Of the mode hybrid: checkpoints
    #[arg(long, default_value_t = 64, value_name = "M", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Checkpoints")]
    slots: u32,
    /// Memory for the tree's checkpoints: bytes, with K, M or G, or auto: two contexts' worth
    #[arg(long, default_value = "auto", value_name = "BYTES", value_parser = bytes, help_heading = "Checkpoints")]
    budget: Budget,
    /// Cold prompts that a second copy of the model reads beside the first, without checkpoints, for their overhead; 0:
    /// don't measure it
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000), help_heading = "Checkpoints")]
    overhead: u32,
    /// How results are printed
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    output: Format,
    /// Draw the turns' times into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Unlike tokens for every use, the same in every run.
struct Fresh {
    n_vocab: u32,
    used: u32,
}

impl Fresh {
    fn take(&mut self, n: u32) -> Vec<u32> {
        self.used += 1;
        (0..n).map(|i| philox([i, self.used, 0, 0], [21, 4])[0] % self.n_vocab).collect()
    }
}

/// A turn, as it was measured.
struct Turn {
    mode: Mode,
    edit: Edit,
    turn: u32,
    prompt: usize,
    reused: usize,
    replayed: usize,
    /// Tokens from the first changed one on: what no checkpoint can save.
    changed: usize,
    prefill: Duration,
    whole: Duration,
    bytes: u64,
}

fn load(args: &MultiturnArgs, model: &Model, mode: Mode) -> anyhow::Result<Session> {
    let grown = args.tokens + args.turns * (2 * args.message + args.injection) + args.injection + 64;
    let mode = match mode {
        Mode::Off => CheckpointMode::Off,
        Mode::Hybrid => CheckpointMode::Hybrid { interval: args.interval, slots: args.slots },
        Mode::Tree => CheckpointMode::Tree,
    };
    let options = LoadOptions {
        device: args.device.device.clone(),
        threads: args.device.threads.map(|n| n as usize),
        context: Some(grown),
        k_type: args.cache.k(),
        v_type: args.cache.v(),
        checkpoints: CheckpointOptions { mode, ..Default::default() },
        checkpoint_bytes: args.budget.0.filter(|_| mode == CheckpointMode::Tree),
        ..Default::default()
    };
    Ok(model.load(&options)?)
}

fn request(messages: &[Vec<u32>], max_tokens: u32, forget: bool) -> Request {
    let mut borders = Vec::with_capacity(messages.len());
    let mut n = 0;
    for message in messages {
        n += message.len() as u32;
        borders.push(n);
    }
    Request {
        prompt: messages.concat(),
        borders,
        max_tokens: max_tokens as usize,
        params: SampleParams::greedy(),
        forget,
        ..Request::default()
    }
}

fn conversation(
    args: &MultiturnArgs,
    session: &Session,
    mode: Mode,
    edit: Edit,
    bar: &ProgressBar,
) -> anyhow::Result<Vec<Turn>> {
    let mut fresh = Fresh { n_vocab: session.model().graph().graph.n_tokens() as u32, used: 0 };
    session.engine().forget()?;
    let chat = (args.tokens / 2).min(20 * args.message);
    let mut history: Vec<Vec<u32>> = (0..chat / args.message).map(|_| fresh.take(args.message)).collect();
    let system = fresh.take(args.tokens - chat);
    let mut before: Vec<u32> = Vec::new();
    let mut turns = Vec::new();
    for turn in 0..=args.turns {
        let mut messages = vec![system.clone()];
        if edit == Edit::System {
            let n = messages[0].len().saturating_sub(args.injection as usize);
            messages[0].truncate(n);
            messages[0].extend(fresh.take(args.injection));
        }
        messages.extend(history.iter().cloned());
        if edit == Edit::Depth4 {
            let at = messages.len().saturating_sub(4).max(1);
            messages.insert(at, fresh.take(args.injection));
        }
        let begun = Instant::now();
        let (reply, report) = session.engine().generate(request(&messages, args.message, false)).collect_blocking()?;
        let whole = begun.elapsed();
        let prompt = messages.concat();
        let common = before.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        // The first turn reads everything: it is no edit.
        if turn > 0 {
            turns.push(Turn {
                mode,
                edit,
                turn,
                prompt: report.prompt_tokens,
                reused: report.reused_tokens,
                replayed: report.prompt_tokens - report.reused_tokens,
                changed: prompt.len() - common,
                prefill: report.prompt_time,
                whole,
                bytes: report.checkpoints.device_bytes,
            });
        }
        before = [&prompt[..], &reply].concat();
        bar.inc(1);
        history.push(reply);
        history.push(fresh.take(args.message));
    }
    Ok(turns)
}

/// Seconds of a step with checkpoints, and without.
type Step = [f64; 2];

/// Times of the steps of cold prompts. Two engines read the same prompt, a step of each in turns, one with checkpoints
/// and one without: what slows the machine for longer than a step slows both.
fn overhead(args: &MultiturnArgs, sessions: [&Session; 2], bar: &ProgressBar) -> anyhow::Result<Vec<Vec<Step>>> {
    let engines = sessions.map(Session::engine);
    let mut fresh = Fresh { n_vocab: sessions[0].model().graph().graph.n_tokens() as u32, used: 1 << 20 };
    let mut prompts = Vec::new();
    for i in 0..args.overhead as usize {
        let prompt = [fresh.take(args.tokens)];
        engines.iter().try_for_each(|engine| engine.forget())?;
        let mut holds = [Some(engines[0].hold()?), Some(engines[1].hold()?)];
        // Which engine remembers changes from prompt to prompt, and who comes first from step to step.
        let forgets = |engine: usize| (engine + i) % 2 == 1;
        let mut replies = [0, 1].map(|engine| engines[engine].generate(request(&prompt, 1, forgets(engine))));
        let mut steps: Vec<Step> = Vec::new();
        let mut running = true;
        while running {
            let mut step = [0.0; 2];
            let first = steps.len() % 2;
            for engine in [first, 1 - first] {
                let begun = Instant::now();
                let mut events = Vec::new();
                // Its first turn may have nothing to do yet.
                while events.is_empty() {
                    holds[engine] = None;
                    holds[engine] = Some(engines[engine].hold()?);
                    events.extend(std::iter::from_fn(|| replies[engine].next().now_or_never().flatten()));
                }
                step[usize::from(forgets(engine))] = begun.elapsed().as_secs_f64();
                for event in events {
                    match event {
                        Event::Failed(error) => return Err(error.into()),
                        Event::Done(_) => running = false,
                        Event::Prompt { .. } | Event::Token(_) => {}
                    }
                }
            }
            steps.push(step);
        }
        prompts.push(steps);
        bar.inc(2);
    }
    Ok(prompts)
}

/// Seconds of a cold prompt, the part by which checkpoints make it longer, and that part's standard error: sums of each
/// step's medians over the prompts.
fn cost(prompts: &[Vec<Step>]) -> (f64, f64, f64) {
    let (mut whole, mut more, mut variance) = (0.0, 0.0, 0.0);
    for i in 0..prompts[0].len() {
        let of = |f: fn(&Step) -> f64, q| quantile(prompts.iter().map(|steps| f(&steps[i])).collect(), q);
        let difference = |q| of(|[with, without]| with - without, q);
        whole += of(|step| step[1], 0.5);
        more += difference(0.5);
        // Of a median, if the middle half is as of a normal distribution.
        variance += (0.93 * (difference(0.75) - difference(0.25))).powi(2) / prompts.len() as f64;
    }
    (whole, more / whole, variance.sqrt() / whole)
}

/// The value that a part `q` of all is below; between two of them, in proportion.
fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() - 1) as f64 * q;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print(format: Format, turns: &[Turn], out: &mut impl Write) -> anyhow::Result<()> {
    let row = |t: &Turn| {
        [
            format!("{:?}", t.mode).to_lowercase(),
            format!("{:?}", t.edit).to_lowercase(),
            t.turn.to_string(),
            t.prompt.to_string(),
            t.reused.to_string(),
            t.replayed.to_string(),
            t.changed.to_string(),
            format!("{:.1}", milliseconds(t.prefill)),
            format!("{:.1}", milliseconds(t.whole)),
            t.bytes.to_string(),
        ]
    };
    const NAMES: [&str; 10] =
        ["mode", "edit", "turn", "prompt", "reused", "replayed", "changed", "prefill_ms", "turn_ms", "bytes"];
    match format {
        Format::Md => {
            writeln!(out, "| {} |\n|{}", NAMES.join(" | "), "---|".repeat(NAMES.len()))?;
            for turn in turns {
                writeln!(out, "| {} |", row(turn).join(" | "))?;
            }
        }
        Format::Csv => {
            writeln!(out, "{}", NAMES.join(","))?;
            for turn in turns {
                writeln!(out, "{}", row(turn).join(","))?;
            }
        }
        Format::Json => {
            let number = |text: String| text.parse::<f64>().map_or_else(|_| json!(text), |n| json!(n));
            let object = |t: &Turn| -> serde_json::Map<String, serde_json::Value> {
                NAMES.iter().map(|n| n.to_string()).zip(row(t).map(number)).collect()
            };
            let rows: Vec<_> = turns.iter().map(object).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        }
    }
    Ok(())
}

/// Each mode's mean and worst turn, beside the first mode's.
fn summary(turns: &[Turn], args: &MultiturnArgs) -> String {
    let mut text = String::from(
        "| edit | mode | prefill ms, median | worst | turn ms, median | replayed, mean | beyond what changed | bytes |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for &edit in &args.edits {
        for &mode in &args.modes {
            let these: Vec<&Turn> = turns.iter().filter(|t| t.mode == mode && t.edit == edit).collect();
            if these.is_empty() {
                continue;
            }
            let median = |f: &dyn Fn(&Turn) -> f64| quantile(these.iter().map(|t| f(t)).collect(), 0.5);
            let n = these.len() as f64;
            let replayed = these.iter().map(|t| t.replayed as f64).sum::<f64>() / n;
            let beyond = these.iter().map(|t| t.replayed as f64 - t.changed as f64).sum::<f64>() / n;
            let worst = these.iter().map(|t| milliseconds(t.prefill)).fold(0.0, f64::max);
            let bytes = these.iter().map(|t| t.bytes).max().unwrap_or(0);
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {worst:.1} | {:.1} | {replayed:.0} | {beyond:.0} | {bytes} |",
                format!("{edit:?}").to_lowercase(),
                format!("{mode:?}").to_lowercase(),
                median(&|t| milliseconds(t.prefill)),
                median(&|t| milliseconds(t.whole)),
            );
        }
    }
    text
}

/// Prefill times of the turns, a line a mode and edit, on a logarithmic scale.
fn svg(turns: &[Turn], args: &MultiturnArgs) -> String {
    const COLOURS: [&str; 3] = ["#b2182b", "#ef8a62", "#2166ac"];
    let (width, height) = (640.0, 360.0);
    let of = |t: &Turn| milliseconds(t.prefill).max(0.01).log10();
    let (low, high) = turns.iter().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    let span = (high - low).max(0.1);
    let x = |turn: u32| 60.0 + (width - 180.0) * f64::from(turn - 1) / f64::from(args.turns.max(2) - 1);
    let y = |v: f64| height - 40.0 - (height - 80.0) * (v - low) / span;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\
         <text x=\"60\" y=\"20\">Time to read the prompt, ms, turn by turn</text>"
    );
    for v in low.floor() as i32..=high.ceil() as i32 {
        let at = y(f64::from(v));
        if (30.0..height - 30.0).contains(&at) {
            let _ = write!(
                text,
                "<line x1=\"60\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"10\" y=\"{at:.1}\">{}</text>",
                width - 120.0,
                10f64.powi(v)
            );
        }
    }
    for (m, &mode) in args.modes.iter().enumerate() {
        for (e, &edit) in args.edits.iter().enumerate() {
            let these: Vec<&Turn> = turns.iter().filter(|t| t.mode == mode && t.edit == edit).collect();
            let Some(last) = these.last() else { continue };
            let points: Vec<String> = these.iter().map(|t| format!("{:.1},{:.1}", x(t.turn), y(of(t)))).collect();
            let _ = write!(
                text,
                "<polyline fill=\"none\" stroke=\"{}\" stroke-dasharray=\"{}\" points=\"{}\"/><text x=\"{}\" y=\"{:.1}\">{}</text>",
                COLOURS[m % COLOURS.len()],
                ["", "5 3", "2 2"][e % 3],
                points.join(" "),
                width - 115.0,
                y(of(last)),
                format!("{mode:?}, {edit:?}").to_lowercase()
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

pub fn run(args: MultiturnArgs) -> anyhow::Result<()> {
    let model = match (&args.model, &args.hf_repo) {
        (Some(path), _) => Model::open(of_file(path)?)?,
        (None, Some(name)) => Model::open(of_hub(name)?)?,
        (None, None) => Model::demo()?,
    };
    let mut turns = Vec::new();
    let mut overhead_cost = None;
    let bar = progress::bar("{msg} {bar:30} {pos}/{len} prompts");
    let conversations = args.modes.len() as u64 * args.edits.len() as u64 * u64::from(args.turns + 1);
    let pairs = args.modes.iter().filter(|&&mode| mode == Mode::Tree).count() as u64 * u64::from(args.overhead);
    bar.set_length(conversations + 2 * pairs);
    for &mode in &args.modes {
        bar.set_message("loading the model");
        let session = load(&args, &model, mode)?;
        for &edit in &args.edits {
            let name = format!("{mode:?}, {edit:?}").to_lowercase();
            log::info!("{name}");
            bar.set_message(name);
            turns.extend(conversation(&args, &session, mode, edit, &bar)?);
        }
        if mode == Mode::Tree && args.overhead > 0 {
            bar.set_message("overhead");
            let other = load(&args, &model, mode)?;
            overhead_cost = Some(cost(&overhead(&args, [&session, &other], &bar)?));
        }
    }
    bar.finish_and_clear();
    let mut out = std::io::stdout().lock();
    print(args.output, &turns, &mut out)?;
    if args.output == Format::Md {
        writeln!(out, "\n{}", summary(&turns, &args))?;
        if let Some((whole, more, error)) = overhead_cost {
            // Of a few there is no telling.
            let error = match args.overhead {
                ..4 => String::new(),
                _ => format!("; standard error {:.2} %", 100.0 * error),
            };
            writeln!(
                out,
                "Cold prompt of {} tokens: {:.1} ms; with checkpoints {:+.2} % (steps of both in turns, {} prompts{error})",
                args.tokens,
                1e3 * whole,
                100.0 * more,
                args.overhead,
            )?;
        }
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, svg(&turns, &args)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(quantile(vec![4.0, 1.0, 2.0, 8.0], 0.5), 3.0);
        assert_eq!(quantile(vec![4.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![5.0], 0.75), 5.0);
    }
}
