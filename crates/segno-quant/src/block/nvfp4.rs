//! NVFP4: `u(d) * E2M1[q]`, q of 4 bits, d an unsigned 8-bit float for 16 elements.
//!
//! The table holds doubled values, so `u` is half of what d says: 4 bits of exponent, 3 of mantissa. A
//! scale for the whole tensor lies in a tensor of its own.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{TensorType, grid};

/// Half of an unsigned float with 4 bits of exponent and 3 of mantissa; the top bit has no meaning. All
/// ones, "not a number", is read as zero.
fn half_of_ue4m3(x: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(x >> 3 & 15), f32::from(x & 7));
    match (exponent, x & 0x7f) {
        (_, 0x7f) => 0.0,
        (0, _) => mantissa / 1024.0,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent + 127 - 8) << 23),
    }
}

/// A block of NVFP4: 64 elements in 36 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockNvfp4 {
    /// Scales of 16 elements each.
    pub d: [u8; 4],
    /// Byte `8 s + i` holds element `16 s + i` in its low and `16 s + i + 8` in its high half.
    pub qs: [u8; 32],
}

const _: () = assert!(size_of::<BlockNvfp4>() == 36 && align_of::<BlockNvfp4>() == 1);

impl Block<64> for BlockNvfp4 {
    const TYPE: TensorType = TensorType::NVFP4;

    fn decode(&self, out: &mut [f32; 64]) {
        let parts = out.as_chunks_mut::<16>().0.iter_mut().zip(self.qs.as_chunks::<8>().0);
        for ((values, bytes), &d) in parts.zip(&self.d) {
            let d = half_of_ue4m3(d);
            for (i, &byte) in bytes.iter().enumerate() {
                values[i] = f32::from(grid::E2M1_DOUBLED[usize::from(byte & 15)]) * d;
                values[i + 8] = f32::from(grid::E2M1_DOUBLED[usize::from(byte >> 4)]) * d;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_is_half_of_the_float_that_it_says() {
        for x in 0..=255u8 {
            let (exponent, mantissa) = (i32::from(x >> 3 & 15), f64::from(x & 7) / 8.0);
            let value = match x & 127 {
                127 => 0.0,
                0..8 => mantissa * 2f64.powi(-6),
                _ => (1.0 + mantissa) * 2f64.powi(exponent - 7),
            };
            assert_eq!(f64::from(half_of_ue4m3(x)), value / 2.0, "{x}");
        }
    }
}
