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

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1a over all values, as bytes.
    fn hash<T: bytemuck::NoUninit>(table: &[T]) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        bytemuck::cast_slice(table).iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    /// Fixtures reach a part of the entries only. The numbers were computed from the tables of the Python
    /// package `gguf`.
    #[test]
    fn every_entry_is_that_of_the_format() {
        assert_eq!(hash(&IQ2_XXS), 0xbb4e_e025_b5ac_6e8e);
        assert_eq!(hash(&IQ2_XS), 0xc9b1_ee61_e799_09bd);
        assert_eq!(hash(&IQ2_S), 0x123e_dd38_a3b6_2b90);
        assert_eq!(hash(&IQ3_XXS), 0xdfa5_dc83_d6a1_55d5);
        assert_eq!(hash(&IQ3_S), 0xfa37_020c_25b4_4829);
        assert_eq!(hash(&IQ1), 0x6703_ed86_3501_ae2e);
    }

    #[test]
    fn signs_have_an_even_number_of_minuses() {
        for code in 0..128 {
            assert_eq!((signs(code) & 127, signs(code).count_ones() % 2), (code, 0));
        }
    }
}
