//! IQ1_M: `d * (2 scale + 1) * (grid + delta)`, delta 1/8 or -1/8, scale of 3 bits for 16 elements.
//!
//! The scale of the scales, a half, is cut up: its four nibbles, lowest first, are the top ones of the four
//! numbers in `scales`.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ1_M: 256 elements in 56 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq1M {
    /// Low eight bits of the grid entry of 8 elements each.
    pub qs: [u8; 32],
    /// For 8 elements a nibble, low half first: three high bits of the grid entry, sign of delta.
    pub qh: [u8; 16],
    /// Little-endian numbers with the scales of 64 elements: four of 3 bits; and a nibble of `d`.
    pub scales: [[u8; 2]; 4],
}

const _: () = assert!(size_of::<BlockIq1M>() == 56 && align_of::<BlockIq1M>() == 1);

impl Block<256> for BlockIq1M {
    const TYPE: TensorType = TensorType::IQ1_M;

    fn decode(&self, out: &mut [f32; 256]) {
        let scales = self.scales.map(u16::from_le_bytes);
        let d = scales.iter().enumerate().fold(0, |d, (i, word)| d | (word >> 12) << (4 * i));
        let d = F16Le(d.to_le_bytes()).get();
        for (i, (eight, &low)) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.qs).enumerate() {
            let scale = scales[i / 8] >> (i % 8 / 2 * 3) & 7;
            let dl = d * f32::from(2 * scale + 1);
            let nibble = self.qh[i / 2] >> (i % 2 * 4);
            let delta = if nibble & 8 == 8 { -grid::IQ1_DELTA } else { grid::IQ1_DELTA };
            let entry = &grid::IQ1[usize::from(low) | usize::from(nibble & 7) << 8];
            for (value, &g) in eight.iter_mut().zip(entry) {
                *value = dl * (f32::from(g) + delta);
            }
        }
    }
}
