//! Q6_K: sixteen sub-blocks of 16, `y = d sc (q - 32)`.

use super::{Block, half};

/// Q6_K: sixteen sub-blocks of 16, `y = d sc (q - 32)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q6K {
    /// Low nibbles: in each half of 128 elements, 64 bytes hold groups 0 and 1 low, 2 and 3 high.
    pub ql: [u8; 128],
    /// Upper bit pairs: in each half, byte l holds element l of groups 0 to 3, from the low bits up.
    pub qh: [u8; 64],
    /// Scales of the sub-blocks.
    pub scales: [i8; 16],
    /// Scale of the scales, IEEE half.
    pub d: [u8; 2],
}

const _: () = assert!(size_of::<Q6K>() == 210);

impl Block for Q6K {
    const LEN: usize = 256;

    fn decode(&self, out: &mut [f32]) {
        for (i, y) in out.iter_mut().enumerate() {
            let (part, group, l) = (i / 128, i % 128 / 32, i % 32);
            let low = self.ql[64 * part + l + 32 * (group & 1)] >> (group / 2 * 4) & 15;
            let high = self.qh[32 * part + l] >> (2 * group) & 3;
            let scale = self.scales[i / 16];
            *y = half(self.d) * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
        }
    }
}
