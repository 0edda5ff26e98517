//! Products of float rows.

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::super::float::{DeltaToken, FloatRows, FloatType, Inputs, Outputs, PAGE, Weighted, delta_rows_of};
use super::{prefetch, sum_lanes};

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Bytes of a number of type `T`.
const fn size(ty: u8) -> usize {
    if ty == F32 { 4 } else { 2 }
}

/// Eight stored numbers.
///
/// # Safety
/// They can be read at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<const T: u8>(at: *const u8) -> __m256 {
    // SAFETY: as promised by the caller; the loads need no alignment.
    unsafe {
        match T {
            F32 => _mm256_loadu_ps(at.cast()),
            F16 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
            _ => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))),
        }
    }
}

/// The first `n < 8` of eight stored numbers, then zeros.
///
/// # Safety
/// They can be read at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_some<const T: u8>(at: *const u8, n: usize) -> __m256 {
    let mut bytes = [0u8; 32];
    // SAFETY: `n` numbers can be read, and eight fit the buffer.
    unsafe {
        std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), n * size(T));
        load::<T>(bytes.as_ptr())
    }
}

pub(in super::super) fn products(w: &FloatRows<'_>, x: &Inputs<'_>, y: &Outputs<'_>) {
    w.check();
    if w.rows == 0 || x.rows == 0 {
        return;
    }
    assert!((x.rows - 1) * x.stride + w.n <= x.x.len(), "{} rows of {} end beyond {}", x.rows, w.n, x.x.len());
    // SAFETY: the features are there (see the module), and the sizes were checked.
    unsafe {
        match w.ty {
            FloatType::F32 => tiles::<F32>(w, x, y),
            FloatType::F16 => tiles::<F16>(w, x, y),
            FloatType::BF16 => tiles::<BF16>(w, x, y),
        }
    }
}

/// # Safety
/// The rows lie within their slices.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles<const T: u8>(w: &FloatRows<'_>, x: &Inputs<'_>, y: &Outputs<'_>) {
    // Few rows: more outputs at once keep the multipliers busy.
    let wide = if x.rows < 3 { 4 } else { 3 };
    let mut o = 0;
    while o < w.rows {
        let n_o = wide.min(w.rows - o);
        let mut r = 0;
        while r < x.rows {
            let n_r = 4.min(x.rows - r);
            // SAFETY: rows and outputs of the tile are within those given.
            unsafe {
                match (n_r, n_o) {
                    (4, 3) => tile::<T, 4, 3>(w, x, y, r, o),
                    (4, 2) => tile::<T, 4, 2>(w, x, y, r, o),
                    (4, _) => tile::<T, 4, 1>(w, x, y, r, o),
                    (3, 3) => tile::<T, 3, 3>(w, x, y, r, o),
                    (3, 2) => tile::<T, 3, 2>(w, x, y, r, o),
                    (3, _) => tile::<T, 3, 1>(w, x, y, r, o),
                    (2, 4) => tile::<T, 2, 4>(w, x, y, r, o),
                    (2, 3) => tile::<T, 2, 3>(w, x, y, r, o),
                    (2, 2) => tile::<T, 2, 2>(w, x, y, r, o),
                    (2, _) => tile::<T, 2, 1>(w, x, y, r, o),
                    (_, 4) => tile::<T, 1, 4>(w, x, y, r, o),
                    (_, 3) => tile::<T, 1, 3>(w, x, y, r, o),
                    (_, 2) => tile::<T, 1, 2>(w, x, y, r, o),
                    _ => tile::<T, 1, 1>(w, x, y, r, o),
                }
            }
            r += n_r;
        }
        o += n_o;
    }
}

