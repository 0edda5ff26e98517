//! Q4_K: eight sub-blocks of 32, `y = d sc q - dmin mn`.

use super::{Block, half};

/// Q4_K: eight sub-blocks of 32, `y = d sc q - dmin mn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q4K {
    /// Scale of the scales, IEEE half.
    pub d: [u8; 2],
    /// Scale of the minima, IEEE half.
    pub dmin: [u8; 2],
    /// Scales and minima of the sub-blocks, 6 bits each: see [`scale_and_min`].
    pub scales: [u8; 12],
    /// Nibbles: 32 bytes hold an even sub-block low and the odd one after it high.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<Q4K>() == 144);

/// Scale and minimum of sub-block `k`, 0 to 63 each.
pub fn scale_and_min(scales: &[u8; 12], k: usize) -> (u8, u8) {
    if k < 4 {
        (scales[k] & 63, scales[k + 4] & 63)
    } else {
        let low = scales[k + 4];
        ((low & 15) | (scales[k - 4] >> 6) << 4, (low >> 4) | (scales[k] >> 6) << 4)
    }
}

impl Block for Q4K {
    const LEN: usize = 256;

    fn decode(&self, out: &mut [f32]) {
        for (k, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_and_min(&self.scales, k);
            let (d, m) = (half(self.d) * f32::from(scale), half(self.dmin) * f32::from(min));
            for (y, byte) in out.iter_mut().zip(&self.qs[k / 2 * 32..]) {
                *y = d * f32::from(byte >> (k % 2 * 4) & 15) - m;
            }
        }
    }
}
