//! Q5_K: `d * scale * q - dmin * min`, q of 5 bits, scale and min of 6 bits for 32 elements.
//!
//! The low four bits lie as in Q4_K; the fifth of element `32 k + l` is bit `k` of `qh[l]`.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode, scale};
use crate::{F16Le, TensorType};

/// A block of Q5_K: 256 elements in 176 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: F16Le,
    /// Scale of the minima.
    pub dmin: F16Le,
    /// Eight scales and minima, see [`unpack_scales`](crate::block::unpack_scales).
    pub scales: [u8; 12],
    /// Fifth bits.
    pub qh: [u8; 32],
    /// Low four bits, two elements to a byte.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176 && align_of::<BlockQ5K>() == 1);

impl Block<256> for BlockQ5K {
    const TYPE: TensorType = TensorType::Q5_K;

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        let scales = scale::unpack_scales(&self.scales);
        for (k, (values, (scale, min))) in out.as_chunks_mut::<32>().0.iter_mut().zip(scales).enumerate() {
            let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
            let (first, shift) = (32 * (k / 2), 4 * (k % 2));
            let bytes = self.qs[first..first + 32].iter().zip(&self.qh);
            for (value, (&low, &high)) in values.iter_mut().zip(bytes) {
                *value = dl * f32::from(low >> shift & 15 | (high >> k & 1) << 4) - ml;
            }
        }
    }
}

impl Encode<256> for BlockQ5K {
    fn encode(values: &[f32; 256]) -> Self {
        let scale::Fitted { d, dmin, scales, q } = scale::fit(values, 31);
        let qs = std::array::from_fn(|i| {
            let low = i / 32 * 64 + i % 32;
            q[low] & 15 | (q[low + 32] & 15) << 4
        });
        let qh = std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | (q[32 * k + l] >> 4) << k));
        BlockQ5K { d, dmin, scales, qh, qs }
    }
}
