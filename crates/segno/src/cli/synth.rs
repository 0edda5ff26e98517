//! `segno synth`: a file of a real model's shape with random weights, for measurements.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use segno_gguf::{Array, GgufWriter, Value, ValueType};
use segno_ir::sample::philox;
use segno_quant::{TensorType, encode_row};

use segno::beside;

use super::progress;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Shape {
    #[value(name = "qwen3.5-0.8b")]
    Qwen35Small,
    #[value(name = "qwen3.5-4b")]
    Qwen35Large,
    #[value(name = "lfm2-1.2b")]
    Lfm2,
    #[value(name = "gemma3-1b")]
    Gemma3,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Mixture {
    #[value(name = "q4_k_m")]
    Q4KM,
    #[value(name = "q8_0")]
    Q8,
    F16,
}

const EXAMPLES: &str = "\
Examples:
  segno synth gemma3-1b GEMMA.gguf                       all of it, in Q4_K_M
  segno synth lfm2-1.2b SMALL.gguf --type f16 --layers 3 --vocab 1000";

/// Write a model file of a real shape with random weights: it says nothing, but takes the time and memory of the real one.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SynthArgs {
    /// Which model's shape
    shape: Shape,
    /// Where it is written
    out: PathBuf,
    /// Types of the tensors, as llama.cpp mixes them
    #[arg(long = "type", default_value = "q4_k_m", value_name = "TYPE")]
    mixture: Mixture,
    /// Seed of the weights
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u32,
    /// Layers [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    layers: Option<u32>,
    /// Tokens of the vocabulary [default: the shape's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(300..=1_000_000))]
    vocab: Option<u32>,
}

/// Rows of each kind of matrix that are really drawn; each row of a file has its quarters from four of them, so that hardly
/// two are equal: a draw from equal logits is not what it is from a real model's.
const DRAWN: usize = 64;

/// What a tensor holds.
#[derive(Clone, Copy)]
enum Content {
    /// Numbers around 0 that keep the size of what they are multiplied with.
    Random,
    /// All the same.
    Same(f32),
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    ty: TensorType,
    content: Content,
}

/// The tensors of a file, by llama.cpp's rules for their types.
struct Plan {
    mixture: Mixture,
    n_layer: usize,
    /// Value projections so far, of how many: every few of them are finer.
    values: (usize, usize),
    tensors: Vec<Tensor>,
}

