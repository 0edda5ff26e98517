//! One file a family, one line each in the table.

mod gemma3;
mod lfm2;
mod lfm2moe;
mod llama;
mod qwen35;
mod qwen35moe;
mod qwen3moe;
mod qwen3next;

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
    Family {
        names: &["qwen35moe"],
        title: "Qwen3.5 (mixture of experts): gated delta net and gated attention",
        build: qwen35moe::build,
    },
    Family { names: &["qwen3next"], title: "Qwen3-Next: gated delta net, experts", build: qwen3next::build },
    Family { names: &["lfm2"], title: "LFM2: short convolution and attention", build: lfm2::build },
    Family { names: &["lfm2moe"], title: "LFM2 with a mixture of experts", build: lfm2moe::build },
    Family { names: &["gemma3"], title: "Gemma 3: sliding-window attention", build: gemma3::build },
    Family { names: &["llama", "qwen2", "qwen3"], title: "Llama, Mistral, Qwen2, Qwen3", build: llama::build },
    Family { names: &["qwen3moe"], title: "Qwen3 with a mixture of experts", build: qwen3moe::build },
];
