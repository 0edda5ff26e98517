//! Q1_0: `d` where the bit is set, else `-d`.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// A block of Q1_0: 128 elements in 18 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: F16Le,
    /// Bit `j % 8` of byte `j / 8` is element `j`.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ1_0>() == 18 && align_of::<BlockQ1_0>() == 1);

impl Block<128> for BlockQ1_0 {
    const TYPE: TensorType = TensorType::Q1_0;

    fn decode(&self, out: &mut [f32; 128]) {
        let d = self.d.get();
        for (values, &byte) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.qs) {
            for (j, value) in values.iter_mut().enumerate() {
                *value = if byte >> j & 1 == 1 { d } else { -d };
            }
        }
    }
}
