//! TQ2_0: `d * (q - 1)`, q of 2 bits.
//!
//! Element `128 b + 32 n + m` is the two bits at `2 n` of `qs[32 b + m]`.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// A block of TQ2_0: 256 elements in 66 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq2_0 {
    /// Elements, four to a byte.
    pub qs: [u8; 64],
    /// Scale.
    pub d: F16Le,
}

const _: () = assert!(size_of::<BlockTq2_0>() == 66 && align_of::<BlockTq2_0>() == 1);

impl Block<256> for BlockTq2_0 {
    const TYPE: TensorType = TensorType::TQ2_0;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (k, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (first, shift) = (32 * (k / 4), 2 * (k % 4));
            for (value, &byte) in values.iter_mut().zip(&self.qs[first..first + 32]) {
                *value = f32::from((byte >> shift & 3) as i8 - 1) * d;
            }
        }
    }
}