/// Which tensors of a kind get more bits: the first and last eighth, and every third between.
fn more_bits(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

impl Plan {
    fn vector(&mut self, name: String, shape: &[usize], value: f32) {
        self.tensors.push(Tensor { name, shape: shape.to_vec(), ty: TensorType::F32, content: Content::Same(value) });
    }

    fn conv(&mut self, name: String, shape: &[usize]) {
        self.tensors.push(Tensor { name, shape: shape.to_vec(), ty: TensorType::F32, content: Content::Random });
    }

    fn matrix(&mut self, layer: usize, name: String, n_in: usize, n_out: usize) {
        let is_value = name.contains("attn_v.") || name.contains("attn_qkv.");
        let finer = match () {
            () if name == "token_embd.weight" => true,
            () if is_value => {
                self.values.0 += 1;
                more_bits(self.values.0 - 1, self.values.1)
            }
            () if name.contains("ffn_down.") => more_bits(layer, self.n_layer),
            () => false,
        };
        let ty = match (self.mixture, finer) {
            (Mixture::F16, _) => TensorType::F16,
            (Mixture::Q8, _) => TensorType::Q8_0,
            (Mixture::Q4KM, true) if n_in.is_multiple_of(256) => TensorType::Q6_K,
            (Mixture::Q4KM, true) => TensorType::Q8_0,
            (Mixture::Q4KM, false) if n_in.is_multiple_of(256) => TensorType::Q4_K,
            (Mixture::Q4KM, false) => TensorType::Q5_0,
        };
        self.tensors.push(Tensor { name, shape: vec![n_in, n_out], ty, content: Content::Random });
    }
}

fn qwen35(writer: &mut GgufWriter, args: &SynthArgs, n_vocab: usize) -> Plan {
    let small = args.shape == Shape::Qwen35Small;
    let (layers, n_embd, n_head, n_head_kv, n_head_v, n_ff) =
        if small { (24, 1024, 8, 2, 16, 3584) } else { (32, 2560, 16, 4, 32, 9216) };
    let n_layer = args.layers.unwrap_or(layers) as usize;
    let (d_head, n_head_k, d) = (256usize, 16usize, 128usize);
    let set = |writer: &mut GgufWriter, key: &str, value: Value| {
        writer.set(format!("qwen35.{key}"), value);
    };
    for (key, value) in [
        ("block_count", n_layer as u32),
        ("context_length", 262_144),
        ("embedding_length", n_embd as u32),
        ("feed_forward_length", n_ff as u32),
        ("attention.head_count", n_head as u32),
        ("attention.head_count_kv", n_head_kv as u32),
        ("attention.key_length", d_head as u32),
        ("attention.value_length", d_head as u32),
        ("rope.dimension_count", 64),
        ("full_attention_interval", 4),
        ("ssm.conv_kernel", 4),
        ("ssm.state_size", d as u32),
        ("ssm.group_count", n_head_k as u32),
        ("ssm.time_step_rank", n_head_v as u32),
        ("ssm.inner_size", (n_head_v * d) as u32),
    ] {
        set(writer, key, value.into());
    }
    set(writer, "rope.dimension_sections", integers([11, 11, 10, 0]));
    set(writer, "rope.freq_base", 1e7f32.into());
    set(writer, "attention.layer_norm_rms_epsilon", 1e-6f32.into());
    let mut plan = Plan { mixture: args.mixture, n_layer, values: (0, n_layer), tensors: Vec::new() };
    plan.matrix(0, "token_embd.weight".into(), n_embd, n_vocab);
    plan.vector("output_norm.weight".into(), &[n_embd], 1.0);
    let channels = (2 * n_head_k + n_head_v) * d;
    for layer in 0..n_layer {
        let name = |part: &str| format!("blk.{layer}.{part}");
        plan.vector(name("attn_norm.weight"), &[n_embd], 1.0);
        plan.vector(name("post_attention_norm.weight"), &[n_embd], 1.0);
        if (layer + 1) % 4 == 0 {
            plan.matrix(layer, name("attn_q.weight"), n_embd, 2 * d_head * n_head);
            plan.matrix(layer, name("attn_k.weight"), n_embd, d_head * n_head_kv);
            plan.matrix(layer, name("attn_v.weight"), n_embd, d_head * n_head_kv);
            plan.matrix(layer, name("attn_output.weight"), d_head * n_head, n_embd);
            plan.vector(name("attn_q_norm.weight"), &[d_head], 1.0);
            plan.vector(name("attn_k_norm.weight"), &[d_head], 1.0);
        } else {
            plan.matrix(layer, name("attn_qkv.weight"), n_embd, channels);
            plan.matrix(layer, name("attn_gate.weight"), n_embd, n_head_v * d);
            plan.matrix(layer, name("ssm_alpha.weight"), n_embd, n_head_v);
            plan.matrix(layer, name("ssm_beta.weight"), n_embd, n_head_v);
            plan.matrix(layer, name("ssm_out.weight"), n_head_v * d, n_embd);
            plan.conv(name("ssm_conv1d.weight"), &[4, channels]);
            plan.vector(name("ssm_dt.bias"), &[n_head_v], -2.0);
            plan.vector(name("ssm_a"), &[n_head_v], -0.5);
            plan.vector(name("ssm_norm.weight"), &[d], 1.0);
        }
        feed_forward(&mut plan, layer, n_embd, n_ff);
    }
    plan
}

fn lfm2(writer: &mut GgufWriter, args: &SynthArgs, n_vocab: usize) -> Plan {
    const ATTENTION: [usize; 6] = [2, 5, 8, 10, 12, 14];
    let n_layer = args.layers.unwrap_or(16) as usize;
    let (n_embd, n_head, n_head_kv, d_head, n_ff) = (2048usize, 32usize, 8usize, 64usize, 8192usize);
    let is_attention = |layer: usize| ATTENTION.contains(&(layer % 16));
    for (key, value) in [
        ("block_count", n_layer as u32),
        ("context_length", 128_000),
        ("embedding_length", n_embd as u32),
        ("feed_forward_length", n_ff as u32),
        ("attention.head_count", n_head as u32),
        ("vocab_size", n_vocab as u32),
        ("shortconv.l_cache", 3),
    ] {
        writer.set(format!("lfm2.{key}"), value);
    }
    let kv = integers((0..n_layer).map(|l| if is_attention(l) { n_head_kv as i32 } else { 0 }));
    writer.set("lfm2.attention.head_count_kv", kv);
    writer.set("lfm2.rope.freq_base", 1e6f32);
    writer.set("lfm2.attention.layer_norm_rms_epsilon", 1e-5f32);
    let values = (0..n_layer).filter(|&l| is_attention(l)).count();
    let mut plan = Plan { mixture: args.mixture, n_layer, values: (0, values), tensors: Vec::new() };
    plan.matrix(0, "token_embd.weight".into(), n_embd, n_vocab);
    plan.vector("token_embd_norm.weight".into(), &[n_embd], 1.0);
    for layer in 0..n_layer {
        let name = |part: &str| format!("blk.{layer}.{part}");
        plan.vector(name("attn_norm.weight"), &[n_embd], 1.0);
        plan.vector(name("ffn_norm.weight"), &[n_embd], 1.0);
        if is_attention(layer) {
            plan.matrix(layer, name("attn_q.weight"), n_embd, n_embd);
            plan.matrix(layer, name("attn_k.weight"), n_embd, d_head * n_head_kv);
            plan.matrix(layer, name("attn_v.weight"), n_embd, d_head * n_head_kv);
            plan.matrix(layer, name("attn_output.weight"), n_embd, n_embd);
            plan.vector(name("attn_q_norm.weight"), &[d_head], 1.0);
            plan.vector(name("attn_k_norm.weight"), &[d_head], 1.0);
        } else {
            plan.matrix(layer, name("shortconv.in_proj.weight"), n_embd, 3 * n_embd);
            plan.conv(name("shortconv.conv.weight"), &[3, n_embd]);
            plan.matrix(layer, name("shortconv.out_proj.weight"), n_embd, n_embd);
        }
        feed_forward(&mut plan, layer, n_embd, n_ff);
    }
    plan
}

fn gemma3(writer: &mut GgufWriter, args: &SynthArgs, n_vocab: usize) -> Plan {
    let n_layer = args.layers.unwrap_or(26) as usize;
    let (n_embd, n_head, n_head_kv, d_head, n_ff) = (1152usize, 4usize, 1usize, 256usize, 6912usize);
    for (key, value) in [
        ("block_count", n_layer as u32),
        ("context_length", 32_768),
        ("embedding_length", n_embd as u32),
        ("feed_forward_length", n_ff as u32),
        ("attention.head_count", n_head as u32),
        ("attention.head_count_kv", n_head_kv as u32),
        ("attention.key_length", d_head as u32),
        ("attention.value_length", d_head as u32),
        ("attention.sliding_window", 512),
    ] {
        writer.set(format!("gemma3.{key}"), value);
    }
    writer.set("gemma3.rope.freq_base", 1e6f32);
    writer.set("gemma3.rope.freq_base_swa", 1e4f32);
    writer.set("gemma3.attention.layer_norm_rms_epsilon", 1e-6f32);
    let mut plan = Plan { mixture: args.mixture, n_layer, values: (0, n_layer), tensors: Vec::new() };
    plan.matrix(0, "token_embd.weight".into(), n_embd, n_vocab);
    plan.vector("output_norm.weight".into(), &[n_embd], 1.0);
    for layer in 0..n_layer {
        let name = |part: &str| format!("blk.{layer}.{part}");
        for part in ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"] {
            plan.vector(name(&format!("{part}.weight")), &[n_embd], 1.0);
        }
        plan.matrix(layer, name("attn_q.weight"), n_embd, d_head * n_head);
        plan.matrix(layer, name("attn_k.weight"), n_embd, d_head * n_head_kv);
        plan.matrix(layer, name("attn_v.weight"), n_embd, d_head * n_head_kv);
        plan.matrix(layer, name("attn_output.weight"), d_head * n_head, n_embd);
        plan.vector(name("attn_q_norm.weight"), &[d_head], 1.0);
        plan.vector(name("attn_k_norm.weight"), &[d_head], 1.0);
        feed_forward(&mut plan, layer, n_embd, n_ff);
    }
    plan
}

