//! Reader and writer of GGUF model files, versions 2 and 3.
//!
//! ```no_run
//! use segno_gguf::{Gguf, Optional};
//!
//! let gguf = Gguf::open("model.gguf")?;
//! let architecture = gguf.str("general.architecture")?;
//! let heads = gguf.u32(&format!("{architecture}.attention.head_count")).optional()?;
//! println!("{architecture}: {heads:?} heads");
//! for tensor in gguf.tensors() {
//!     println!("{} {:?} {}", tensor.name, tensor.shape, gguf.tensor_bytes(tensor).len());
//! }
//! # Ok::<(), segno_gguf::GgufError>(())
//! ```
//!
//! A file is mapped, not read: tensors and long arrays are slices of the mapping. A model in several
//! parts is opened through its first. [`GgufWriter`] writes version 3.
//!
//! # Invariants
//! - Every count, length, offset and size is checked against the file before it is used: a file that
//!   lies gets an error with the byte and the field, never a panic or an over-read.
//! - What is allocated for a file is bounded by its size and the limits on the number of keys and tensors
//!   (2^16 and 2^17), whatever it claims.
//! - A mapped file must not be truncated while it is open; no reader of mappings can defend against that.

mod array;
mod error;
mod header;
mod keys;
mod names;
mod parse;
mod read;
mod value;
mod write;

pub use array::Array;
pub use error::{GgufError, Optional};
pub use header::TensorInfo;
pub use read::Gguf;
pub use value::{Value, ValueType};
pub use write::{GgufSink, GgufWriter};
