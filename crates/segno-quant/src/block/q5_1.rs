//! Q5_1: `d * q + m`, q of 5 bits.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode, scale};
use crate::{F16Le, TensorType, fit};

/// A block of Q5_1: 32 elements in 24 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: F16Le,
    /// Minimum.
    pub m: F16Le,
    /// Bit `j` of this little-endian number is the fifth bit of element `j`.
    pub qh: [u8; 4],
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == 24 && align_of::<BlockQ5_1>() == 1);

impl Block<32> for BlockQ5_1 {
    const TYPE: TensorType = TensorType::Q5_1;

    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (self.d.get(), self.m.get());
        let high = u32::from_le_bytes(self.qh);
        for (i, &byte) in self.qs.iter().enumerate() {
            let bit = |j: usize| ((high >> j & 1) << 4) as u8;
            out[i] = d * f32::from(byte & 15 | bit(i)) + m;
            out[i + 16] = d * f32::from(byte >> 4 | bit(i + 16)) + m;
        }
    }
}

impl Encode<32> for BlockQ5_1 {
    fn encode(values: &[f32; 32]) -> Self {
        let (d, m) = fit::affine(values, 31, fit::Minimum::Any, F16Le::saturating);
        let q: [u8; 32] = values.map(|x| fit::nearest(x - m.get(), d.get(), 0, 31) as u8);
        let (qh, qs) = scale::split_five_bits(&q);
        BlockQ5_1 { d, m, qh, qs }
    }
}
