//! Q4_K: `d * scale * q - dmin * min`, q of 4 bits, scale and min of 6 bits for 32 elements.
//!
//! Elements `64 p + l` and `64 p + 32 + l`, l below 32, are the low and high halves of `qs[32 p + l]`.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode, scale};
use crate::{F16Le, TensorType};

/// A block of Q4_K: 256 elements in 144 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: F16Le,
    /// Scale of the minima.
    pub dmin: F16Le,
    /// Eight scales and minima, see [`unpack_scales`](crate::block::unpack_scales).
    pub scales: [u8; 12],
    /// Elements, two to a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144 && align_of::<BlockQ4K>() == 1);

impl Block<256> for BlockQ4K {
    const TYPE: TensorType = TensorType::Q4_K;

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        let scales = scale::unpack_scales(&self.scales);
        for (k, (values, (scale, min))) in out.as_chunks_mut::<32>().0.iter_mut().zip(scales).enumerate() {
            let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
            let (first, shift) = (32 * (k / 2), 4 * (k % 2));
            for (value, &byte) in values.iter_mut().zip(&self.qs[first..first + 32]) {
                *value = dl * f32::from(byte >> shift & 15) - ml;
            }
        }
    }
}

impl Encode<256> for BlockQ4K {
    fn encode(values: &[f32; 256]) -> Self {
        let scale::Fitted { d, dmin, scales, q } = scale::fit(values, 15);
        let qs = std::array::from_fn(|i| {
            let low = i / 32 * 64 + i % 32;
            q[low] | q[low + 32] << 4
        });
        BlockQ4K { d, dmin, scales, qs }
    }
}
