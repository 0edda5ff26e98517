//! Block formats of GGUF tensors: layouts and exact decoding.
//!
//! A tensor's row is a whole number of blocks; a block holds a few dozen elements and their scales.
//! Each format is one module in [`block`]: its layout as a struct whose size is asserted, and what
//! its bytes mean.
//!
//! ```
//! use segno_quant::{TensorType, decode_row};
//!
//! let mut block = vec![0u8; TensorType::Q8_0.block_bytes()];
//! block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
//! block[2] = 3;
//! let mut row = [0.0; 32];
//! decode_row(TensorType::Q8_0, &block, &mut row)?;
//! assert_eq!(row[0], 1.5);
//! # Ok::<(), segno_quant::QuantError>(())
//! ```
//!
//! # Invariants
//! - No I/O. No bytes make it panic: any bit pattern is some number.

pub mod block;
mod error;
mod tensor_type;

pub use error::QuantError;
pub use tensor_type::TensorType;

use block::Block;

/// Decodes a row, or several, of a type: `bytes` must be the whole blocks of `out.len()` elements.
pub fn decode_row(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    let expected = ty.row_bytes(out.len())?;
    if bytes.len() != expected {
        return Err(QuantError::Bytes { ty, elements: out.len(), found: bytes.len(), expected });
    }
    match ty {
        TensorType::F32 => blocks::<block::F32>(bytes, out),
        TensorType::F16 => blocks::<block::F16>(bytes, out),
        TensorType::BF16 => blocks::<block::BF16>(bytes, out),
        TensorType::Q4_0 => blocks::<block::Q4_0>(bytes, out),
        TensorType::Q4_1 => blocks::<block::Q4_1>(bytes, out),
        TensorType::Q5_0 => blocks::<block::Q5_0>(bytes, out),
        TensorType::Q5_1 => blocks::<block::Q5_1>(bytes, out),
        TensorType::Q8_0 => blocks::<block::Q8_0>(bytes, out),
        TensorType::Q4_K => blocks::<block::Q4K>(bytes, out),
        TensorType::Q5_K => blocks::<block::Q5K>(bytes, out),
        TensorType::Q6_K => blocks::<block::Q6K>(bytes, out),
    }
    Ok(())
}

fn blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(size_of::<B>()).zip(out.chunks_exact_mut(B::LEN)) {
        bytemuck::pod_read_unaligned::<B>(bytes).decode(out);
    }
}
