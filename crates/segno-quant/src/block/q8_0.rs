//! Q8_0: `d * q`, q of 8 bits.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode};
use crate::{F16Le, TensorType, fit};

/// A block of Q8_0: 32 elements in 34 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: F16Le,
    /// Element `j`.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34 && align_of::<BlockQ8_0>() == 1);

impl Block<32> for BlockQ8_0 {
    const TYPE: TensorType = TensorType::Q8_0;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = self.d.get();
        for (value, &q) in out.iter_mut().zip(&self.qs) {
            *value = d * f32::from(q);
        }
    }
}

impl Encode<32> for BlockQ8_0 {
    fn encode(values: &[f32; 32]) -> Self {
        // With 8 bits a search gains nothing that can be measured. The rounded scale is what is divided by:
        // it is what decoding multiplies with.
        let d = F16Le::saturating(fit::largest(values).abs() / 127.0);
        BlockQ8_0 { d, qs: values.map(|x| fit::nearest(x, d.get(), -127, 127) as i8) }
    }
}
