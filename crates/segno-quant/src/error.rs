//! What can be wrong with a row.

use crate::TensorType;

/// Why a row could not be decoded or encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The row does not end where a block ends.
    #[error("a row of {elements} elements is not whole blocks of {} ({} elements each)", ty.name(), ty.block_len())]
    PartialBlock {
        /// The type.
        ty: TensorType,
        /// Elements of the row.
        elements: usize,
    },
    /// The row's size is beyond what an address can hold.
    #[error("a row of {elements} elements of {} is too large", ty.name())]
    TooLarge {
        /// The type.
        ty: TensorType,
        /// Elements of the row.
        elements: usize,
    },
    /// Bytes and elements do not belong together.
    #[error("{elements} elements of {} are {expected} bytes, found {found}", ty.name())]
    Length {
        /// The type.
        ty: TensorType,
        /// Elements of the row.
        elements: usize,
        /// Bytes that they take.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// This crate reads the type, but does not write it.
    #[error("{} can be decoded, but not encoded; types that can be encoded: {}", ty.name(), encodable())]
    NotEncodable {
        /// The type.
        ty: TensorType,
    },
    /// A value that no block can hold.
    #[error("element {index} is infinite or not a number, which {} cannot hold", ty.name())]
    NotFinite {
        /// The type.
        ty: TensorType,
        /// Which element of the row.
        index: usize,
    },
}

fn encodable() -> String {
    let names: Vec<_> = TensorType::KNOWN.iter().copied().filter(|ty| ty.can_encode()).map(TensorType::name).collect();
    names.join(", ")
}