fn feed_forward(plan: &mut Plan, layer: usize, n_embd: usize, n_ff: usize) {
    let name = |part: &str| format!("blk.{layer}.{part}");
    plan.matrix(layer, name("ffn_gate.weight"), n_embd, n_ff);
    plan.matrix(layer, name("ffn_up.weight"), n_embd, n_ff);
    plan.matrix(layer, name("ffn_down.weight"), n_ff, n_embd);
}

/// A byte-level vocabulary: the 256 bytes, two markers, and filler that no text becomes.
fn vocabulary(writer: &mut GgufWriter, pre: &str, n: usize) {
    // GPT-2's table: printable bytes stand for themselves, the others for code points from 256 on.
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 256;
    let mut tokens: Vec<String> = Vec::with_capacity(n);
    for byte in 0..256u32 {
        let code = if printable(byte) { byte } else { shifted };
        shifted += u32::from(!printable(byte));
        tokens.push(char::from_u32(code).unwrap_or('?').to_string());
    }
    tokens.push("<|endoftext|>".into());
    tokens.extend((257..n).map(|i| format!("<|filler{i}|>")));
    // One merge: other readers refuse a vocabulary without any.
    let last = n - 1;
    tokens[last] = "ab".into();
    writer.set("tokenizer.ggml.model", "gpt2");
    writer.set("tokenizer.ggml.pre", pre);
    writer.set("tokenizer.ggml.tokens", Array::of_strings(tokens));
    writer.set("tokenizer.ggml.token_type", integers((0..n).map(|i| if i < 256 || i == last { 1 } else { 3 })));
    writer.set("tokenizer.ggml.merges", Array::of_strings(["a b"]));
    writer.set("tokenizer.ggml.eos_token_id", 256u32);
    writer.set("tokenizer.ggml.add_bos_token", false);
}

