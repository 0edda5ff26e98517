//! Q3_K: `d * (scale - 32) * (q - 4)`, q of 3 bits, scale of 6 bits for 16 elements.
//!
//! Element `128 h + 32 g + l` has its low bits at `2 g` of `qs[32 h + l]`, its high bit at `4 h + g` of
//! `hmask[l]`; its scale is number `8 h + 2 g + l / 16`.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// A block of Q3_K: 256 elements in 110 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3K {
    /// High bits.
    pub hmask: [u8; 32],
    /// Low two bits, four elements to a byte.
    pub qs: [u8; 64],
    /// Scales: four low bits in bytes 0 to 7 (number k and k + 8), two high bits in bytes 8 to 11.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: F16Le,
}

const _: () = assert!(size_of::<BlockQ3K>() == 110 && align_of::<BlockQ3K>() == 1);

impl Block<256> for BlockQ3K {
    const TYPE: TensorType = TensorType::Q3_K;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (k, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let dl = d * f32::from(self.scale(k) - 32);
            let half = 16 * (k % 2);
            let (first, shift, bit) = (32 * (k / 8) + half, k % 8 / 2 * 2, k / 2);
            let bytes = self.qs[first..first + 16].iter().zip(&self.hmask[half..half + 16]);
            for (value, (&low, &high)) in values.iter_mut().zip(bytes) {
                *value = dl * f32::from((low >> shift & 3 | (high >> bit & 1) << 2) as i8 - 4);
            }
        }
    }
}

impl BlockQ3K {
    /// The scale of elements `16 k` to `16 k + 15`, 0 to 63, before 32 is subtracted.
    ///
    /// # Panics
    /// If `k` is above 15.
    pub fn scale(&self, k: usize) -> i8 {
        let low = self.scales[k % 8] >> (4 * (k / 8)) & 15;
        let high = self.scales[8 + k % 4] >> (2 * (k / 4)) & 3;
        (low | high << 4) as i8
    }
}
