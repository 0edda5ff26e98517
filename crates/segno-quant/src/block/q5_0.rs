//! Q5_0: `y = d (q - 16)`.

use super::{Block, half, nibble};

/// Q5_0: `y = d (q - 16)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q5_0 {
    /// Scale, IEEE half.
    pub d: [u8; 2],
    /// Fifth bits: bit j belongs to element j.
    pub qh: [u8; 4],
    /// Nibbles: elements 0 to 15 low, 16 to 31 high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Q5_0>() == 22);

impl Block for Q5_0 {
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (d, high) = (half(self.d), u32::from_le_bytes(self.qh));
        for (j, y) in out.iter_mut().enumerate() {
            let q = nibble(&self.qs, j) | ((high >> j & 1) as u8) << 4;
            *y = d * f32::from(q as i8 - 16);
        }
    }
}
