//! Products of float rows: what is computed, and the portable form.
//!
//! A product keeps eight lanes by index modulo 8 and adds them in a fixed tree; every tile shares
//! that order.

use super::lanes::tree;
use super::math::fma;
use crate::memory::Shared;

/// Keys of a page.
pub(crate) const PAGE: usize = segno_ir::PAGE_TOKENS as usize;

/// How a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatType {
    F32,
    F16,
    BF16,
}

impl FloatType {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::BF16 => 2,
        }
    }
}

/// Rows of stored numbers at a fixed distance.
#[derive(Clone, Copy)]
pub(crate) struct FloatRows<'a> {
    pub ty: FloatType,
    /// From the first row's start on.
    pub bytes: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Numbers of a row.
    pub n: usize,
}

impl<'a> FloatRows<'a> {
    /// Fails in a caller's defect: rows beyond the bytes.
    pub fn check(&self) {
        let end = self.rows.checked_sub(1).map_or(0, |last| last * self.stride + self.n * self.ty.bytes());
        assert!(end <= self.bytes.len(), "{} rows of {} end beyond {} bytes", self.rows, self.n, self.bytes.len());
    }

    /// Bytes of row `i`.
    pub fn row(&self, i: usize) -> &'a [u8] {
        &self.bytes[i * self.stride..][..self.n * self.ty.bytes()]
    }

    /// Rows `from..to`.
    pub fn part(&self, from: usize, to: usize) -> FloatRows<'a> {
        FloatRows { bytes: &self.bytes[from * self.stride..], rows: to - from, ..*self }
    }
}

/// Rows of f32 at a fixed distance.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// From the first row's start on.
    pub x: &'a [f32],
    /// Floats from row to row.
    pub stride: usize,
    /// Number of rows.
    pub rows: usize,
}

/// Where products go: that of row `r` and output `o` to `offset + r * stride + o`.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    pub y: Shared<'a, f32>,
    pub offset: usize,
    pub stride: usize,
}

impl Outputs<'_> {
    /// Writes a product.
    #[inline(always)]
    pub fn set(&self, r: usize, o: usize, value: f32) {
        // SAFETY: whoever made this gave its places to one thread.
        unsafe { self.y.get_mut(self.offset + r * self.stride + o, 1)[0] = value };
    }
}

/// Calls a generic function with the reader of a type.
macro_rules! with_type {
    ($ty:expr, $f:ident($($arg:expr),*)) => {
        match $ty {
            FloatType::F32 => $f::<4>($($arg),*, |b| f32::from_le_bytes(*b)),
            FloatType::F16 => $f::<2>($($arg),*, |b| half::f16::from_le_bytes(*b).to_f32()),
            FloatType::BF16 => $f::<2>($($arg),*, |b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
        }
    };
}

/// All products of the rows of `x` with those of `w`.
pub(super) fn products(w: &FloatRows<'_>, x: &Inputs<'_>, y: &Outputs<'_>) {
    with_type!(w.ty, products_of(w, x, y))
}

fn products_of<const N: usize>(w: &FloatRows<'_>, x: &Inputs<'_>, y: &Outputs<'_>, read: impl Fn(&[u8; N]) -> f32) {
    w.check();
    for o in 0..w.rows {
        let (row, _) = w.row(o).as_chunks::<N>();
        for r in 0..x.rows {
            let x = &x.x[r * x.stride..][..w.n];
            let mut acc = [0f32; 8];
            for (w, x) in row.chunks(8).zip(x.chunks(8)) {
                for (acc, (w, x)) in acc.iter_mut().zip(w.iter().zip(x)) {
                    *acc = fma::<false>(*x, read(w), *acc);
                }
            }
            y.set(r, o, tree(acc));
        }
    }
}

/// Values weighted by a block of an online softmax.
pub(crate) struct Weighted<'a> {
    /// The values `v` of a page's tokens.
    pub v: FloatRows<'a>,
    /// Tokens of the page that are seen: first, and one past the last.
    pub seen: (usize, usize),
    /// For each query the weight of each token.
    pub weights: &'a [[f32; PAGE]],
    /// For each query the factor on what was summed before.
    pub shrink: &'a [f32],
}

/// `y = shrink y + sum_j weight_j v_j` for each query, in token order. `y` is `[query, d_v]`.
pub(super) fn weighted_sums(w: &Weighted<'_>, y: &mut [f32]) {
    with_type!(w.v.ty, weighted_sums_of(w, y))
}

fn weighted_sums_of<const N: usize>(w: &Weighted<'_>, y: &mut [f32], read: impl Fn(&[u8; N]) -> f32) {
    for (query, y) in y.chunks_exact_mut(w.v.n).enumerate() {
        y.iter_mut().for_each(|y| *y *= w.shrink[query]);
        for j in w.seen.0..w.seen.1 {
            let (v, _) = w.v.row(j).as_chunks::<N>();
            y.iter_mut().zip(v).for_each(|(y, v)| *y = fma::<false>(w.weights[query][j], read(v), *y));
        }
    }
}

/// One token of the delta rule for some rows of a head's state.
pub(crate) struct DeltaToken<'a> {
    /// Factor on the state: one, or one a key channel.
    pub decay: &'a [f32],
    pub k: &'a [f32],
    pub q: &'a [f32],
    /// Values of the rows.
    pub v: &'a [f32],
    pub beta: f32,
    pub scale: f32,
}

/// For each row `s` of `state`: `s *= decay; s += k beta (v - s . k); y = scale s . q`, products with
/// eight lanes.
pub(super) fn delta_rows(t: &DeltaToken<'_>, state: &mut [f32], y: &mut [f32]) {
    delta_rows_of::<false>(t, state, y);
}

/// [`delta_rows`] for any length of keys.
#[inline(always)]
pub(super) fn delta_rows_of<const FMA: bool>(t: &DeltaToken<'_>, state: &mut [f32], y: &mut [f32]) {
    let dot = |a: &[f32], b: &[f32]| {
        let mut acc = [0f32; 8];
        for (a, b) in a.chunks(8).zip(b.chunks(8)) {
            acc.iter_mut().zip(a.iter().zip(b)).for_each(|(acc, (a, b))| *acc = fma::<FMA>(*a, *b, *acc));
        }
        tree(acc)
    };
    for (s, (v, y)) in state.chunks_exact_mut(t.k.len()).zip(t.v.iter().zip(y)) {
        match t.decay {
            [one] => s.iter_mut().for_each(|s| *s *= one),
            each => s.iter_mut().zip(each).for_each(|(s, d)| *s *= d),
        }
        let delta = t.beta * (v - dot(s, t.k));
        s.iter_mut().zip(t.k).for_each(|(s, k)| *s = fma::<FMA>(delta, *k, *s));
        *y = dot(s, t.q) * t.scale;
    }
}
