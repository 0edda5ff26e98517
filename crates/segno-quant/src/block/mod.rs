//! One module a format. Fields are in file order; numbers are little-endian.

mod float;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;

pub use float::{BF16, F16, F32};
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::{Q4K, scale_and_min};
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;

/// A block of a format.
pub trait Block: bytemuck::Pod {
    /// Elements of a block.
    const LEN: usize;

    /// The elements. `out` has [`LEN`](Self::LEN).
    fn decode(&self, out: &mut [f32]);
}

/// The value of an IEEE half, given by its bytes.
pub(crate) fn half(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// Element `j` of 32 nibbles in 16 bytes: the low ones first, then the high ones.
pub(crate) fn nibble(qs: &[u8; 16], j: usize) -> u8 {
    if j < 16 { qs[j] & 15 } else { qs[j - 16] >> 4 }
}
