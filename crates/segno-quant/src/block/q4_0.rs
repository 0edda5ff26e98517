//! Q4_0: `y = d (q - 8)`.

use super::{Block, half, nibble};

/// Q4_0: `y = d (q - 8)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q4_0 {
    /// Scale, IEEE half.
    pub d: [u8; 2],
    /// Nibbles: elements 0 to 15 low, 16 to 31 high.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<Q4_0>() == 18);

impl Block for Q4_0 {
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let d = half(self.d);
        for (j, y) in out.iter_mut().enumerate() {
            *y = d * f32::from(nibble(&self.qs, j) as i8 - 8);
        }
    }
}
