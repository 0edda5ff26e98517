//! Q8_1: `d * q`, q of 8 bits. Activations of other engines; files do not hold it.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// A block of Q8_1: 32 elements in 36 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_1 {
    /// Scale.
    pub d: F16Le,
    /// `d` times the sum of `qs`; decoding does not need it.
    pub s: F16Le,
    /// Element `j`.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_1>() == 36 && align_of::<BlockQ8_1>() == 1);

impl Block<32> for BlockQ8_1 {
    const TYPE: TensorType = TensorType::Q8_1;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.get();
        for (value, &q) in out.iter_mut().zip(&self.qs) {
            *value = d * f32::from(q);
        }
    }
}
