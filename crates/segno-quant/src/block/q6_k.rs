//! Q6_K: `d * scale * (q - 32)`, q of 6 bits, scale of 8 bits for 16 elements.
//!
//! Element `128 h + 32 g + l` has its low four bits in `ql[64 h + 32 (g % 2) + l]`, low half for g below 2,
//! its high bits at `2 g` of `qh[32 h + l]`; its scale is number `8 h + 2 g + l / 16`.

use bytemuck::{Pod, Zeroable};

use crate::block::{Block, Encode};
use crate::{F16Le, TensorType, fit};

/// A block of Q6_K: 256 elements in 210 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// Low four bits, two elements to a byte.
    pub ql: [u8; 128],
    /// High two bits, four elements to a byte.
    pub qh: [u8; 64],
    /// Scales of 16 elements each.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: F16Le,
}

const _: () = assert!(size_of::<BlockQ6K>() == 210 && align_of::<BlockQ6K>() == 1);

impl Block<256> for BlockQ6K {
    const TYPE: TensorType = TensorType::Q6_K;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (k, (values, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(&self.scales).enumerate() {
            let dl = d * f32::from(scale);
            let (h, g, half) = (k / 8, k % 8 / 2, 16 * (k % 2));
            let (low, high) = (64 * h + 32 * (g % 2) + half, 32 * h + half);
            let bytes = self.ql[low..low + 16].iter().zip(&self.qh[high..high + 16]);
            for (value, (&low, &high)) in values.iter_mut().zip(bytes) {
                let q = low >> (4 * (g / 2)) & 15 | (high >> (2 * g) & 3) << 4;
                *value = dl * f32::from(q as i8 - 32);
            }
        }
    }
}

impl Encode<256> for BlockQ6K {
    fn encode(values: &[f32; 256]) -> Self {
        let (rows, _) = values.as_chunks::<16>();
        let wanted: [f32; 16] = std::array::from_fn(|k| fit::symmetric(&rows[k], -32, 31, |d| d));
        let largest = wanted.iter().fold(0f32, |largest, d| largest.max(d.abs()));
        let d = F16Le::saturating(largest / 127.0);
        let mut block = BlockQ6K { d, ..Zeroable::zeroed() };
        for (k, row) in rows.iter().enumerate() {
            // The rounded scale of the neighbours below and above may suit the elements better.
            let middle = fit::nearest(wanted[k], d.get(), -127, 127);
            let error = |scale: &i32| fit::symmetric_error(row, d.get() * *scale as f32, -32, 31);
            let near = (middle - 1..=middle + 1).filter(|scale| (-128..=127).contains(scale));
            let scale = near.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or(middle);
            block.scales[k] = scale as i8;
            let (h, g, half) = (k / 8, k % 8 / 2, 16 * (k % 2));
            for (l, &x) in row.iter().enumerate() {
                let q = (fit::nearest(x, d.get() * scale as f32, -32, 31) + 32) as u8;
                block.ql[64 * h + 32 * (g % 2) + half + l] |= (q & 15) << (4 * (g / 2));
                block.qh[32 * h + half + l] |= (q >> 4) << (2 * g);
            }
        }
        block
    }
}
