//! Q5_1: `y = d q + m`.

use super::{Block, half, nibble};

/// Q5_1: `y = d q + m`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q5_1 {
    /// Scale, IEEE half.
    pub d: [u8; 2],
    /// Minimum, IEEE half.
    pub m: [u8; 2],
    /// Fifth bits: bit j belongs to element j.
    pub qh: [u8; 4],
    /// Nibbles: elements 0 to 15 low, 16 to 31 high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Q5_1>() == 24);

impl Block for Q5_1 {
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (d, m, high) = (half(self.d), half(self.m), u32::from_le_bytes(self.qh));
        for (j, y) in out.iter_mut().enumerate() {
            let q = nibble(&self.qs, j) | ((high >> j & 1) as u8) << 4;
            *y = d * f32::from(q) + m;
        }
    }
}
