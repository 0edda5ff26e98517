//! `segno inspect`: what a file holds, without loading it.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use segno::Model;
use segno_gguf::{Gguf, Value};
use segno_ir::{KvType, PAGE_TOKENS, StateLayout};
use serde_json::{Map, json};

use super::model::ModelArgs;

const EXAMPLES: &str = "\
Examples:
  segno inspect MODEL.gguf              metadata, sizes, memory of a sequence
  segno inspect MODEL.gguf --tensors    every tensor too
  segno inspect MODEL.gguf --json | jq .metadata";

/// Show what a model file holds.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print the graph that is computed
    #[arg(long)]
    graph: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Elements of a long array that are shown.
const SHOWN: usize = 8;

fn to_json(value: &Value) -> serde_json::Value {
    if let Some(array) = value.as_array() {
        let shown: Vec<_> = array.iter().take(SHOWN).map(|v| to_json(&v)).collect();
        return json!({ "len": array.len(), "first": shown });
    }
    match (value.as_bool(), value.as_str()) {
        (Some(flag), _) => json!(flag),
        (_, Some(text)) => json!(text),
        _ => match (value.as_u64(), value.as_i64()) {
            (Some(n), _) => json!(n),
            (_, Some(n)) => json!(n),
            _ => json!(value.as_f64()),
        },
    }
}

pub struct Summary {
    pub parameters: u64,
    pub tensor_bytes: u64,
    types: BTreeMap<&'static str, u64>,
    pub bytes_of_type: BTreeMap<&'static str, u64>,
}

pub fn summary(gguf: &Gguf) -> Summary {
    let mut summary =
        Summary { parameters: 0, tensor_bytes: 0, types: BTreeMap::new(), bytes_of_type: BTreeMap::new() };
    for info in gguf.tensors() {
        summary.parameters += info.shape.iter().product::<u64>();
        summary.tensor_bytes += gguf.tensor_bytes(info).len() as u64;
        *summary.types.entry(info.ty.name()).or_default() += 1;
        *summary.bytes_of_type.entry(info.ty.name()).or_default() += gguf.tensor_bytes(info).len() as u64;
    }
    summary
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub fn run(args: InspectArgs) -> anyhow::Result<()> {
    // A file of an unknown architecture still shows what it holds.
    let (gguf, model) = match args.model.path()? {
        None => {
            let model = Model::demo()?;
            (model.gguf().clone(), Ok(model))
        }
        Some(path) => {
            let gguf = Gguf::open(&path)?;
            (gguf, Model::open(path))
        }
    };
    let mut out = std::io::stdout().lock();
    if args.graph {
        write!(out, "{}", model?.graph().graph)?;
        return Ok(());
    }
    let Summary { parameters, tensor_bytes, types, .. } = summary(&gguf);
    let layout = model.as_ref().ok().map(|m| StateLayout::new(&m.graph().graph, KvType::F32, KvType::F32));

    if args.json {
        let metadata: Map<_, _> = gguf.metadata().map(|(key, value)| (key.to_string(), to_json(value))).collect();
        let tensors: Vec<_> = gguf
            .tensors()
            .map(|t| json!({ "name": t.name, "type": t.ty.name(), "shape": t.shape, "bytes": gguf.tensor_bytes(t).len() }))
            .collect();
        let mut all = json!({
            "metadata": metadata, "tensors": tensors, "parameters": parameters, "tensor_bytes": tensor_bytes,
            "error": model.as_ref().err().map(ToString::to_string),
        });
        if let Some(layout) = &layout {
            all["state"] = json!({
                "recurrent_bytes_per_sequence": layout.slot_bytes(),
                "kv_groups": layout.groups.iter().map(|g| json!({
                    "window": g.window, "layers": g.members.len(), "bytes_per_token": g.page_bytes / PAGE_TOKENS as usize,
                })).collect::<Vec<_>>(),
            });
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }

    for (key, value) in gguf.metadata() {
        let text = match (value.as_array(), value.as_str()) {
            (Some(array), _) => {
                let shown: Vec<String> = array.iter().take(SHOWN).map(|v| to_json(&v).to_string()).collect();
                let more = if array.len() > SHOWN { ", …" } else { "" };
                format!("[{}{more}] ({})", shown.join(", "), array.len())
            }
            (_, Some(text)) => {
                let line = text.lines().next().unwrap_or_default();
                let short: String = line.chars().take(80).collect();
                if short == text { short } else { format!("{short}… ({} bytes)", text.len()) }
            }
            _ => to_json(value).to_string(),
        };
        writeln!(out, "{key:<48} {text}")?;
    }
    let types: Vec<String> = types.iter().map(|(name, n)| format!("{n} {name}")).collect();
    writeln!(
        out,
        "\n{:.1} M parameters, {} of tensors: {}",
        parameters as f64 / 1e6,
        mib(tensor_bytes),
        types.join(", ")
    )?;
    match (&model, &layout) {
        (Ok(model), Some(layout)) => {
            let model = model.graph();
            writeln!(
                out,
                "{} layers, {} ops, {} tokens in the vocabulary",
                model.n_layer,
                model.graph.nodes.len(),
                model.graph.n_vocab()
            )?;
            writeln!(out, "recurrent state: {} a sequence or checkpoint", mib(layout.slot_bytes() as u64))?;
            for group in &layout.groups {
                let window = group.window.map_or("all tokens".into(), |w| format!("the last {w} tokens"));
                let per_token = group.page_bytes / PAGE_TOKENS as usize;
                writeln!(
                    out,
                    "keys and values of {window}: {} layers, {per_token} bytes a token (f32)",
                    group.members.len()
                )?;
            }
        }
        (Err(error), _) => writeln!(out, "this model cannot be run: {error}")?,
        _ => {}
    }
    if args.tensors {
        writeln!(out)?;
        for t in gguf.tensors() {
            writeln!(out, "{:<40} {:<8} {:>12} {:?}", t.name, t.ty.name(), gguf.tensor_bytes(t).len(), t.shape)?;
        }
    }
    Ok(())
}
