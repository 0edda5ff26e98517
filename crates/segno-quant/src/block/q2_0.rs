//! Q2_0: `d * (q - 1)`, q of 2 bits.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// A block of Q2_0: 64 elements in 18 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: F16Le,
    /// The two bits at `2 (j % 4)` of byte `j / 4` are element `j`.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ2_0>() == 18 && align_of::<BlockQ2_0>() == 1);

impl Block<64> for BlockQ2_0 {
    const TYPE: TensorType = TensorType::Q2_0;

    fn decode(&self, out: &mut [f32; 64]) {
        let d = self.d.get();
        for (values, &byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(&self.qs) {
            for (j, value) in values.iter_mut().enumerate() {
                *value = f32::from((byte >> (2 * j) & 3) as i8 - 1) * d;
            }
        }
    }
}
