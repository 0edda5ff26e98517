//! MXFP4: `2^(e - 128) * E2M1[q]`, q of 4 bits (OCP Microscaling Formats 1.0).
//!
//! The table holds doubled values, so the exponent is one less than the format's `e - 127`. An `e` of 255,
//! there "not a number", is read as the power of two that it would be, as ggml does.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode};
use crate::{TensorType, grid};

/// The code nearest to `x` for scale `d`.
fn code(x: f32, d: f32) -> usize {
    // Half-way between neighbours of the table; a tie goes to the even code.
    const LIMITS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    let magnitude = x.abs() / d;
    let above = LIMITS.iter().enumerate().filter(|&(i, &limit)| magnitude > limit || magnitude == limit && i % 2 == 1);
    let code = above.count();
    if x < 0.0 && code > 0 { code + 8 } else { code }
}

/// A block of MXFP4: 32 elements in 17 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMxfp4 {
    /// Exponent of the block, biased by 127.
    pub e: u8,
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high half.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockMxfp4>() == 17 && align_of::<BlockMxfp4>() == 1);

impl Block<32> for BlockMxfp4 {
    const TYPE: TensorType = TensorType::MXFP4;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = Self::scale(self.e);
        for (i, &byte) in self.qs.iter().enumerate() {
            out[i] = f32::from(grid::E2M1_DOUBLED[usize::from(byte & 15)]) * d;
            out[i + 16] = f32::from(grid::E2M1_DOUBLED[usize::from(byte >> 4)]) * d;
        }
    }
}

impl BlockMxfp4 {
    /// The scale that is stored as `e`: `2^(e - 128)`; the two smallest are subnormal.
    pub fn scale(e: u8) -> f32 {
        match e {
            0 | 1 => f32::from_bits(1 << (21 + e)),
            _ => f32::from_bits(u32::from(e - 1) << 23),
        }
    }
}

impl Encode<32> for BlockMxfp4 {
    fn encode(values: &[f32; 32]) -> Self {
        let largest = values.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        if largest == 0.0 {
            return Zeroable::zeroed();
        }
        // With the exponent of the largest value, 6 is the most that a code reaches; a largest value of up
        // to 7.99 may be worth cutting off, or doubling the step of all others.
        let exponent = (largest.to_bits() >> 23) as i32 - 2;
        let candidates = [exponent, exponent + 1].map(|e| e.clamp(0, 254) as u8);
        let error = |e: u8| -> f64 {
            let d = Self::scale(e);
            values.iter().map(|&x| f64::from(x - f32::from(grid::E2M1_DOUBLED[code(x, d)]) * d).powi(2)).sum()
        };
        let e = if error(candidates[1]) < error(candidates[0]) { candidates[1] } else { candidates[0] };
        let q = |i: usize| code(values[i], Self::scale(e)) as u8;
        BlockMxfp4 { e, qs: std::array::from_fn(|i| q(i) | q(i + 16) << 4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exponent_is_a_power_of_two() {
        for e in 0..=255u8 {
            assert_eq!(f64::from(BlockMxfp4::scale(e)), 2f64.powi(i32::from(e) - 128), "{e}");
        }
    }

    #[test]
    fn codes_are_the_nearest_and_ties_go_to_the_even_one() {
        for d in [1.0, BlockMxfp4::scale(0), 0.25] {
            for (q, &value) in grid::E2M1_DOUBLED.iter().enumerate().filter(|&(q, _)| q != 8) {
                assert_eq!(code(f32::from(value) * d, d), q);
            }
        }
        let ties = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0].map(|x| code(x, 1.0));
        assert_eq!(ties, [0, 2, 2, 4, 4, 6, 6]);
        assert_eq!([-0.5, -0.6, -100.0].map(|x| code(x, 1.0)), [0, 9, 15]);
    }
}
