//! Q4_0: `d * (q - 8)`, q of 4 bits.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode};
use crate::{F16Le, TensorType, fit};

/// A block of Q4_0: 32 elements in 18 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: F16Le,
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18 && align_of::<BlockQ4_0>() == 1);

impl Block<32> for BlockQ4_0 {
    const TYPE: TensorType = TensorType::Q4_0;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.get();
        for (i, &byte) in self.qs.iter().enumerate() {
            out[i] = d * f32::from(i16::from(byte & 15) - 8);
            out[i + 16] = d * f32::from(i16::from(byte >> 4) - 8);
        }
    }
}

impl Encode<32> for BlockQ4_0 {
    fn encode(values: &[f32; 32]) -> Self {
        Self::with_scale(values, fit::symmetric(values, -8, 7, F16Le::saturating))
    }
}

impl BlockQ4_0 {
    fn with_scale(values: &[f32; 32], d: F16Le) -> Self {
        let q = |i: usize| (fit::nearest(values[i], d.get(), -8, 7) + 8) as u8;
        BlockQ4_0 { d, qs: std::array::from_fn(|i| q(i) | q(i + 16) << 4) }
    }

    /// Without a search: the largest value (the first of equal ones) becomes -8.
    pub(crate) fn encode_plain(values: &[f32; 32]) -> Self {
        Self::with_scale(values, F16Le::saturating(fit::largest(values) / -8.0))
    }
}
