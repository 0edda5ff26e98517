//! Q8_0: `y = d q`.

use super::{Block, half};

/// Q8_0: `y = d q`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Q8_0 {
    /// Scale, IEEE half.
    pub d: [u8; 2],
    /// Elements.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<Q8_0>() == 34);

impl Block for Q8_0 {
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let d = half(self.d);
        out.iter_mut().zip(self.qs).for_each(|(y, q)| *y = d * f32::from(q));
    }
}
