//! Q2_K: `d * scale * q - dmin * min`, q of 2 bits, scale and min of 4 bits for 16 elements.
//!
//! Element `128 h + 32 g + l` is the two bits at `2 g` of `qs[32 h + l]`; its scale byte is number
//! `8 h + 2 g + l / 16`.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// A block of Q2_K: 256 elements in 84 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2K {
    /// Scales in the low, minima in the high halves.
    pub scales: [u8; 16],
    /// Elements, four to a byte.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: F16Le,
    /// Scale of the minima.
    pub dmin: F16Le,
}

const _: () = assert!(size_of::<BlockQ2K>() == 84 && align_of::<BlockQ2K>() == 1);

impl Block<256> for BlockQ2K {
    const TYPE: TensorType = TensorType::Q2_K;

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        for (k, (values, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(&self.scales).enumerate() {
            let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            let (first, shift) = (32 * (k / 8) + 16 * (k % 2), k % 8 / 2 * 2);
            for (value, &byte) in values.iter_mut().zip(&self.qs[first..first + 16]) {
                *value = dl * f32::from(byte >> shift & 3) - ml;
            }
        }
    }
}
