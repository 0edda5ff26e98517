//! IQ2_S: `d * (0.5 + scale) / 4 * grid * sign`, scale of 4 bits for 16 elements.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ2_S: 256 elements in 82 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2S {
    /// Scale.
    pub d: F16Le,
    /// Low eight bits of the grid entry of 8 elements each.
    pub qs: [u8; 32],
    /// Signs of 8 elements each: bit `j` for the `j`-th.
    pub signs: [u8; 32],
    /// High two bits of entry `4 g + l` at `2 l` of byte `g`.
    pub qh: [u8; 8],
    /// Scale of elements `32 g` to `32 g + 15` in the low half of byte `g`, of the next 16 in the high one.
    pub scales: [u8; 8],
}

const _: () = assert!(size_of::<BlockIq2S>() == 82 && align_of::<BlockIq2S>() == 1);

impl Block<256> for BlockIq2S {
    const TYPE: TensorType = TensorType::IQ2_S;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        let bytes = self.qs.iter().zip(&self.signs);
        for (i, (eight, (&low, &signs))) in out.as_chunks_mut::<8>().0.iter_mut().zip(bytes).enumerate() {
            let scale = self.scales[i / 4] >> (i % 4 / 2 * 4) & 15;
            let db = d * (0.5 + f32::from(scale)) * 0.25;
            let high = self.qh[i / 4] >> (2 * (i % 4)) & 3;
            grid::place(eight, db, &grid::IQ2_S[usize::from(low) | usize::from(high) << 8], signs);
        }
    }
}
