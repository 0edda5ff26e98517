//! Hyper-parameters: metadata keys below the architecture's name.

use segno_gguf::{Gguf, Value};
use segno_ir::op::Rope;
use segno_ir::op::rope::{Pairing, Yarn};
use segno_ir::{Builder, WeightSource};

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not there.
    #[error("metadata key {key} is missing; expected {expected}")]
    Missing {
        /// Its full name.
        key: String,
        /// What was looked for.
        expected: String,
    },
    /// It has a type or value that makes no sense.
    #[error("metadata key {key} is {found}, expected {expected}")]
    Unfit {
        /// Its full name.
        key: String,
        /// What the file has.
        found: String,
        /// What would do.
        expected: String,
    },
}

/// Layers beyond this are a lie: no model has so many, and tables are made per layer.
const MAX_LAYERS: u32 = 4096;

/// Reads the keys of one architecture.
pub(crate) struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: String,
    block_count: u32,
    nextn: u32,
}

fn integer(value: &Value) -> Option<u64> {
    match value.as_bool() {
        Some(flag) => Some(u64::from(flag)),
        None => value.as_u64(),
    }
}

impl<'a> Keys<'a> {
    pub fn new(gguf: &'a Gguf) -> Result<Self, KeyError> {
        let key = "general.architecture";
        let missing = || KeyError::Missing { key: key.into(), expected: "the name of an architecture".into() };
        let architecture = gguf.get(key).and_then(Value::as_str).ok_or_else(missing)?.to_string();
        let mut keys = Keys { gguf, architecture, block_count: 0, nextn: 0 };
        // A file without blocks (a vocabulary, say) fails on its own keys, with their names.
        keys.block_count = keys.optional_u32("block_count")?.unwrap_or(0);
        keys.nextn = keys.optional_u32("nextn_predict_layers")?.unwrap_or(0);
        if keys.block_count > MAX_LAYERS {
            return Err(keys.unfit("block_count", keys.block_count.to_string(), format!("at most {MAX_LAYERS}")));
        }
        Ok(keys)
    }

    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub fn unfit(&self, key: &str, found: String, expected: impl Into<String>) -> KeyError {
        KeyError::Unfit { key: self.full(key), found, expected: expected.into() }
    }

