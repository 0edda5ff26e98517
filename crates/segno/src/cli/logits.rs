//! `segno logits`: the logits of every position, for comparisons.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use segno::{Model, open_device};
use segno_cpu::{CpuDevice, CpuOptions};
use segno_ir::reference::Reference;
use segno_ir::{Cancel, Device, Input, Output, SpanKind, StateLayout};
use segno_runtime::{ExecutorOptions, Work};

use super::cache::CacheArgs;
use super::model::ModelArgs;
use super::{DeviceArgs, progress};

const EXAMPLES: &str = "\
Examples:
  segno logits MODEL.gguf --tokens 1,2,3 --out LOGITS.safetensors
  segno logits MODEL.gguf --tokens-file IDS.txt --reference --out LOGITS.safetensors";

/// Compute the logits of every position of a token sequence.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct LogitsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "tokens_file")]
    tokens: Vec<u32>,
    /// A file of token ids, separated by commas or white space
    #[arg(long, value_name = "FILE", conflicts_with = "tokens")]
    tokens_file: Option<PathBuf>,
    /// Where the result goes: `tokens` [T] i32 and `logits` [T, n_vocab] f32
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Use the f64 interpreter that all backends are compared with (slow)
    #[arg(long, conflicts_with = "device")]
    reference: bool,
    /// Compute on the CPU and leave activations in f32 beside block weights (slow)
    #[arg(long, conflicts_with_all = ["reference", "device"])]
    exact_activations: bool,
    /// Rows of a step
    #[arg(short, long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

fn tokens(args: &LogitsArgs) -> anyhow::Result<Vec<u32>> {
    let Some(path) = &args.tokens_file else { return Ok(args.tokens.clone()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
    words.map(|w| w.parse().with_context(|| format!("{}: '{w}' is not a token id", path.display()))).collect()
}

pub fn run(args: LogitsArgs) -> anyhow::Result<()> {
    let tokens = tokens(&args)?;
    anyhow::ensure!(!tokens.is_empty(), "there are no tokens; give some with --tokens or --tokens-file");
    let model = args.model.open()?;
    let (n_tokens, n_vocab) = (model.graph().graph.n_tokens(), model.graph().graph.n_vocab());
    if let Some(i) = tokens.iter().position(|&t| t as usize >= n_tokens) {
        anyhow::bail!("token {} at position {i} is outside the vocabulary of {n_tokens}", tokens[i]);
    }
    let logits = progress::spin("computing", || match args.reference {
        true => by_reference(&model, &args, &tokens),
        false => by_device(&model, &args, &tokens),
    })?;

    let ids: Vec<u8> = tokens.iter().flat_map(|&t| (t as i32).to_le_bytes()).collect();
    let values: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensors = HashMap::from([
        ("tokens", TensorView::new(Dtype::I32, vec![tokens.len()], &ids)?),
        ("logits", TensorView::new(Dtype::F32, vec![tokens.len(), n_vocab], &values)?),
    ]);
    safetensors::serialize_to_file(tensors, None, &args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))
}

fn by_reference(model: &Model, args: &LogitsArgs, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
    let graph = &model.graph().graph;
    StateLayout::new(graph, args.cache.k(), args.cache.v()).check().map_err(anyhow::Error::msg)?;
    let mut reference = Reference::new(graph, &*model.graph().source)?;
    reference.set_kv_types(args.cache.k(), args.cache.v());
    let inputs: Vec<Input> = tokens.iter().map(|&t| Input::Token(t)).collect();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let outputs = reference.run(&inputs, &rows)?;
    let logits = outputs.into_iter().find(|(o, _)| *o == Output::Logits).context("the model has no logits")?.1;
    Ok(logits.into_iter().map(|v| v as f32).collect())
}

fn by_device(model: &Model, args: &LogitsArgs, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
    let threads = args.device.threads.map(|n| n as usize);
    let device: Arc<dyn Device> = match args.exact_activations {
        true => Arc::new(CpuDevice::new(CpuOptions { threads, exact_activations: true, ..CpuOptions::default() })),
        false => open_device(&args.device.device, threads)?,
    };
    let batch = args.batch.min(tokens.len() as u32).max(segno_ir::PAGE_TOKENS);
    let options = ExecutorOptions {
        n_ctx: tokens.len() as u32,
        max_rows: batch,
        max_outputs: batch,
        k_type: args.cache.k(),
        v_type: args.cache.v(),
        ..Default::default()
    };
    let mut executor = model.executor(device, options)?;
    let sequence = executor.create()?;
    let mut logits = Vec::with_capacity(tokens.len() * model.graph().graph.n_vocab());
    for piece in tokens.chunks(args.batch as usize) {
        let work = Work {
            sequence,
            kind: SpanKind::Prefill,
            inputs: piece.iter().map(|&t| Input::Token(t)).collect(),
            outputs: (0..piece.len() as u32).collect(),
            snapshots: Vec::new(),
        };
        let issued = executor.issue(vec![work], &Cancel::new())?;
        let n = issued.rows.n;
        logits.extend(executor.read(&issued.rows, Output::Logits, 0, n).wait(Duration::from_secs(600))?);
        executor.confirm(issued);
    }
    Ok(logits)
}
