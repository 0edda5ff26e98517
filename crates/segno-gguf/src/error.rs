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
    /// A key that was asked for is not there.
    #[error("{file}: metadata key {key} is missing, expected {expected}")]
    Missing {
        /// Which file.
        file: String,
        /// The key.
        key: String,
        /// What was looked for.
        expected: String,
    },
    /// A key that was asked for has a value of another type or out of range.
    #[error("{file}: metadata key {key} is {found}, expected {expected}")]
    Unfit {
        /// Which file.
        file: String,
        /// The key.
        key: String,
        /// What the file has.
        found: String,
        /// What would do.
        expected: String,
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

/// For keys that a file need not have: `gguf.u32("key").optional()?` is `None` where the key is missing,
/// and still an error where it has the wrong type.
pub trait Optional<T> {
    /// `Ok(None)` in the place of [`GgufError::Missing`].
    ///
    /// # Errors
    /// Every other error.
    fn optional(self) -> Result<Option<T>, GgufError>;
}

impl<T> Optional<T> for Result<T, GgufError> {
    fn optional(self) -> Result<Option<T>, GgufError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(GgufError::Missing { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }
}
