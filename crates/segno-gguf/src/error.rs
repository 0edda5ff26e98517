//! What can be wrong with a file.

use segno_quant::QuantError;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The system refused.
    #[error("{file}: {source}")]
    Io {
        /// Which file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a GGUF file, or of a kind that is not read.
    #[error("{file}: {problem}")]
    Kind {
        /// Which file.
        file: String,
        /// What it is instead.
        problem: String,
    },
    /// Something in it is wrong.
    #[error("{file}: at byte {offset}, {field}: {problem}")]
    Format {
        /// Which file.
        file: String,
        /// Where the field begins.
        offset: u64,
        /// What is read there.
        field: String,
        /// What was found, and what would be right.
        problem: String,
    },
    /// What was to be written does not fit the format.
    #[error("cannot write {field}: {problem}")]
    Write {
        /// Which key or tensor.
        field: String,
        /// What would be right.
        problem: String,
    },
    /// A tensor's rows are not whole blocks of its type.
    #[error("cannot write tensor {name}: {source}")]
    Rows {
        /// Its name.
        name: String,
        /// Why.
        source: QuantError,
    },
}
