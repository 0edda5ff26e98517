//! IQ1_S: `d * (2 scale + 1) * (grid + delta)`, delta 1/8 or -1/8, scale of 3 bits for 32 elements.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ1_S: 256 elements in 50 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq1S {
    /// Scale.
    pub d: F16Le,
    /// Low eight bits of the grid entry of 8 elements each.
    pub qs: [u8; 32],
    /// A little-endian number for each 32 elements: bits `3 l` to `3 l + 2` are the high bits of entry `l`, bits 12 to 14 the scale, bit 15 the sign of delta.
    pub qh: [[u8; 2]; 8],
}

const _: () = assert!(size_of::<BlockIq1S>() == 50 && align_of::<BlockIq1S>() == 1);

impl Block<256> for BlockIq1S {
    const TYPE: TensorType = TensorType::IQ1_S;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (i, (eight, &low)) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.qs).enumerate() {
            let word = u16::from_le_bytes(self.qh[i / 4]);
            let dl = d * f32::from(2 * (word >> 12 & 7) + 1);
            let delta = if word >> 15 == 1 { -grid::IQ1_DELTA } else { grid::IQ1_DELTA };
            let entry = &grid::IQ1[usize::from(low) | usize::from(word >> (3 * (i % 4)) & 7) << 8];
            for (value, &g) in eight.iter_mut().zip(entry) {
                *value = dl * (f32::from(g) + delta);
            }
        }
    }
}
