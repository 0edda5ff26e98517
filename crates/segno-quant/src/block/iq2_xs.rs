//! IQ2_XS: `d * (0.5 + scale) / 4 * grid * sign`, scale of 4 bits for 16 elements.
//!
//! Each 8 elements are a little-endian number: 9 bits of grid entry, 7 of sign code.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ2_XS: 256 elements in 74 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2Xs {
    /// Scale.
    pub d: F16Le,
    /// Grid entries and signs of 8 elements each.
    pub qs: [[u8; 2]; 32],
    /// Scale of elements `32 g` to `32 g + 15` in the low half of byte `g`, of the next 16 in the high one.
    pub scales: [u8; 8],
}

const _: () = assert!(size_of::<BlockIq2Xs>() == 74 && align_of::<BlockIq2Xs>() == 1);

impl Block<256> for BlockIq2Xs {
    const TYPE: TensorType = TensorType::IQ2_XS;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (i, (eight, &code)) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.qs).enumerate() {
            let scale = self.scales[i / 4] >> (i % 4 / 2 * 4) & 15;
            let db = d * (0.5 + f32::from(scale)) * 0.25;
            let code = u16::from_le_bytes(code);
            grid::place(eight, db, &grid::IQ2_XS[usize::from(code & 511)], grid::signs((code >> 9) as u8));
        }
    }
}
