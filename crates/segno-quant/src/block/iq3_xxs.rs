//! IQ3_XXS: `d * (0.5 + scale) / 2 * grid * sign`.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ3_XXS: 256 elements in 98 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq3Xxs {
    /// Scale.
    pub d: F16Le,
    /// Grid entries of 4 elements each.
    pub qs: [u8; 64],
    /// A little-endian number for each 32 elements: four sign codes of 7 bits, a scale of 4.
    pub gas: [[u8; 4]; 8],
}

const _: () = assert!(size_of::<BlockIq3Xxs>() == 98 && align_of::<BlockIq3Xxs>() == 1);

impl Block<256> for BlockIq3Xxs {
    const TYPE: TensorType = TensorType::IQ3_XXS;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        let parts = self.qs.as_chunks::<8>().0.iter().zip(&self.gas);
        for (values, (entries, &word)) in out.as_chunks_mut::<32>().0.iter_mut().zip(parts) {
            let word = u32::from_le_bytes(word);
            let db = d * (0.5 + (word >> 28) as f32) * 0.5;
            for (i, (four, &entry)) in values.as_chunks_mut::<4>().0.iter_mut().zip(entries).enumerate() {
                let signs = grid::signs((word >> (i / 2 * 7) & 127) as u8);
                grid::place(four, db, &grid::IQ3_XXS[usize::from(entry)], signs >> (i % 2 * 4));
            }
        }
    }
}
