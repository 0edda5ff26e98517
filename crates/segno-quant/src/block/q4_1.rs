//! Q4_1: `d * q + m`, q of 4 bits.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode};
use crate::{F16Le, TensorType, fit};

/// A block of Q4_1: 32 elements in 20 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: F16Le,
    /// Minimum.
    pub m: F16Le,
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20 && align_of::<BlockQ4_1>() == 1);

impl Block<32> for BlockQ4_1 {
    const TYPE: TensorType = TensorType::Q4_1;

    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.get(), self.m.get());
        for (i, &byte) in self.qs.iter().enumerate() {
            out[i] = d * f32::from(byte & 15) + m;
            out[i + 16] = d * f32::from(byte >> 4) + m;
        }
    }
}

impl Encode<32> for BlockQ4_1 {
    fn encode(values: &[f32; 32]) -> Self {
        let (d, m) = fit::affine(values, 15, fit::Minimum::Any, F16Le::saturating);
        let q = |i: usize| fit::nearest(values[i] - m.get(), d.get(), 0, 15) as u8;
        BlockQ4_1 { d, m, qs: std::array::from_fn(|i| q(i) | q(i + 16) << 4) }
    }
}
