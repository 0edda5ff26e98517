//! The command line.

mod bench;
mod cache;
mod checkpoints;
mod conformance;
mod devices;
mod input;
mod inspect;
mod logits;
mod model;
mod multiturn;
mod perplexity;
mod progress;
mod run;
mod sampling;
mod shell;
mod synth;
mod tokenize;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

const AFTER_HELP: &str = "\
Examples:
  segno                                      chat with the demo model
  segno run MODEL.gguf                       chat
  segno run MODEL.gguf -p 'Why is it blue?'  answer one prompt
  segno run -hf USER/REPO:Q4_K_M             download a model of the hub, and chat
  segno bench -m MODEL.gguf -p 512 -n 128    measure its speed
  segno perplexity MODEL.gguf -f TEXT.txt    measure its quality
  segno devices                              what --device takes
  segno completions bash > ~/.local/share/bash-completion/completions/segno

`segno COMMAND --help` has the flags of a command and examples.";

/// Run hybrid recurrent/attention language models from GGUF files.
#[derive(Parser)]
#[command(
    name = "segno",
    version,
    about,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Say more: -v what was loaded and planned, -vv details (RUST_LOG does the same, finer)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Chat with a model, or answer one prompt
    Run(Box<run::RunArgs>),
    /// Show what a model file holds
    Inspect(inspect::InspectArgs),
    /// Compute the logits of every position of a token sequence
    Logits(logits::LogitsArgs),
    /// Measure how well a model foretells a text
    Perplexity(perplexity::PerplexityArgs),
    /// Measure tokens per second
    Bench(bench::BenchArgs),
    /// Measure turns of a long conversation that is edited; the old name of `bench multiturn`
    #[command(hide = true)]
    BenchMultiturn(multiturn::MultiturnArgs),
    /// Show the tokens of a text
    Tokenize(tokenize::TokenizeArgs),
    /// Write a model file of a real shape with random weights
    Synth(synth::SynthArgs),
    /// List the devices that models can run on
    Devices(devices::DevicesArgs),
    /// Compare every kernel of a device with the reference
    Conformance(conformance::ConformanceArgs),
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the man page
    Man(shell::ManArgs),
}

/// Where a model runs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// Device: auto, cpu, or an entry of `segno devices`
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
    /// Threads of the CPU backend [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
}

/// llama.cpp's flags of several letters after one dash, as clap knows them.
fn long_form(argument: OsString) -> OsString {
    match argument.to_str() {
        Some("-hf" | "-hfr") => "--hf-repo".into(),
        Some("-pg") => "--pg".into(),
        Some("-ub") => "--ubatch-size".into(),
        Some("-ctk") => "--cache-type-k".into(),
        Some("-ctv") => "--cache-type-v".into(),
        _ => argument,
    }
}

/// Where the lines of a broken pipe go.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

pub fn main() -> ExitCode {
    let cli = Cli::parse_from(std::env::args_os().map(long_form));
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    // The graphics libraries have much to say that is not the user's business.
    let filter = format!("warn,segno={level},wgpu_core=error,wgpu_hal=error,naga=error");
    let env = env_logger::Env::default().default_filter_or(filter);
    env_logger::Builder::from_env(env).format_timestamp(None).format_target(false).init();
    let result = match cli.command {
        None => run::run(run::RunArgs::default()),
        Some(Command::Run(args)) => run::run(*args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Logits(args)) => logits::run(args),
        Some(Command::Perplexity(args)) => perplexity::run(args),
        Some(Command::Bench(args)) => bench::run(args),
        Some(Command::BenchMultiturn(args)) => multiturn::run(args),
        Some(Command::Tokenize(args)) => tokenize::run(args),
        Some(Command::Synth(args)) => synth::run(args),
        Some(Command::Devices(args)) => devices::run(args),
        Some(Command::Conformance(args)) => conformance::run(args),
        Some(Command::Completions(args)) => shell::completions(args, Cli::command()),
        Some(Command::Man(args)) => shell::man(args, Cli::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
