//! One file a family, one line each in the table.

mod gemma3;
mod lfm2;
mod llama;
mod qwen35;

use segno_ir::{Graph, WeightSource};

use crate::ModelError;
use crate::keys::Keys;

/// A family of architectures.
pub struct Family {
    /// Values of `general.architecture`.
    pub names: &'static [&'static str],
    /// What they are, for people.
    pub title: &'static str,
    pub(crate) build: fn(&mut Keys<'_>, &dyn WeightSource) -> Result<Graph, ModelError>,
}

/// Every family.
pub const FAMILIES: &[Family] = &[
    Family { names: &["qwen35"], title: "Qwen3.5 (dense): gated delta net and gated attention", build: qwen35::build },
    Family { names: &["lfm2"], title: "LFM2: short convolution and attention", build: lfm2::build },
    Family { names: &["gemma3"], title: "Gemma 3: sliding-window attention", build: gemma3::build },
    Family { names: &["llama", "qwen2", "qwen3"], title: "Llama, Mistral, Qwen2, Qwen3", build: llama::build },
];
