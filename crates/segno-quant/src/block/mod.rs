//! One module a format: the block as it lies in the file, and what it means.
//!
//! All blocks are plain bytes with alignment 1; 16- and 32-bit fields are little-endian byte arrays. `N` is
//! the number of elements, `j` an element's index in its block, `d` the block's scale. The formulas are
//! those of the ggml library, which defined the formats (MXFP4: OCP Microscaling Formats 1.0). The order of
//! the roundings is part of them: sums and products are of f32, from left to right, never fused.

use bytemuck::Pod;

use crate::TensorType;

mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod q8_1;
mod q8_k;
mod scale;
mod tq1_0;
mod tq2_0;

pub use iq1_m::BlockIq1M;
pub use iq1_s::BlockIq1S;
pub use iq2_s::BlockIq2S;
pub use iq2_xs::BlockIq2Xs;
pub use iq2_xxs::BlockIq2Xxs;
pub use iq3_s::BlockIq3S;
pub use iq3_xxs::BlockIq3Xxs;
pub use iq4_nl::BlockIq4Nl;
pub use iq4_xs::BlockIq4Xs;
pub use mxfp4::BlockMxfp4;
pub use nvfp4::BlockNvfp4;
pub use q1_0::BlockQ1_0;
pub use q2_0::BlockQ2_0;
pub use q2_k::BlockQ2K;
pub use q3_k::BlockQ3K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;
pub use q8_1::BlockQ8_1;
pub use q8_k::BlockQ8K;
pub use scale::unpack_scales;
pub use tq1_0::BlockTq1_0;
pub use tq2_0::BlockTq2_0;

/// A block of `N` elements.
pub trait Block<const N: usize>: Pod {
    /// The type whose blocks these are.
    const TYPE: TensorType;

    /// The elements, in order.
    fn decode(&self, out: &mut [f32; N]);
}

/// A block that can be made from elements.
pub trait Encode<const N: usize>: Block<N> {
    /// The block nearest to `values`, which must be finite; other values give an unspecified block.
    fn encode(values: &[f32; N]) -> Self;
}
