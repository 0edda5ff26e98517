//! Segno runs hybrid recurrent/attention language models from GGUF files.
//!
//! ```
//! use segno::{GenerateOptions, LoadOptions, Model};
//!
//! let model = Model::demo()?; // or Model::open("model.gguf")?
//! let session = model.load(&LoadOptions { device: "cpu".into(), ..Default::default() })?;
//! let mut chat = session.chat();
//! chat.user("What is 7 + 8?");
//! let mut reply = chat.reply(&GenerateOptions::greedy())?;
//! for piece in &mut reply {
//!     print!("{}", piece?);
//! }
//! # assert_eq!(reply.text(), "7 + 8 = 15.");
//! # Ok::<(), segno::Error>(())
//! ```

mod device;
mod generate;
mod hub;
mod model;
mod perplexity;
mod text;

pub use device::{DeviceInfo, devices, open_device};
pub use generate::{Chat, GenerateOptions, Prompt, Reply, Session, beside};
pub use hub::{Hub, HubError, HubName, Transfer, hub_cache};
pub use model::{LoadOptions, Model, open_tokenizer};
pub use perplexity::{Perplexity, PerplexityOptions};
pub use segno_ir::Cancel;
pub use segno_runtime::image::Precision;
pub use segno_runtime::store::StoreOptions;
pub use segno_runtime::{
    CheckpointMode, CheckpointOptions, CheckpointStats, ExecutorError, Finish, Place, Report, RequestError, Reuse,
    Sampler, Sampling, SamplingError, Why,
};
pub use segno_text::{EncodeOptions, Message, Tokenizer};
pub use text::Text;

/// What can go wrong between a file and a reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not a GGUF file that can be read.
    #[error(transparent)]
    Gguf(#[from] segno_gguf::GgufError),
    /// The file is not a model that can be run.
    #[error("{path}: {error}")]
    Model {
        /// Which file.
        path: String,
        /// Why.
        error: segno_models::ModelError,
    },
    /// Its vocabulary or text cannot be used.
    #[error("{path}: {error}")]
    Vocabulary {
        /// Which file.
        path: String,
        /// Why.
        error: segno_text::TextError,
    },
    /// Its chat template cannot be used.
    #[error("the chat template failed: {0}")]
    Template(#[from] segno_text::TemplateError),
    /// No device of that name, or it failed.
    #[error(transparent)]
    Device(#[from] segno_ir::DeviceError),
    /// The device's name is unknown.
    #[error("there is no device '{name}'; there are: {}", known.join(", "))]
    NoDevice {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A text too short to measure perplexity on.
    #[error("the text has {tokens} tokens; perplexity needs two chunks of {context}, and at least 4 each")]
    ShortText {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        context: usize,
    },
    /// The model could not be loaded.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// The folder of checkpoints cannot be used.
    #[error("checkpoints: {0}")]
    Checkpoints(#[from] segno_runtime::image::ImageError),
    /// The reply broke off.
    #[error(transparent)]
    Request(#[from] RequestError),
}
