//! Perplexity of a text, computed as llama-perplexity does.

use std::time::Duration;

use segno_ir::{Cancel, Input, KvType, Output, SpanKind};
use segno_runtime::{Executor, ExecutorOptions, Work};

use crate::{Error, Model, open_device};

/// How a perplexity is computed.
#[derive(Clone, Debug)]
pub struct PerplexityOptions {
    /// As [`crate::LoadOptions::device`].
    pub device: String,
    /// As [`crate::LoadOptions::threads`].
    pub threads: Option<usize>,
    /// Tokens of a chunk.
    pub context: u32,
    /// Most chunks; `None`: all that the text has.
    pub chunks: Option<usize>,
    /// Rows of a step.
    pub batch: u32,
    /// Type of stored keys.
    pub k_type: KvType,
    /// Type of stored values.
    pub v_type: KvType,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        PerplexityOptions {
            device: "auto".into(),
            threads: None,
            context: 512,
            chunks: None,
            batch: 512,
            k_type: KvType::F32,
            v_type: KvType::F32,
        }
    }
}

/// Sums over the tokens scored so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Chunks read.
    pub chunks: usize,
    /// Tokens scored.
    pub tokens: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Perplexity {
    fn add(&mut self, nll: f64) {
        self.tokens += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    /// The exponential of the mean negative log-likelihood.
    pub fn value(&self) -> f64 {
        (self.sum / self.tokens as f64).exp()
    }

    /// Standard error of [`Perplexity::value`], as if tokens were independent.
    pub fn error(&self) -> f64 {
        let n = self.tokens as f64;
        let mean = self.sum / n;
        let variance = (self.sum_of_squares / n - mean * mean).max(0.0);
        (variance / (n - 1.0)).sqrt() * self.value()
    }
}

/// Negative log-likelihood of `token` under `logits` [n_vocab].
fn nll(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - max)
}

impl Model {
    /// Perplexity of a text of `tokens`, read in chunks of `options.context` tokens that do not see each other: the
    /// second half of each is scored, given what precedes it in the chunk. If the vocabulary asks for bos, it
    /// stands in place of each chunk's first token. `progress` gets the value after every chunk, and how many there
    /// are.
    pub fn perplexity(
        &self,
        tokens: &[u32],
        options: &PerplexityOptions,
        mut progress: impl FnMut(&Perplexity, usize),
    ) -> Result<Perplexity, Error> {
        let context = options.context as usize;
        if context < 4 || tokens.len() < 2 * context {
            return Err(Error::ShortText { tokens: tokens.len(), context });
        }
        let bos = self.tokenizer().special().bos.filter(|_| self.tokenizer().adds_bos());
        let total = options.chunks.unwrap_or(usize::MAX).min(tokens.len() / context);
        let batch = options.batch.clamp(1, options.context);
        let executor_options = ExecutorOptions {
            n_ctx: options.context,
            max_rows: batch.max(segno_ir::PAGE_TOKENS),
            max_outputs: batch.min(options.context - options.context / 2),
            checkpoint_bytes: Some(0),
            k_type: options.k_type,
            v_type: options.v_type,
            ..ExecutorOptions::default()
        };
        let mut executor = self.executor(open_device(&options.device, options.threads)?, executor_options)?;
        let mut result = Perplexity::default();
        for chunk in tokens.chunks_exact(context).take(total) {
            self.score(&mut executor, chunk, bos, batch as usize, &mut result)?;
            result.chunks += 1;
            progress(&result, total);
        }
        Ok(result)
    }

    fn score(
        &self,
        executor: &mut Executor,
        chunk: &[u32],
        bos: Option<u32>,
        batch: usize,
        result: &mut Perplexity,
    ) -> Result<(), Error> {
        let n_vocab = self.graph().graph.n_vocab();
        // The last token's logits tell of no token in the chunk.
        let scored = chunk.len() / 2..chunk.len() - 1;
        let sequence = executor.create()?;
        for start in (0..chunk.len()).step_by(batch) {
            let end = (start + batch).min(chunk.len());
            let inputs = (start..end).map(|i| Input::Token(bos.filter(|_| i == 0).unwrap_or(chunk[i])));
            let wanted = scored.start.max(start)..scored.end.min(end);
            let work = Work {
                sequence,
                kind: SpanKind::Prefill,
                inputs: inputs.collect(),
                outputs: wanted.clone().map(|i| (i - start) as u32).collect(),
                snapshots: Vec::new(),
            };
            let issued = executor.issue(vec![work], &Cancel::new())?;
            if !wanted.is_empty() {
                let n = issued.rows.n;
                let logits = executor.read(&issued.rows, Output::Logits, 0, n).wait(Duration::from_secs(600))?;
                for (row, i) in logits.chunks_exact(n_vocab).zip(wanted) {
                    result.add(nll(row, chunk[i + 1]));
                }
            }
            executor.confirm(issued);
        }
        executor.remove(sequence);
        Ok(())
    }
}
