//! TQ1_0: `d * (t - 1)`, t one of 0, 1, 2; five of them are a fraction of 256 in base 3.
//!
//! Elements 0 to 159 are digits of `qs[0..32]`, 160 to 239 of `qs[32..48]`, 240 to 255 of `qh`: first the
//! first digit of every byte, then the second of every byte, and so on.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType};

/// Digit `n`, the most significant first, of `byte / 256` in base 3.
fn digit(byte: u8, n: usize) -> i8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    // Wrapping drops the digits before; what is left, times three, carries this one beyond the point.
    let rest = byte.wrapping_mul(POWERS[n]);
    ((u16::from(rest) * 3) >> 8) as i8
}

/// A block of TQ1_0: 256 elements in 54 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTq1_0 {
    /// Elements 0 to 239, five to a byte.
    pub qs: [u8; 48],
    /// Elements 240 to 255, four to a byte.
    pub qh: [u8; 4],
    /// Scale.
    pub d: F16Le,
}

const _: () = assert!(size_of::<BlockTq1_0>() == 54 && align_of::<BlockTq1_0>() == 1);

impl Block<256> for BlockTq1_0 {
    const TYPE: TensorType = TensorType::TQ1_0;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        let (head, tail) = out.split_at_mut(240);
        let (first, second) = head.split_at_mut(160);
        for (values, bytes) in [(first, &self.qs[..32]), (second, &self.qs[32..]), (tail, &self.qh[..])] {
            for (n, digits) in values.chunks_exact_mut(bytes.len()).enumerate() {
                for (value, &byte) in digits.iter_mut().zip(bytes) {
                    *value = f32::from(digit(byte, n) - 1) * d;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_five_digits_come_back() {
        for number in 0..243u32 {
            // A fraction of 256, rounded up.
            let byte = (number * 256).div_ceil(243) as u8;
            let expected = [81, 27, 9, 3, 1].map(|power| (number / power % 3) as i8);
            assert_eq!([0, 1, 2, 3, 4].map(|n| digit(byte, n)), expected, "{number}");
        }
    }
}
