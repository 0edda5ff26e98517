//! Q8_K: `d * q`, q of 8 bits. Activations of other engines; files do not hold it.

use bytemuck::{Pod, Zeroable};

use crate::TensorType;
use crate::block::Block;

/// A block of Q8_K: 256 elements in 292 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8K {
    /// Scale, an f32.
    pub d: [u8; 4],
    /// Element `j`.
    pub qs: [i8; 256],
    /// Sums of 16 elements each, 16-bit; decoding does not need them.
    pub bsums: [[u8; 2]; 16],
}

const _: () = assert!(size_of::<BlockQ8K>() == 292 && align_of::<BlockQ8K>() == 1);

impl Block<256> for BlockQ8K {
    const TYPE: TensorType = TensorType::Q8_K;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = f32::from_le_bytes(self.d);
        for (value, &q) in out.iter_mut().zip(&self.qs) {
            *value = d * f32::from(q);
        }
    }
}