/// A SentencePiece vocabulary: four markers, the 256 bytes, and filler that no text becomes.
fn pieces(writer: &mut GgufWriter, n: usize) {
    const MARKERS: [(&str, i32); 4] = [("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2)];
    let markers = MARKERS.iter().map(|(name, _)| name.to_string());
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let filler = (MARKERS.len() + 256..n).map(|i| format!("<unused{i}>"));
    let types = MARKERS.iter().map(|(_, ty)| *ty).chain([6; 256]).chain(std::iter::repeat(3)).take(n);
    writer.set("tokenizer.ggml.model", "llama");
    writer.set("tokenizer.ggml.pre", "default");
    writer.set("tokenizer.ggml.tokens", Array::of_strings(markers.chain(bytes).chain(filler)));
    writer.set("tokenizer.ggml.scores", array(ValueType::F32, (0..n).map(|_| Value::F32(0.0))));
    writer.set("tokenizer.ggml.token_type", integers(types));
    writer.set("tokenizer.ggml.padding_token_id", 0u32);
    writer.set("tokenizer.ggml.eos_token_id", 1u32);
    writer.set("tokenizer.ggml.bos_token_id", 2u32);
    writer.set("tokenizer.ggml.unknown_token_id", 3u32);
    writer.set("tokenizer.ggml.add_bos_token", true);
    writer.set("tokenizer.ggml.add_space_prefix", false);
}

fn array(ty: ValueType, values: impl Iterator<Item = Value>) -> Value {
    Value::Array(Array::new(ty, &values.collect::<Vec<_>>()).expect("all are of one type"))
}

fn integers(values: impl IntoIterator<Item = i32>) -> Value {
    array(ValueType::I32, values.into_iter().map(Value::I32))
}

/// Rows of a type, encoded once.
fn rows(ty: TensorType, n: usize, seed: u32) -> anyhow::Result<Vec<Vec<u8>>> {
    // Uniform of variance 1 / n: products keep the size of their inputs.
    let scale = (3.0 / n as f32).sqrt();
    let mut values = vec![0f32; n];
    (0..DRAWN as u32)
        .map(|row| {
            for (i, four) in values.chunks_mut(4).enumerate() {
                let words = philox([i as u32, row, n as u32, ty.id()], [seed, 17]);
                let uniform = |word: u32| (word as f32 / 2f32.powi(31) - 1.0) * scale;
                four.iter_mut().zip(words).for_each(|(v, word)| *v = uniform(word));
            }
            let mut bytes = vec![0; ty.row_bytes(n)?];
            encode_row(ty, &values, &mut bytes)?;
            Ok(bytes)
        })
        .collect()
}

pub fn run(args: SynthArgs) -> anyhow::Result<()> {
    let (arch, default_vocab) = match args.shape {
        Shape::Qwen35Small | Shape::Qwen35Large => ("qwen35", 248_320),
        Shape::Lfm2 => ("lfm2", 65_536),
        Shape::Gemma3 => ("gemma3", 262_144),
    };
    let n_vocab = args.vocab.unwrap_or(default_vocab) as usize;
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", arch);
    writer.set("general.name", format!("{:?} with random weights", args.shape));
    writer.set("general.quantization_version", 2u32);
    writer.set(
        "general.file_type",
        match args.mixture {
            Mixture::Q4KM => 15u32,
            Mixture::Q8 => 7,
            Mixture::F16 => 1,
        },
    );
    let plan = match arch {
        "qwen35" => qwen35(&mut writer, &args, n_vocab),
        "lfm2" => lfm2(&mut writer, &args, n_vocab),
        _ => gemma3(&mut writer, &args, n_vocab),
    };
    match arch {
        "gemma3" => pieces(&mut writer, n_vocab),
        // Their pre-tokenizers have the names of the architectures.
        _ => vocabulary(&mut writer, arch, n_vocab),
    }
    let mut total = 0;
    for tensor in &plan.tensors {
        let shape: Vec<u64> = tensor.shape.iter().map(|&n| n as u64).collect();
        writer.tensor(tensor.name.as_str(), &shape, tensor.ty)?;
        total += (tensor.ty.row_bytes(tensor.shape[0])? * tensor.shape[1..].iter().product::<usize>()) as u64;
    }
    // A file that is there is replaced only by a whole one.
    let beside = beside(&args.out);
    let cannot = || format!("cannot write {}", args.out.display());
    let file = File::create(&beside).with_context(cannot)?;
    let mut sink = writer.begin(BufWriter::new(file))?;
    let bar = progress::bar("writing {bar:30} {bytes}/{total_bytes}, {eta} left");
    bar.set_length(total);
    let mut drawn: HashMap<(TensorType, usize), Vec<Vec<u8>>> = HashMap::new();
    for (t, tensor) in plan.tensors.iter().enumerate() {
        let (n, n_rows) = (tensor.shape[0], tensor.shape[1..].iter().product::<usize>());
        match tensor.content {
            Content::Same(value) => {
                let bytes: Vec<u8> = std::iter::repeat_n(value.to_le_bytes(), n * n_rows).flatten().collect();
                sink.write(&bytes)?;
            }
            Content::Random => {
                if let std::collections::hash_map::Entry::Vacant(entry) = drawn.entry((tensor.ty, n)) {
                    entry.insert(rows(tensor.ty, n, args.seed)?);
                }
                let rows = &drawn[&(tensor.ty, n)];
                for r in 0..n_rows {
                    let picks = philox([r as u32, t as u32, 0, 0], [args.seed, 18]);
                    for (quarter, pick) in picks.into_iter().enumerate() {
                        let at = |quarter| n / tensor.ty.block_len() * quarter / 4 * tensor.ty.block_bytes();
                        sink.write(&rows[pick as usize % DRAWN][at(quarter)..at(quarter + 1)])?;
                    }
                    bar.inc(rows[0].len() as u64);
                }
            }
        }
    }
    sink.finish()?;
    std::fs::rename(&beside, &args.out).with_context(cannot)?;
    bar.finish_and_clear();
    println!("{}: {:.1} MiB of tensors", args.out.display(), total as f64 / f64::from(1 << 20));
    Ok(())
}
