//! Reader and writer of GGUF model files, versions 2 and 3.
//!
//! ```no_run
//! let gguf = segno_gguf::Gguf::open("model.gguf")?;
//! println!("{:?}", gguf.get("general.architecture").and_then(|v| v.as_str()));
//! for tensor in gguf.tensors() {
//!     println!("{} {:?} {}", tensor.name, tensor.shape, gguf.tensor_bytes(tensor).len());
//! }
//! # Ok::<(), segno_gguf::GgufError>(())
//! ```
//!
//! A file is mapped, not read: tensors and long arrays are slices of the mapping. A model in several
//! parts is opened through its first.
//!
//! # Invariants
//! - Every count, length, offset and size is checked against the file before it is used: a file that
//!   lies gets an error with the byte and the field, never a panic, an over-read or a large allocation.
//! - A mapped file must not be truncated while it is open; no reader of mappings can defend against that.

mod error;
mod parse;
mod read;
mod value;
mod write;

pub use error::GgufError;
pub use read::{Gguf, TensorInfo};
pub use value::{Array, Value, ValueType};
pub use write::{GgufSink, GgufWriter};
