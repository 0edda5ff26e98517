//! Model families: from a GGUF file's metadata and tensors to a graph.
//!
//! ```no_run
//! let gguf = segno_gguf::Gguf::open("model.gguf")?;
//! let model = segno_models::build(&gguf)?;
//! println!("{}", model.graph);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! - A family reads keys and tensor names and writes a graph; it allocates no tensor and knows no backend.
//! - A file that lacks something, or has something that nobody reads, is refused with the name of it.

mod blocks;
mod family;
mod keys;
mod source;

use std::sync::Arc;

use segno_gguf::Gguf;
use segno_ir::{Graph, GraphError, WeightSource};

pub use family::{FAMILIES, Family};
pub use keys::KeyError;
pub use source::GgufSource;

/// A model as far as its file describes it.
pub struct Model {
    /// What is computed.
    pub graph: Graph,
    /// Where the weights come from.
    pub source: Arc<dyn WeightSource>,
    /// `general.architecture`.
    pub architecture: String,
    /// Tokens of context that the model was trained on.
    pub n_ctx_train: u32,
    /// Layers that are executed.
    pub n_layer: u32,
}

/// Why a file is not a model that can be run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No family of that name.
    #[error("architecture '{found}' is not supported; supported: {}", known.join(", "))]
    Architecture {
        /// What the file says.
        found: String,
        /// The names that are known.
        known: Vec<&'static str>,
    },
    /// A metadata key is missing or unfit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A tensor is missing, unfit or not read.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Builds the graph of the model in a file.
pub fn build(gguf: &Gguf) -> Result<Model, ModelError> {
    let mut keys = keys::Keys::new(gguf)?;
    let family = FAMILIES.iter().find(|f| f.names.contains(&keys.architecture())).ok_or_else(|| {
        let known = FAMILIES.iter().flat_map(|f| f.names.iter().copied()).collect();
        ModelError::Architecture { found: keys.architecture().into(), known }
    })?;
    let source = Arc::new(GgufSource::new(gguf.clone()));
    let graph = (family.build)(&mut keys, &*source)?;
    Ok(Model {
        graph,
        source,
        architecture: keys.architecture().into(),
        n_ctx_train: keys.required_u32("context_length")?,
        n_layer: keys.n_layer()?,
    })
}
