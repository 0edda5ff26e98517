//! Loops that the compiler turns into vector code, each compiled once for every SIMD level.
//!
//! Sums keep lanes by index and add them in a fixed tree at the end.

use segno_ir::op::activate::Activation;
use segno_quant::F16Le;

use super::math::{ROUND, exp, fma, gelu, sigmoid, softplus, tanh};
use super::quant::QuantRowMut;

/// Keys of a page.
const PAGE: usize = segno_ir::PAGE_TOKENS as usize;

/// Lanes of a sum.
const LANES: usize = 32;

/// Adds eight lanes: `((0+4) + (2+6)) + ((1+5) + (3+7))`.
#[inline(always)]
pub(crate) fn tree(v: [f32; 8]) -> f32 {
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// `sum x`.
#[inline(always)]
pub(super) fn sum<const FMA: bool>(x: &[f32]) -> f32 {
    in_lanes(x, |acc, x| acc + x)
}

/// `sum x^2`.
#[inline(always)]
pub(super) fn sum_squares<const FMA: bool>(x: &[f32]) -> f32 {
    in_lanes(x, |acc, x| fma::<FMA>(x, x, acc))
}

/// Adds up by `add`, lane by lane.
#[inline(always)]
fn in_lanes(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut acc = [0f32; LANES];
    let body = x.chunks_exact(LANES);
    let rest = body.remainder();
    for x in body {
        for (acc, x) in acc.iter_mut().zip(x) {
            *acc = add(*acc, *x);
        }
    }
    for (acc, x) in acc.iter_mut().zip(rest) {
        *acc = add(*acc, *x);
    }
    let mut eight = [0f32; 8];
    for (i, eight) in eight.iter_mut().enumerate() {
        *eight = (acc[i] + acc[i + 8]) + (acc[i + 16] + acc[i + 24]);
    }
    tree(eight)
}

/// `y = f(x)`, or `y = f(gate) * x` with two inputs.
#[inline(always)]
pub(super) fn activate<const FMA: bool>(function: Activation, gate: &[f32], up: Option<&[f32]>, y: &mut [f32]) {
    macro_rules! go {
        ($f:expr) => {{
            let f = $f;
            match up {
                Some(up) => y.iter_mut().zip(gate.iter().zip(up)).for_each(|(y, (g, x))| *y = f(*g) * x),
                None => y.iter_mut().zip(gate).for_each(|(y, x)| *y = f(*x)),
            }
        }};
    }
    match function {
        Activation::Silu => go!(|x: f32| x * sigmoid::<FMA>(x)),
        Activation::Gelu => go!(gelu::<FMA>),
        // `max` would turn NaN into 0.
        Activation::Relu => go!(|x: f32| if x < 0.0 { 0.0 } else { x }),
        Activation::Relu2 => go!(|x: f32| if x < 0.0 { 0.0 } else { x * x }),
        Activation::Sigmoid => go!(sigmoid::<FMA>),
        Activation::Tanh => go!(tanh::<FMA>),
        Activation::Exp => go!(exp::<FMA>),
        Activation::ClampedSwiglu { limit, alpha } => {
            for (y, (g, u)) in y.iter_mut().zip(gate.iter().zip(up.unwrap_or(&[]))) {
                let g = if *g > limit { limit } else { *g };
                *y = g * sigmoid::<FMA>(alpha * g) * (u.clamp(-limit, limit) + 1.0);
            }
        }
    }
}

/// `x = f(x)` with SiLU.
#[inline(always)]
pub(super) fn silu<const FMA: bool>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x *= sigmoid::<FMA>(*x));
}

/// `y = cap tanh(x / cap)`.
#[inline(always)]
pub(super) fn soft_cap<const FMA: bool>(cap: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = cap * tanh::<FMA>(x / cap));
}

/// `y = softplus(y)`.
#[inline(always)]
pub(super) fn softplus_in_place<const FMA: bool>(y: &mut [f32]) {
    y.iter_mut().for_each(|y| *y = softplus::<FMA>(*y));
}

/// `y = e^x`.
#[inline(always)]
pub(super) fn exp_all<const FMA: bool>(x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = exp::<FMA>(*x));
}

