//! IQ4_NL: `d * STEPS[q]`, q of 4 bits; the steps are denser around zero.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ4_NL: 32 elements in 18 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Nl {
    /// Scale.
    pub d: F16Le,
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIq4Nl>() == 18 && align_of::<BlockIq4Nl>() == 1);

impl Block<32> for BlockIq4Nl {
    const TYPE: TensorType = TensorType::IQ4_NL;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.get();
        for (i, &byte) in self.qs.iter().enumerate() {
            out[i] = d * f32::from(grid::IQ4_STEPS[usize::from(byte & 15)]);
            out[i + 16] = d * f32::from(grid::IQ4_STEPS[usize::from(byte >> 4)]);
        }
    }
}