/// Products of `R` rows with `O` outputs.
///
/// # Safety
/// They lie within their slices.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const T: u8, const R: usize, const O: usize>(
    w: &FloatRows<'_>,
    x: &Inputs<'_>,
    y: &Outputs<'_>,
    r: usize,
    o: usize,
) {
    // SAFETY: every access below is to element `i < n` of a row that the caller vouches for.
    unsafe {
        let w_rows: [*const u8; O] = std::array::from_fn(|k| w.bytes.as_ptr().add((o + k) * w.stride));
        let x_rows: [*const f32; R] = std::array::from_fn(|k| x.x.as_ptr().add((r + k) * x.stride));
        let mut acc = [[_mm256_setzero_ps(); O]; R];
        let body = w.n / 8 * 8;
        let mut i = 0;
        while i < body {
            let mut ws = [_mm256_setzero_ps(); O];
            for k in 0..O {
                // In a step of many rows they are in the cache already.
                if R == 1 && (i * size(T)).is_multiple_of(64) {
                    prefetch(w_rows[k].wrapping_add(O * w.stride + i * size(T)), 64);
                }
                ws[k] = load::<T>(w_rows[k].add(i * size(T)));
            }
            for l in 0..R {
                let xs = _mm256_loadu_ps(x_rows[l].add(i));
                for k in 0..O {
                    acc[l][k] = _mm256_fmadd_ps(xs, ws[k], acc[l][k]);
                }
            }
            i += 8;
        }
        if body < w.n {
            for l in 0..R {
                let xs = load_some::<F32>(x_rows[l].add(body).cast(), w.n - body);
                for k in 0..O {
                    let ws = load_some::<T>(w_rows[k].add(body * size(T)), w.n - body);
                    acc[l][k] = _mm256_fmadd_ps(xs, ws, acc[l][k]);
                }
            }
        }
        for l in 0..R {
            for k in 0..O {
                y.set(r + l, o + k, sum_lanes(acc[l][k]));
            }
        }
    }
}

pub(in super::super) fn weighted_sums(w: &Weighted<'_>, y: &mut [f32]) {
    w.v.check();
    let queries = y.len() / w.v.n.max(1);
    assert!(w.seen.1 <= w.v.rows.min(PAGE) && queries <= w.weights.len() && queries <= w.shrink.len());
    // SAFETY: the features are there (see the module), and the sizes were checked.
    unsafe {
        match w.v.ty {
            FloatType::F32 => sums::<F32>(w, y, queries),
            FloatType::F16 => sums::<F16>(w, y, queries),
            FloatType::BF16 => sums::<BF16>(w, y, queries),
        }
    }
}

/// # Safety
/// Tokens up to `seen.1` can be read, and there are so many queries.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums<const T: u8>(w: &Weighted<'_>, y: &mut [f32], queries: usize) {
    let mut query = 0;
    while query < queries {
        // SAFETY: as promised by the caller.
        unsafe {
            if query + 4 <= queries {
                sums_of::<T, 4>(w, y, query);
                query += 4;
            } else {
                sums_of::<T, 1>(w, y, query);
                query += 1;
            }
        }
    }
}

/// The sums of `Q` queries.
///
/// # Safety
/// As for [`sums`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sums_of<const T: u8, const Q: usize>(w: &Weighted<'_>, y: &mut [f32], query: usize) {
    let n = w.v.n;
    let mut d = 0;
    // SAFETY: columns `d` stay below `n`, tokens are those seen, queries those promised.
    unsafe {
        while d + 16 <= n {
            columns::<T, Q, 2>(w, y, query, d);
            d += 16;
        }
        while d + 8 <= n {
            columns::<T, Q, 1>(w, y, query, d);
            d += 8;
        }
        if d < n {
            for q in query..query + Q {
                let part = &mut y[q * n + d..(q + 1) * n];
                let mut padded = [0f32; 8];
                padded[..part.len()].copy_from_slice(part);
                let mut acc = _mm256_mul_ps(_mm256_loadu_ps(padded.as_ptr()), _mm256_set1_ps(w.shrink[q]));
                for j in w.seen.0..w.seen.1 {
                    let v = load_some::<T>(w.v.bytes.as_ptr().add(j * w.v.stride + d * size(T)), part.len());
                    acc = _mm256_fmadd_ps(_mm256_set1_ps(w.weights[q][j]), v, acc);
                }
                _mm256_storeu_ps(padded.as_mut_ptr(), acc);
                part.copy_from_slice(&padded[..n - d]);
            }
        }
    }
}

