//! Elementary functions in f32, written without branches so that loops over them become vector code.
//!
//! Errors are 1 to 2 units in the last place where the result is normal; results below the smallest
//! normal number may be 0.

/// `a * b + c`, rounded once where the SIMD level has it.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding it rounds to a whole number, which then stands in the low bits of the sum.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// `e^x`. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // ln 2 in two parts; the first has few bits, so that its product with a whole number is exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    // Beyond these the result is 0 or infinite.
    let x = x.clamp(-104.0, 89.0);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let k = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = fma::<FMA>(n, -LN2.1, fma::<FMA>(n, -LN2.0, x));
    // Minimax polynomial of (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2] (Cephes, expf).
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    // 2^k in two factors, since k reaches beyond the exponents of normal numbers.
    let half = k >> 1;
    let power = |k: i32| f32::from_bits(((k + 127) as u32) << 23);
    y * power(half) * power(k - half)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `tanh x`.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * size) + 1.0);
    // Odd polynomial for |x| < 0.625 (Cephes, tanhf): the other form loses digits there.
    let z = x * x;
    let mut p = -5.704_987_3e-3;
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = fma::<FMA>(p, z, c);
    }
    let small = fma::<FMA>(p * z, x, x);
    if size < 0.625 { small } else { large.copysign(x) }
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, as `x sigmoid(2 u)`, which loses no digits for negative x.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769;
    let u = TWICE_ROOT * fma::<FMA>(0.044_715 * x * x, x, x);
    x * sigmoid::<FMA>(u)
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(crate) fn softplus<const FMA: bool>(x: f32) -> f32 {
    // ln(1 + t) = 2 atanh(t / (2 + t)); here t <= 1 and so s <= 1/3.
    let t = exp::<FMA>(-x.abs());
    let s = t / (2.0 + t);
    let z = s * s;
    let mut p = 1.0 / 17.0;
    for n in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = fma::<FMA>(p, z, 1.0 / n);
    }
    let log = 2.0 * fma::<FMA>(p * z, s, s);
    // `max` would turn NaN into 0.
    (if x < 0.0 { 0.0 } else { x }) + log
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with f64 over a grid; the bound is in units in the last place of the result.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, range: (f32, f32)) -> f64 {
        let n = 200_000;
        let at = |i: u32| range.0 + (range.1 - range.0) * (i as f32 / n as f32);
        let error = |x: f32| {
            let (y, e) = (f(x) as f64, exact(x as f64));
            (y - e).abs() / (e.abs() * f32::EPSILON as f64).max(1e-37)
        };
        (0..=n).map(|i| error(at(i))).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_within_a_few_units_in_the_last_place() {
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        let gelu64 = |x: f64| x * sigmoid64(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x));
        assert!(worst(exp::<true>, f64::exp, (-87.0, 88.5)) < 2.0);
        assert!(worst(exp::<false>, f64::exp, (-87.0, 88.5)) < 2.0);
        assert!(worst(sigmoid::<true>, sigmoid64, (-80.0, 80.0)) < 3.0);
        assert!(worst(tanh::<true>, f64::tanh, (-10.0, 10.0)) < 3.0);
        assert!(worst(tanh::<false>, f64::tanh, (-1e-3, 1e-3)) < 3.0);
        assert!(worst(softplus::<true>, |x| x.exp().ln_1p(), (-80.0, 80.0)) < 4.0);
        // The rounding of u is scaled by its size: e^u has |u| units of error.
        assert!(worst(gelu::<true>, gelu64, (-4.0, 10.0)) < 30.0);
    }

    #[test]
    fn limits_are_kept() {
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!((tanh::<true>(-100.0), tanh::<true>(100.0)), (-1.0, 1.0));
        assert_eq!(softplus::<true>(50.0), 50.0);
        for f in [exp::<true>, sigmoid::<true>, tanh::<true>, softplus::<true>, gelu::<true>] {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