/// `y += a * b`, elementwise.
#[inline(always)]
pub(super) fn multiply_add<const FMA: bool>(a: &[f32], b: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y = fma::<FMA>(*a, *b, *y));
}

/// One token of a scan for some rows of a head's state.
pub(crate) struct ScanToken<'a> {
    /// Factor on the state: one, or one a key channel.
    pub decay: &'a [f32],
    pub k: &'a [f32],
    /// Reads the result.
    pub r: &'a [f32],
    /// Values of the rows.
    pub v: &'a [f32],
    /// Factor on the values.
    pub factor: f32,
    /// `(a, b)`: what `a` reads before is added along `b`.
    pub change: Option<(&'a [f32], &'a [f32])>,
    /// The result is read before, and this times the value added.
    pub bonus: Option<f32>,
}

/// For each row `s` of `state`: `s = decay s + (s . a) b + factor v k; y = s . r`.
#[inline(always)]
pub(super) fn scan_rows<const FMA: bool>(token: &ScanToken<'_>, state: &mut [f32], y: &mut [f32]) {
    let dot = |a: &[f32], b: &[f32]| {
        let mut acc = [0f32; 8];
        for (a, b) in a.chunks(8).zip(b.chunks(8)) {
            acc.iter_mut().zip(a.iter().zip(b)).for_each(|(acc, (a, b))| *acc = fma::<FMA>(*a, *b, *acc));
        }
        tree(acc)
    };
    for (s, (v, y)) in state.chunks_exact_mut(token.k.len()).zip(token.v.iter().zip(y)) {
        if let Some(bonus) = token.bonus {
            *y = fma::<FMA>(bonus, *v, dot(s, token.r));
        }
        let change = token.change.map(|(a, b)| (dot(s, a), b));
        match token.decay {
            [one] => s.iter_mut().for_each(|s| *s *= one),
            each => s.iter_mut().zip(each).for_each(|(s, d)| *s *= d),
        }
        if let Some((z, b)) = change {
            s.iter_mut().zip(b).for_each(|(s, b)| *s = fma::<FMA>(z, *b, *s));
        }
        let value = token.factor * v;
        s.iter_mut().zip(token.k).for_each(|(s, k)| *s = fma::<FMA>(value, *k, *s));
        if token.bonus.is_none() {
            *y = dot(s, token.r);
        }
    }
}

/// What one row and head has summed over the blocks of keys so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// The largest score.
    pub max: f32,
    /// The sum of the weights, relative to it.
    pub total: f32,
}

/// One block of an online softmax: turns the products `scores[from..to]` into weights relative to
/// the new maximum, and all others into 0. Returns the factor on what was summed before.
#[inline(always)]
pub(super) fn softmax_block<const FMA: bool>(
    scores: &mut [f32; PAGE],
    seen: (usize, usize),
    scale: f32,
    soft_cap: Option<f32>,
    sum: &mut Softmax,
) -> f32 {
    let (from, to) = (seen.0.min(PAGE), seen.1.min(PAGE));
    for (j, s) in scores.iter_mut().enumerate() {
        *s = if j >= from && j < to { *s * scale } else { f32::NEG_INFINITY };
    }
    if let Some(cap) = soft_cap {
        scores[from..to].iter_mut().for_each(|s| *s = cap * tanh::<FMA>(*s / cap));
    }
    let mut highs = [f32::NEG_INFINITY; 8];
    for s in scores.chunks_exact(8) {
        for (high, s) in highs.iter_mut().zip(s) {
            *high = if *s > *high { *s } else { *high };
        }
    }
    let max = highs.iter().fold(sum.max, |a, &b| if b > a { b } else { a });
    let shrink = exp::<FMA>(sum.max - max);
    let mut acc = [0f32; 8];
    for s in scores.chunks_exact_mut(8) {
        for (acc, s) in acc.iter_mut().zip(s) {
            *s = if *s == f32::NEG_INFINITY { 0.0 } else { exp::<FMA>(*s - max) };
            *acc += *s;
        }
    }
    *sum = Softmax { max, total: fma::<FMA>(sum.total, shrink, tree(acc)) };
    shrink
}

/// The largest magnitude. NaN counts as larger than anything, so that it is not lost.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff)))
}

