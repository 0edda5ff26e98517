//! What can be wrong with a row.

use crate::TensorType;

/// Why a row cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The row is not whole blocks.
    #[error("{elements} elements are not whole blocks of {}, which have {}", ty.name(), ty.block_len())]
    Blocks {
        /// The type.
        ty: TensorType,
        /// Elements of the row.
        elements: usize,
    },
    /// The bytes are too few or too many.
    #[error("{elements} elements of {} take {expected} bytes, got {found}", ty.name())]
    Bytes {
        /// The type.
        ty: TensorType,
        /// Elements of the row.
        elements: usize,
        /// Bytes that were given.
        found: usize,
        /// Bytes that the blocks take.
        expected: usize,
    },
    /// The row is too long to count its bytes.
    #[error("{elements} elements of {} are more than can be addressed", ty.name())]
    Overflow {
        /// The type.
        ty: TensorType,
        /// Elements of the row.
        elements: usize,
    },
}
