//! Q5_K: eight sub-blocks of 32, `y = d sc q - dmin mn`.

use super::{Block, half, scale_and_min};

/// Q5_K: eight sub-blocks of 32, `y = d sc q - dmin mn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q5K {
    /// Scale of the scales, IEEE half.
    pub d: [u8; 2],
    /// Scale of the minima, IEEE half.
    pub dmin: [u8; 2],
    /// Scales and minima of the sub-blocks, 6 bits each: see [`scale_and_min`].
    pub scales: [u8; 12],
    /// Fifth bits: bit k of byte l belongs to element l of sub-block k.
    pub qh: [u8; 32],
    /// Nibbles: 32 bytes hold an even sub-block low and the odd one after it high.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Q5K>() == 176);

impl Block for Q5K {
    const LEN: usize = 256;

    fn decode(&self, out: &mut [f32]) {
        for (k, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_and_min(&self.scales, k);
            let (d, m) = (half(self.d) * f32::from(scale), half(self.dmin) * f32::from(min));
            let bytes = self.qs[k / 2 * 32..].iter().zip(&self.qh);
            for (y, (byte, high)) in out.iter_mut().zip(bytes) {
                *y = d * f32::from(byte >> (k % 2 * 4) & 15 | (high >> k & 1) << 4) - m;
            }
        }
    }
}