/// Columns `d..d + 8 C` of `Q` queries.
///
/// # Safety
/// As for [`sums`], and the columns are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<const T: u8, const Q: usize, const C: usize>(
    w: &Weighted<'_>,
    y: &mut [f32],
    query: usize,
    d: usize,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let at: [*mut f32; Q] = std::array::from_fn(|q| y.as_mut_ptr().add((query + q) * w.v.n + d));
        let mut acc = [[_mm256_setzero_ps(); C]; Q];
        for q in 0..Q {
            let shrink = _mm256_set1_ps(w.shrink[query + q]);
            for c in 0..C {
                acc[q][c] = _mm256_mul_ps(_mm256_loadu_ps(at[q].add(8 * c)), shrink);
            }
        }
        for j in w.seen.0..w.seen.1 {
            let from = w.v.bytes.as_ptr().add(j * w.v.stride + d * size(T));
            let mut v = [_mm256_setzero_ps(); C];
            for c in 0..C {
                v[c] = load::<T>(from.add(8 * c * size(T)));
            }
            for q in 0..Q {
                let weight = _mm256_set1_ps(*w.weights.get_unchecked(query + q).get_unchecked(j));
                for c in 0..C {
                    acc[q][c] = _mm256_fmadd_ps(weight, v[c], acc[q][c]);
                }
            }
        }
        for q in 0..Q {
            for c in 0..C {
                _mm256_storeu_ps(at[q].add(8 * c), acc[q][c]);
            }
        }
    }
}

pub(in super::super) fn delta_rows(t: &DeltaToken<'_>, state: &mut [f32], y: &mut [f32]) {
    let d_k = t.k.len();
    let rows = y.len();
    assert!(
        t.q.len() == d_k
            && state.len() == rows * d_k
            && t.v.len() == rows
            && (t.decay.len() == 1 || t.decay.len() == d_k)
    );
    // SAFETY: the features are there (see the module), and the sizes were checked.
    unsafe {
        if !d_k.is_multiple_of(8) {
            return delta_any(t, state, y);
        }
        let mut i = 0;
        while i < rows {
            match (rows - i >= 4, t.decay.len() == 1) {
                (true, true) => delta::<4, true>(t, state, y, i),
                (true, false) => delta::<4, false>(t, state, y, i),
                (false, true) => delta::<1, true>(t, state, y, i),
                (false, false) => delta::<1, false>(t, state, y, i),
            }
            i += if rows - i >= 4 { 4 } else { 1 };
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn delta_any(t: &DeltaToken<'_>, state: &mut [f32], y: &mut [f32]) {
    delta_rows_of::<true>(t, state, y);
}

/// `R` rows of the state from row `i` on.
///
/// # Safety
/// They are there, all vectors have the length of `k`, a multiple of 8, and so has `decay` unless `ONE`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn delta<const R: usize, const ONE: bool>(t: &DeltaToken<'_>, state: &mut [f32], y: &mut [f32], i: usize) {
    let n = t.k.len();
    // SAFETY: as promised by the caller: rows `i..i + R` of `n` floats, vectors of `n` floats.
    unsafe {
        let rows: [*mut f32; R] = std::array::from_fn(|r| state.as_mut_ptr().add((i + r) * n));
        let (k, q, decays) = (t.k.as_ptr(), t.q.as_ptr(), t.decay.as_ptr());
        let one = _mm256_set1_ps(t.decay[0]);
        let decay = |j: usize| if ONE { one } else { _mm256_loadu_ps(decays.add(j)) };
        let mut acc = [_mm256_setzero_ps(); R];
        let mut j = 0;
        while j < n {
            let (k, decay) = (_mm256_loadu_ps(k.add(j)), decay(j));
            for r in 0..R {
                acc[r] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_loadu_ps(rows[r].add(j)), decay), k, acc[r]);
            }
            j += 8;
        }
        let mut delta = [_mm256_setzero_ps(); R];
        for r in 0..R {
            delta[r] = _mm256_set1_ps(t.beta * (t.v[i + r] - sum_lanes(acc[r])));
            acc[r] = _mm256_setzero_ps();
        }
        j = 0;
        while j < n {
            let (k, q, decay) = (_mm256_loadu_ps(k.add(j)), _mm256_loadu_ps(q.add(j)), decay(j));
            for r in 0..R {
                let s = _mm256_fmadd_ps(delta[r], k, _mm256_mul_ps(_mm256_loadu_ps(rows[r].add(j)), decay));
                _mm256_storeu_ps(rows[r].add(j), s);
                acc[r] = _mm256_fmadd_ps(s, q, acc[r]);
            }
            j += 8;
        }
        for r in 0..R {
            y[i + r] = sum_lanes(acc[r]) * t.scale;
        }
    }
}
