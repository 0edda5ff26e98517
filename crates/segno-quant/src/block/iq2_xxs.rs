//! IQ2_XXS: `d * (0.5 + scale) / 4 * grid * sign`.
//!
//! Each 32 elements are 8 bytes: four numbers of grid entries, then a little-endian number with four sign
//! codes of 7 bits and a scale of 4.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ2_XXS: 256 elements in 66 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq2Xxs {
    /// Scale.
    pub d: F16Le,
    /// Eight groups of 32 elements.
    pub qs: [[u8; 8]; 8],
}

const _: () = assert!(size_of::<BlockIq2Xxs>() == 66 && align_of::<BlockIq2Xxs>() == 1);

impl Block<256> for BlockIq2Xxs {
    const TYPE: TensorType = TensorType::IQ2_XXS;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        for (values, group) in out.as_chunks_mut::<32>().0.iter_mut().zip(&self.qs) {
            let [entries @ .., a, b, c, e] = group;
            let word = u32::from_le_bytes([*a, *b, *c, *e]);
            let db = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (l, (eight, &entry)) in values.as_chunks_mut::<8>().0.iter_mut().zip(entries).enumerate() {
                let signs = grid::signs((word >> (7 * l) & 127) as u8);
                grid::place(eight, db, &grid::IQ2_XXS[usize::from(entry)], signs);
            }
        }
    }
}
