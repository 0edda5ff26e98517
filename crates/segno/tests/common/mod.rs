//! The fixtures of all families, and how logits are compared.

// Each test file takes what it needs.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use safetensors::SafeTensors;
use segno::Model;
use segno_ir::{Cancel, Device, Input, KvType, Output, SpanKind};
use segno_runtime::{Executor, ExecutorOptions, SequenceId, Work};

/// A family's files.
pub struct Fixture {
    /// Its folder.
    pub name: &'static str,
    /// The file in f32 or f16.
    pub plain: &'static str,
    /// What `model-*.gguf` there is besides.
    pub quantised: &'static [&'static str],
}

const fn of(name: &'static str, plain: &'static str, quantised: &'static [&'static str]) -> Fixture {
    Fixture { name, plain, quantised }
}

/// All of them.
pub const FIXTURES: &[Fixture] = &[
    of("qwen35", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    of("qwen35moe", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    of("qwen3next", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    of("lfm2", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    of("lfm2moe", "model-f32.gguf", &[]),
    of("gemma3", "model-f16.gguf", &[]),
    of("llama", "model-f32.gguf", &[]),
    of("qwen2", "model-f32.gguf", &[]),
    of("qwen3", "model-f32.gguf", &[]),
    of("qwen3moe", "model-f32.gguf", &[]),
];

/// The families that have a `long.safetensors`.
pub fn long_fixtures() -> impl Iterator<Item = &'static Fixture> {
    FIXTURES.iter().filter(|fixture| fixture.path("long.safetensors").exists())
}

/// 1,100 tokens, and the logits that transformers gives at some of their positions: around every multiple of 64, and
/// the last 64.
pub struct Long {
    pub tokens: Vec<u32>,
    positions: Vec<u32>,
    logits: Vec<f32>,
}

impl Long {
    /// The largest difference to the stored logits and the smallest cosine, of logits at all positions.
    pub fn compare(&self, found: &[f32]) -> (f32, f64) {
        let n_vocab = self.logits.len() / self.positions.len();
        assert_eq!(found.len(), self.tokens.len() * n_vocab);
        let stored = self.positions.iter().flat_map(|&p| &found[p as usize * n_vocab..][..n_vocab]);
        let stored: Vec<f32> = stored.copied().collect();
        (max_abs(&stored, &self.logits), min_cosine(&stored, &self.logits, n_vocab))
    }
}

impl Fixture {
    /// A file of its folder.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(self.name).join(file)
    }

    /// Its plain file, and every quantised one.
    pub fn files(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.plain.to_string()).chain(self.quantised.iter().map(|kind| format!("model-{kind}.gguf")))
    }

    fn words(&self, file: &str, tensor: &str) -> Vec<[u8; 4]> {
        let bytes = std::fs::read(self.path(file)).expect("a fixture");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = tensors.tensor(tensor).expect("a tensor").data().to_vec();
        data.chunks_exact(4).map(|b| b.try_into().expect("4 bytes")).collect()
    }

    /// A longer sequence, for [`long_fixtures`].
    pub fn long(&self) -> Long {
        let words = |tensor| self.words("long.safetensors", tensor).into_iter();
        Long {
            tokens: words("tokens").map(u32::from_le_bytes).collect(),
            positions: words("positions").map(u32::from_le_bytes).collect(),
            logits: words("logits").map(f32::from_le_bytes).collect(),
        }
    }

    /// The sequence that the logits belong to.
    pub fn tokens(&self) -> Vec<u32> {
        self.words("expected.safetensors", "tokens").into_iter().map(u32::from_le_bytes).collect()
    }

    /// What a file's logits must be: of the plain one by transformers, of others with decoded weights.
    pub fn expected(&self, file: &str) -> Vec<f32> {
        let words = match file.strip_prefix("model-").and_then(|f| f.strip_suffix(".gguf")) {
            Some(kind) if file != self.plain => {
                self.words("expected-quantised.safetensors", &format!("logits_{kind}_dequantised"))
            }
            _ => self.words("expected.safetensors", "logits"),
        };
        words.into_iter().map(f32::from_le_bytes).collect()
    }
}

/// An executor for sequences of up to 320 tokens.
pub fn executor(model: &Model, device: Arc<dyn Device>, n_sequences: u32) -> Executor {
    let options = ExecutorOptions { n_ctx: 320, n_sequences, max_rows: 256, max_outputs: 256, ..Default::default() };
    model.executor(device, options).expect("loads")
}

/// As [`executor`] for one sequence of that many tokens.
pub fn with_context(model: &Model, device: Arc<dyn Device>, n_ctx: u32) -> Executor {
    let options = ExecutorOptions { n_ctx, max_rows: 256, max_outputs: 256, ..Default::default() };
    model.executor(device, options).expect("loads")
}

/// As [`executor`] for one sequence, keys and values stored as these types.
pub fn with_pages(model: &Model, device: Arc<dyn Device>, k_type: KvType, v_type: KvType) -> Executor {
    let options = ExecutorOptions { n_ctx: 320, max_rows: 256, max_outputs: 256, k_type, v_type, ..Default::default() };
    model.executor(device, options).expect("loads")
}

/// Tokens with logits at each.
pub fn work(sequence: SequenceId, kind: SpanKind, tokens: &[u32]) -> Work {
    let inputs = tokens.iter().map(|&t| Input::Token(t)).collect();
    Work { sequence, kind, inputs, outputs: (0..tokens.len() as u32).collect(), snapshots: Vec::new() }
}

/// The logits of a step.
pub fn issue(executor: &mut Executor, works: Vec<Work>) -> Vec<f32> {
    let issued = executor.issue(works, &Cancel::new()).expect("issues");
    let n = issued.rows.n;
    let logits = executor.read(&issued.rows, Output::Logits, 0, n).wait(Duration::from_secs(300)).expect("logits");
    executor.confirm(issued);
    logits
}

/// The logits of a new sequence, computed in pieces.
pub fn run(executor: &mut Executor, tokens: &[u32], piece: usize, kind: SpanKind) -> Vec<f32> {
    let sequence = executor.create().expect("a sequence");
    let logits = tokens.chunks(piece).flat_map(|part| issue(executor, vec![work(sequence, kind, part)])).collect();
    executor.remove(sequence);
    logits
}

/// The largest difference; NaN if there is one.
pub fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// The smallest cosine of a position's logits; NaN if there is one.
pub fn min_cosine(a: &[f32], b: &[f32], n_vocab: usize) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    a.chunks(n_vocab).zip(b.chunks(n_vocab)).map(cosine).fold(1.0, |m, c| if c < m || c.is_nan() { c } else { m })
}

/// The root mean square of the differences.
pub fn rms(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}
