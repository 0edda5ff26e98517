//! Q4_1: `y = d q + m`.

use super::{Block, half, nibble};

/// Q4_1: `y = d q + m`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q4_1 {
    /// Scale, IEEE half.
    pub d: [u8; 2],
    /// Minimum, IEEE half.
    pub m: [u8; 2],
    /// Nibbles: elements 0 to 15 low, 16 to 31 high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Q4_1>() == 20);

impl Block for Q4_1 {
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (d, m) = (half(self.d), half(self.m));
        for (j, y) in out.iter_mut().enumerate() {
            *y = d * f32::from(nibble(&self.qs, j)) + m;
        }
    }
}
