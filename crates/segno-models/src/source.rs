//! The tensors of a GGUF file as the graph asks for them.

use segno_gguf::Gguf;
use segno_ir::{Tensor, WeightSource};

/// Weights straight from the mapped file.
pub struct GgufSource {
    gguf: Gguf,
}

impl GgufSource {
    /// The tensors of `gguf`.
    pub fn new(gguf: Gguf) -> Self {
        GgufSource { gguf }
    }
}

impl WeightSource for GgufSource {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let info = self.gguf.tensor(name)?;
        Some(Tensor { ty: info.ty, shape: &info.shape, bytes: self.gguf.tensor_bytes(info) })
    }

    fn names(&self) -> Vec<String> {
        self.gguf.tensors().map(|info| info.name.to_string()).collect()
    }
}
