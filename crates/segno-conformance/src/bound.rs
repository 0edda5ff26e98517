//! The error model that bounds are derived from.
//!
//! **Arithmetic.** f32 with a relative error of at most [`U`] for each sum, product and fused
//! product-sum; results below [`TINY`] may become zero.
//!
//! **Functions.** The accuracies that WGSL promises, which every other f32 library exceeds: `exp`
//! 3 + 2|x| ulp, division 2.5 ulp, `inverseSqrt` 2 ulp, `log` 2^-21 absolutely between 0.5 and 2 and
//! 3 ulp elsewhere. WGSL's `tanh` (1e-5) is not enough; a form through `exp` reaches [`tanh_abs`].
//!
//! **Sums.** A sum of `n` products in any order is off by at most `n U sum |a b|`; with rounding errors
//! of random sign by `lambda sqrt(n) U sum |a b|`, but for a probability of `2 exp(-lambda^2 / 2)`
//! (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). [`sum`] takes the smaller one with `lambda = 8`:
//! 3e-14 a number. What repeats in every step of a scan (the rounding of one decay) is no random
//! error and is added up as it is.

use segno_ir::KvType;

/// Unit roundoff of f32: half the distance from 1 to the next number.
pub(crate) const U: f64 = 1.0 / 16_777_216.0;

/// A unit in the last place, relative: at most twice the roundoff.
pub(crate) const ULP: f64 = 2.0 * U;

/// The smallest normal f32; a device may take anything below for zero.
pub(crate) const TINY: f64 = 1.175_494_350_822_287_5e-38;

/// Relative error of an f16 number (10 bits after the leading one): to the nearest, or chopped.
pub(crate) const F16_ULP: f64 = 1.0 / 1024.0;

/// Smallest normal f16; below it the spacing is [`F16_TINY`] times [`F16_ULP`].
pub(crate) const F16_TINY: f64 = 6.103_515_625e-5;

/// What pages of a type may round away of each of `values`, which are whole blocks.
///
/// F16: an ulp, since shading languages leave the direction open. Blocks of integers from `low` (negative) to
/// `high`: the scale `d = max |x| / -low` is off by the ulp of a half; a number is off by half a step, or,
/// beyond `high` steps, by what is left: that is all of a step of Q4_0, for what has the other sign than the
/// largest. Quotients are those of WGSL, 2.5 ulp of at most 128.
pub(crate) fn page_rounding(values: &[f64], ty: KvType) -> Vec<f64> {
    let (steps, high) = match ty {
        KvType::F32 => return vec![0.0; values.len()],
        KvType::F16 => return values.iter().map(|x| x.abs().max(F16_TINY) * F16_ULP).collect(),
        KvType::Q8_0 => (127.0, 127.0),
        KvType::Q4_0 => (8.0, 7.0),
    };
    let of_block = |block: &[f64]| {
        let d = block.iter().fold(0f64, |m, x| m.max(x.abs())) / steps;
        let off = d.max(F16_TINY) * F16_ULP;
        let bound = |x: &f64| ((0.5 + 128.0 * 2.5 * ULP) * (d + off)).max(x.abs() - high * (d - off));
        block.iter().map(bound).collect::<Vec<f64>>()
    };
    values.chunks(ty.block_len()).flat_map(of_block).collect()
}

/// Error of a sum of `n` products, relative to the sum of their magnitudes.
pub(crate) fn sum(n: usize) -> f64 {
    let n = n as f64;
    (n.min(8.0 * n.sqrt()) + 1.0) * U
}

/// How much of its worst case a sum of `n` independent errors reaches, by the same estimate.
pub(crate) fn spread(n: usize) -> f64 {
    (8.0 / (n as f64).sqrt()).min(1.0)
}

/// Relative error of `exp(x)`.
pub(crate) fn exp_rel(x: f64) -> f64 {
    (3.0 + 2.0 * x.abs()) * ULP
}

/// Absolute error of `tanh(x)` as `1 - 2 / (exp(2x) + 1)` or `(e^x - e^-x) / (e^x + e^-x)`: the
/// exponential's relative error comes through by `2 e / (e + 1)^2 = (1 - tanh^2) / 2`, or twice that in
/// the second form; quotient and sums add 4 ulp of 1.
pub(crate) fn tanh_abs(x: f64) -> f64 {
    let t = x.tanh();
    (1.0 - t * t) * exp_rel(2.0 * x) + 4.0 * ULP
}

/// The logistic function.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Relative error of `1 / (1 + exp(-x))`: the exponential's comes through by `1 - sigmoid(x)`, then a
/// sum and a quotient. Where `exp(-x)` overflows the result is below [`TINY`].
pub(crate) fn sigmoid_rel(x: f64) -> f64 {
    (1.0 - sigmoid(x)) * exp_rel(x) + U + 2.5 * ULP
}

/// Euclidean norm.
pub(crate) fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}
