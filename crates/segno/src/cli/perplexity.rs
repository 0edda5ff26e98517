//! `segno perplexity`: how well a model foretells a text.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use segno::{EncodeOptions, PerplexityOptions};

use super::cache::CacheArgs;
use super::model::ModelArgs;
use super::{DeviceArgs, input, progress};

const EXAMPLES: &str = "\
Examples:
  segno perplexity MODEL.gguf -f TEXT.txt
  segno perplexity MODEL.gguf -f TEXT.txt -c 2048 --chunks 20 --json";

/// Measure how well a model foretells a text, as llama-perplexity does.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A file with the text (- is standard input)
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens of a chunk; the second half of each is scored
    #[arg(short, long = "ctx-size", default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(4..))]
    context: u32,
    /// Read this many chunks at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// Rows of a step
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: PerplexityArgs) -> anyhow::Result<()> {
    let mut text = input::read(None, Some(&args.file))?.unwrap_or_default();
    // llama-perplexity drops it, too.
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    let model = args.model.open()?;
    anyhow::ensure!(
        !model.tokenizer().adds_eos(),
        "the vocabulary ends every text with eos: perplexity is not defined"
    );
    let tokens = model.tokenizer().encode(text, EncodeOptions { add_special: true, parse_special: false });
    let options = PerplexityOptions {
        device: args.device.device,
        threads: args.device.threads.map(|n| n as usize),
        context: args.context,
        chunks: args.chunks.map(|n| n as usize),
        batch: args.batch,
        k_type: args.cache.k(),
        v_type: args.cache.v(),
    };
    let mut out = std::io::stdout().lock();
    let terminal = out.is_terminal();
    let mut written = Ok(());
    let bar = progress::bar("{bar:30} {pos}/{len} chunks, PPL {msg}, {eta} left");
    bar.set_length((tokens.len() as u64 / u64::from(args.context)).min(args.chunks.map_or(u64::MAX, u64::from)));
    let result = model.perplexity(&tokens, &options, |running, _| {
        bar.set_position(running.chunks as u64);
        bar.set_message(format!("{:.4}", running.value()));
        // On a terminal the bar would tear the line of values.
        if !args.json && (!terminal || bar.is_hidden()) && written.is_ok() {
            written = write!(out, "[{}]{:.4},", running.chunks, running.value()).and_then(|()| out.flush());
        }
    })?;
    bar.finish_and_clear();
    written.context("cannot write the result")?;
    if args.json {
        let all = serde_json::json!({
            "perplexity": result.value(), "standard_error": result.error(), "chunks": result.chunks,
            "tokens_scored": result.tokens, "tokens": tokens.len(), "n_ctx": args.context,
        });
        writeln!(out, "{all:#}")?;
    } else {
        writeln!(out, "\nFinal estimate: PPL = {:.4} +/- {:.5}", result.value(), result.error())?;
    }
    Ok(())
}
