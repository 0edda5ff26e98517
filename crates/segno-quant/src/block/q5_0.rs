//! Q5_0: `d * (q - 16)`, q of 5 bits.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode, scale};
use crate::{F16Le, TensorType, fit};

/// A block of Q5_0: 32 elements in 22 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: F16Le,
    /// Bit `j` of this little-endian number is the fifth bit of element `j`.
    pub qh: [u8; 4],
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22 && align_of::<BlockQ5_0>() == 1);

impl Block<32> for BlockQ5_0 {
    const TYPE: TensorType = TensorType::Q5_0;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.get();
        let high = u32::from_le_bytes(self.qh);
        for (i, &byte) in self.qs.iter().enumerate() {
            let bit = |j: usize| ((high >> j & 1) << 4) as i16;
            out[i] = d * f32::from((i16::from(byte & 15) | bit(i)) - 16);
            out[i + 16] = d * f32::from((i16::from(byte >> 4) | bit(i + 16)) - 16);
        }
    }
}

impl Encode<32> for BlockQ5_0 {
    fn encode(values: &[f32; 32]) -> Self {
        let d = fit::symmetric(values, -16, 15, F16Le::saturating);
        let q: [u8; 32] = values.map(|x| (fit::nearest(x, d.get(), -16, 15) + 16) as u8);
        let (qh, qs) = scale::split_five_bits(&q);
        BlockQ5_0 { d, qh, qs }
    }
}
