//! Sixteen-bit floats as bytes.

use bytemuck::{Pod, Zeroable};
use half::f16;

/// An IEEE half in the file's byte order, at any address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F16Le(pub [u8; 2]);

impl F16Le {
    /// The value.
    pub fn get(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }

    /// The nearest half, ties to even. What is too large becomes the largest finite one: an infinite
    /// scale would turn a whole block into infinities.
    pub fn saturating(value: f32) -> Self {
        let limit = f16::MAX.to_f32();
        F16Le(f16::from_f32(value.clamp(-limit, limit)).to_le_bytes())
    }
}
