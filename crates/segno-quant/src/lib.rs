//! Block formats of GGUF tensors: layouts, decoding, encoding.
//!
//! A tensor's row is cut into blocks of neighbouring elements that share scales. [`TensorType`] names the
//! formats, [`block`] has a module for each with its layout and formula, [`grid`] the codebooks that some
//! refer to. [`decode_row`] and [`encode_row`] work on a type that is known at run time:
//!
//! ```
//! use segno_quant::{TensorType, decode_row, encode_row};
//!
//! let values: Vec<f32> = (0..256).map(|i| (i as f32 * 0.1).sin()).collect();
//! let mut bytes = vec![0; TensorType::Q4_K.row_bytes(values.len())?];
//! encode_row(TensorType::Q4_K, &values, &mut bytes)?;
//! let mut back = vec![0.0; values.len()];
//! decode_row(TensorType::Q4_K, &bytes, &mut back)?;
//! assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 0.1));
//! # Ok::<(), segno_quant::QuantError>(())
//! ```
//!
//! # Invariants
//! - Leaf crate: no I/O, no threads, no `unsafe`.
//! - Decoding is exact: the same bits as the formats' reference implementation, for every sequence of
//!   bytes. It cannot fail but for wrong lengths.
//! - Encoding is deterministic.
//! - Blocks have alignment 1 and are little-endian on every machine, so that any slice of a file can be
//!   viewed as blocks.

pub mod block;
mod error;
mod f16le;
mod fit;
pub mod grid;
mod row;
mod tensor_type;

pub use error::QuantError;
pub use f16le::F16Le;
pub use row::{decode_row, encode_row, store_row};
pub use tensor_type::TensorType;
