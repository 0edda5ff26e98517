//! IQ3_S: `d * (1 + 2 scale) * grid * sign`, scale of 4 bits for 32 elements.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ3_S: 256 elements in 110 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq3S {
    /// Scale.
    pub d: F16Le,
    /// Low eight bits of the grid entry of 4 elements each.
    pub qs: [u8; 64],
    /// Ninth bit of entry `8 g + i` at bit `i` of byte `g`.
    pub qh: [u8; 8],
    /// Signs of 8 elements each: bit `j` for the `j`-th.
    pub signs: [u8; 32],
    /// Scale of 32 elements each, two to a byte.
    pub scales: [u8; 4],
}

const _: () = assert!(size_of::<BlockIq3S>() == 110 && align_of::<BlockIq3S>() == 1);

impl Block<256> for BlockIq3S {
    const TYPE: TensorType = TensorType::IQ3_S;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (i, (four, &low)) in out.as_chunks_mut::<4>().0.iter_mut().zip(&self.qs).enumerate() {
            let scale = self.scales[i / 16] >> (i / 8 % 2 * 4) & 15;
            let db = d * f32::from(1 + 2 * scale);
            let high = self.qh[i / 8] >> (i % 8) & 1;
            let entry = &grid::IQ3_S[usize::from(low) | usize::from(high) << 8];
            grid::place(four, db, entry, self.signs[i / 2] >> (i % 2 * 4));
        }
    }
}