/// Rounds to 8 bits in groups of `LEN`, and sums the results in groups of 16 and 32.
#[inline(always)]
fn quantize<const LEN: usize>(x: &[f32], q: &mut [i8], scale: &mut f32) {
    let max = largest(x);
    // Groups this small are zero: their inverse would overflow. NaN goes on.
    let (d, inverse) = if max < 1e-30 { (0.0, 0.0) } else { (max / 127.0, 127.0 / max) };
    for (q, x) in q.iter_mut().zip(x) {
        // The sum's low bits are the whole number.
        *q = (x * inverse + ROUND).to_bits() as i8;
    }
    *scale = d;
}

/// 8 bits with a scale a group of 32, and the sums of the groups.
#[inline(always)]
pub(super) fn quantize_32<const FMA: bool>(x: &[f32], row: QuantRowMut<'_>) {
    let groups = x.chunks_exact(32).zip(row.q.chunks_exact_mut(32));
    for ((x, q), (d, sum)) in groups.zip(row.d.iter_mut().zip(row.sums)) {
        quantize::<32>(x, q, d);
        *sum = q.iter().map(|&q| i16::from(q)).sum();
    }
}

/// 8 bits with a scale a group of 256; the sums are those of the 16 parts of 16, then of the 8 of 32.
#[inline(always)]
pub(super) fn quantize_256<const FMA: bool>(x: &[f32], row: QuantRowMut<'_>) {
    let groups = x.chunks_exact(256).zip(row.q.chunks_exact_mut(256));
    for ((x, q), (d, sums)) in groups.zip(row.d.iter_mut().zip(row.sums.chunks_exact_mut(24))) {
        quantize::<256>(x, q, d);
        let (sixteens, thirty_twos) = sums.split_at_mut(16);
        for (sum, q) in sixteens.iter_mut().zip(q.chunks_exact(16)) {
            *sum = q.iter().map(|&q| i16::from(q)).sum();
        }
        for (sum, pair) in thirty_twos.iter_mut().zip(sixteens.chunks_exact(2)) {
            *sum = pair[0] + pair[1];
        }
    }
}

/// Scale and whole numbers of 32 values: `d` is `scale(largest)` as a half, the numbers lie between `low` and `high`.
/// As `segno_quant::store_row` has it, bit for bit.
#[inline(always)]
fn store_block(x: &[f32; 32], low: f32, high: f32, scale: impl Fn(f32) -> f32) -> (F16Le, [i8; 32]) {
    let size = largest(x);
    let first = x.iter().find(|x| x.abs().to_bits() == size.to_bits()).unwrap_or(&0.0);
    let stored = F16Le::saturating(scale(if size == 0.0 { 0.0 } else { *first }));
    let (d, mut q) = (stored.get(), [0; 32]);
    if d != 0.0 {
        for (q, x) in q.iter_mut().zip(x) {
            *q = ((x / d).clamp(low, high) + ROUND).to_bits() as i8;
        }
    }
    (stored, q)
}

/// Stores values as blocks of Q8_0.
#[inline(always)]
pub(super) fn store_q8_0<const FMA: bool>(x: &[f32], out: &mut [u8]) {
    for (x, block) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<34>().0) {
        let (d, q) = store_block(x, -127.0, 127.0, |largest| largest.abs() / 127.0);
        block[..2].copy_from_slice(&d.0);
        block[2..].iter_mut().zip(q).for_each(|(byte, q)| *byte = q as u8);
    }
}

/// Stores values as blocks of Q4_0.
#[inline(always)]
pub(super) fn store_q4_0<const FMA: bool>(x: &[f32], out: &mut [u8]) {
    for (x, block) in x.as_chunks().0.iter().zip(out.as_chunks_mut::<18>().0) {
        let (d, q) = store_block(x, -8.0, 7.0, |largest| largest / -8.0);
        block[..2].copy_from_slice(&d.0);
        // NaN may leave any bits.
        let code = |i: usize| q[i].wrapping_add(8) as u8 & 15;
        block[2..].iter_mut().enumerate().for_each(|(i, byte)| *byte = code(i) | code(i + 16) << 4);
    }
}
