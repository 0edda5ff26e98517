//! Floats: blocks of one element.

use super::{Block, half};

macro_rules! float {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $value:expr) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name(pub [u8; $bytes]);

        impl Block for $name {
            const LEN: usize = 1;

            fn decode(&self, out: &mut [f32]) {
                out[0] = $value(self.0);
            }
        }
    };
}

float!(/** 32-bit float. */ F32, 4, f32::from_le_bytes);
float!(/** IEEE half. */ F16, 2, half);
float!(/** The upper half of a 32-bit float. */ BF16, 2, |bytes| half::bf16::from_le_bytes(bytes).to_f32());
