//! Tables that formats refer to: codebooks of the IQ types, steps of the 4-bit ones.
//!
//! Backends read them too, as they are or packed again.

mod iq1;
mod iq2;
mod iq3;

pub use iq1::IQ1;
pub use iq2::{IQ2_S, IQ2_XS, IQ2_XXS};
pub use iq3::{IQ3_S, IQ3_XXS};

/// What IQ1 types add to, or subtract from, every value of an entry.
pub const IQ1_DELTA: f32 = 0.125;

/// Steps of IQ4_NL and IQ4_XS.
pub static IQ4_STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of a float with one sign bit, two of exponent, one of mantissa. Minus zero is zero.
pub static E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Eight signs from a code of seven bits: the eighth makes the number of minus signs even.
pub const fn signs(code: u8) -> u8 {
    let code = code & 127;
    code | (code.count_ones() as u8 & 1) << 7
}

/// `out[j] = scale * entry[j]`, minus where bit `j` of `signs` is set.
pub(crate) fn place<const N: usize>(out: &mut [f32; N], scale: f32, entry: &[u8; N], signs: u8) {
    for (j, (value, &g)) in out.iter_mut().zip(entry).enumerate() {
        let sign = if signs >> j & 1 == 1 { -1.0 } else { 1.0 };
        *value = scale * f32::from(g) * sign;
    }
}

/// Entries of `N` values from packed numbers of `bits` bits, which stand for `steps`.
const fn unpack<const N: usize, const ENTRIES: usize>(
    packed: &[u16; ENTRIES],
    bits: usize,
    steps: &[u8],
) -> [[u8; N]; ENTRIES] {
    let mut out = [[0; N]; ENTRIES];
    let mut i = 0;
    while i < ENTRIES * N {
        let number = packed[i / N] >> (bits * (i % N)) & ((1 << bits) - 1);
        out[i / N][i % N] = steps[number as usize];
        i += 1;
    }
    out
}
