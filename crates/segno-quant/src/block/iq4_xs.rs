//! IQ4_XS: `d * (scale - 32) * STEPS[q]`, q of 4 bits, scale of 6 bits for 32 elements.

use bytemuck::{Pod, Zeroable};

use crate::block::Block;
use crate::{F16Le, TensorType, grid};

/// A block of IQ4_XS: 256 elements in 136 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIq4Xs {
    /// Scale.
    pub d: F16Le,
    /// High two bits of scale `g` at bit `2 g` of this little-endian number.
    pub scales_h: [u8; 2],
    /// Low four bits of the scales, two to a byte.
    pub scales_l: [u8; 4],
    /// Byte `16 g + i` holds element `32 g + i` in its low and `32 g + i + 16` in its high half.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIq4Xs>() == 136 && align_of::<BlockIq4Xs>() == 1);

impl Block<256> for BlockIq4Xs {
    const TYPE: TensorType = TensorType::IQ4_XS;

    fn decode(&self, out: &mut [f32; 256]) {
        let d = self.d.get();
        let high = u16::from_le_bytes(self.scales_h);
        let parts = out.as_chunks_mut::<32>().0.iter_mut().zip(self.qs.as_chunks::<16>().0);
        for (g, (values, bytes)) in parts.enumerate() {
            let low = self.scales_l[g / 2] >> (4 * (g % 2)) & 15;
            let scale = i16::from(low) | ((high >> (2 * g) & 3) << 4) as i16;
            let dl = d * f32::from(scale - 32);
            for (i, &byte) in bytes.iter().enumerate() {
                values[i] = dl * f32::from(grid::IQ4_STEPS[usize::from(byte & 15)]);
                values[i + 16] = dl * f32::from(grid::IQ4_STEPS[usize::from(byte >> 4)]);
            }
        }
    }
}