    fn missing(&self, key: &str, expected: &str) -> KeyError {
        KeyError::Missing { key: self.full(key), expected: expected.into() }
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.gguf.get(&self.full(key))
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, KeyError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.unfit(key, format!("{value:?}"), expected)),
        }
    }

    pub fn optional_u32(&self, key: &str) -> Result<Option<u32>, KeyError> {
        self.typed(key, "an unsigned 32-bit integer", |v| integer(v).and_then(|n| u32::try_from(n).ok()))
    }

    pub fn required_u32(&self, key: &str) -> Result<u32, KeyError> {
        self.optional_u32(key)?.ok_or_else(|| self.missing(key, "an unsigned integer"))
    }

    /// A size: at least 1.
    pub fn required_usize(&self, key: &str) -> Result<usize, KeyError> {
        match self.required_u32(key)? {
            0 => Err(self.unfit(key, "0".into(), "at least 1")),
            n => Ok(n as usize),
        }
    }

    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>, KeyError> {
        let finite = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        self.typed(key, "a finite number", finite)
    }

    pub fn required_f32(&self, key: &str) -> Result<f32, KeyError> {
        self.optional_f32(key)?.ok_or_else(|| self.missing(key, "a number"))
    }

    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, KeyError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn optional_str(&self, key: &str) -> Result<Option<&'a str>, KeyError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.unfit(key, format!("{value:?}"), "a string")),
        }
    }

    pub fn is_array(&self, key: &str) -> bool {
        self.value(key).is_some_and(|v| v.as_array().is_some())
    }

    /// One number a block, MTP blocks included: a scalar stands for all of them.
    pub fn optional_per_layer_u32(&self, key: &str) -> Result<Option<Vec<u32>>, KeyError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let n = self.block_count as usize;
        let expected = format!("an unsigned integer, or {n} of them");
        let Some(array) = value.as_array() else {
            return self.optional_u32(key).map(|v| v.map(|v| vec![v; n]));
        };
        let numbers: Option<Vec<u32>> = array.iter().map(|v| integer(&v).and_then(|n| u32::try_from(n).ok())).collect();
        match numbers {
            Some(numbers) if numbers.len() == n => Ok(Some(numbers)),
            _ => Err(self.unfit(key, format!("{value:?}"), expected)),
        }
    }

    pub fn per_layer_u32(&self, key: &str) -> Result<Vec<u32>, KeyError> {
        self.optional_per_layer_u32(key)?.ok_or_else(|| self.missing(key, "an unsigned integer, or one per block"))
    }

    /// Layers that are executed: blocks less those that predict further tokens.
    pub fn n_layer(&self) -> Result<u32, KeyError> {
        let blocks = self.required_usize("block_count")? as u32;
        match blocks.checked_sub(self.nextn) {
            Some(n) if n > 0 => Ok(n),
            _ => Err(self.unfit("nextn_predict_layers", self.nextn.to_string(), format!("less than {blocks} blocks"))),
        }
    }

    /// Length of queries and keys: its own key, or the width over the heads of the first layer that has any.
    pub fn head_dim(&self) -> Result<usize, KeyError> {
        if let Some(n) = self.optional_u32("attention.key_length")?.filter(|&n| n > 0) {
            return Ok(n as usize);
        }
        let heads = self.per_layer_u32("attention.head_count")?.into_iter().find(|&n| n > 0);
        let heads = heads.ok_or_else(|| self.unfit("attention.head_count", "0".into(), "at least 1"))?;
        Ok(self.required_usize("embedding_length")? / heads as usize)
    }

    /// The window of each layer, `None` where it sees all tokens. Without a list every `n`-th layer
    /// sees all; `width` stands in for a missing key.
    pub fn windows(&self, width: Option<u32>, n: u32) -> Result<Vec<Option<u32>>, KeyError> {
        let layers = self.n_layer()?;
        let width = self.optional_u32("attention.sliding_window")?.or(width).filter(|&w| w > 0);
        let key = "attention.sliding_window_pattern";
        let slides: Vec<bool> = if self.is_array(key) {
            self.per_layer_u32(key)?.into_iter().map(|flag| flag != 0).collect()
        } else {
            let n = self.optional_u32(key)?.unwrap_or(n);
            (0..layers).map(|layer| n == 0 || layer % n < n - 1).collect()
        };
        Ok(slides.into_iter().take(layers as usize).map(|slides| width.filter(|_| slides)).collect())
    }

    /// Size of the vocabulary: rows of the embedding.
    pub fn n_vocab(&self) -> Result<usize, KeyError> {
        let rows = self.gguf.tensor("token_embd.weight").and_then(|t| t.shape.get(1).copied());
        let n = rows.map(|n| n as usize).or(self
            .gguf
            .get("tokenizer.ggml.tokens")
            .and_then(|v| v.as_array())
            .map(|a| a.len()));
        n.filter(|&n| n > 0)
            .ok_or_else(|| self.missing("vocab_size", "tensor token_embd.weight with one row per token"))
    }

    /// The rotation that the generic keys describe.
    pub fn rope(&self, head_dim: usize, pairing: Pairing) -> Result<Rope, KeyError> {
        let n_rot = self.optional_u32("rope.dimension_count")?.map_or(head_dim, |n| n as usize);
        let kind = self.optional_str("rope.scaling.type")?.unwrap_or("linear");
        let factor = match self.optional_f32("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.optional_f32("rope.scale_linear")?,
        };
        let factor = factor.filter(|&f| f != 0.0 && kind != "none").unwrap_or(1.0);
        let attn_factor = self.optional_f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let (yarn, magnitude) = match kind {
            "yarn" => {
                let original_context = match self.optional_u32("rope.scaling.original_context_length")? {
                    Some(n) => n,
                    None => self.required_u32("context_length")?,
                };
                let yarn = Yarn { original_context, beta_fast: 32.0, beta_slow: 1.0, truncate: true };
                (Some(yarn), attn_factor * (1.0 + 0.1 * factor.ln()))
            }
            "none" | "linear" | "longrope" => (None, attn_factor),
            other => {
                let expected = "none, linear, yarn or longrope";
                return Err(self.unfit("rope.scaling.type", other.into(), expected));
            }
        };
        Ok(Rope {
            head_dim,
            n_rot,
            pairing,
            base: self.optional_f32("rope.freq_base")?.unwrap_or(10_000.0),
            freq_scale: 1.0 / factor,
            yarn,
            magnitude,
            factors: None,
        })
    }

    /// Names the tensors of the blocks that predict further tokens as known and not read.
    pub fn ignore_mtp(&self, b: &mut Builder<'_>, source: &dyn WeightSource) -> Result<(), KeyError> {
        let n_layer = self.n_layer()?;
        for name in source.names() {
            let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
            if block.is_some_and(|block| (n_layer..self.block_count).contains(&block)) {
                b.ignore(name);
            }
        }
        Ok(())
    }
}
