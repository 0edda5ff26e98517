//! Products with weights in blocks of 32: see `simd::block` for what is computed.
//!
//! A panel holds eight outputs, block after block: eight scales, eight minima if the format has
//! them, then the integers of four inputs at a time, output after output.

use std::arch::x86_64::{
    __m256, __m256i, _mm_and_si128, _mm_loadu_si128, _mm_set1_epi8, _mm_srli_epi16, _mm256_abs_epi8, _mm256_add_epi16,
    _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8, _mm256_cvtepi32_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps,
    _mm256_or_si256, _mm256_set_m128i, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_epi64x,
    _mm256_set1_ps, _mm256_setr_epi64x, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sign_epi8,
    _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32,
};

use segno_quant::block::BlockMxfp4;
use segno_quant::{TensorType, grid};

use super::super::block::{BlockKernels, Iq4Nl, Mxfp4, PanelKernels, Q40, Q41, Q50, Q51, Q80, TALL, WIDE, WeightRows};
use super::super::quant::{QuantRow, Rounding};
use super::{halves, prefetch, sums_of_eight, transpose};
use crate::simd::block::Block32;

/// How the integers of a format are multiplied.
trait Format: Block32 {
    /// Taken off the integers as they are stored.
    const OFFSET: i32;
    /// Products of pairs whose sum fits 16 bits; 1 also says that the integers have a sign.
    const PAIRS: usize;
    /// The integers of a block in order, without a sign unless `PAIRS` is 1.
    ///
    /// # Safety
    /// The block's bytes can be read; the caller has AVX2.
    unsafe fn ints(block: *const u8) -> __m256i;
    /// The scales of eight blocks.
    ///
    /// # Safety
    /// As for [`ints`](Self::ints).
    #[inline(always)]
    unsafe fn scales(blocks: [*const u8; WIDE]) -> __m256 {
        // SAFETY: a block begins with its scale, a half.
        unsafe { halves(blocks) }
    }
}

/// 16 bytes of nibbles: the low ones, then the high ones.
///
/// # Safety
/// 16 bytes can be read; the caller has AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let (both, mask) = (_mm_loadu_si128(at.cast()), _mm_set1_epi8(15));
        _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16::<4>(both), mask), _mm_and_si128(both, mask))
    }
}

/// 16 where the bit of an element is set.
///
/// # Safety
/// Four bytes can be read; the caller has AVX2.
#[inline(always)]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let bits = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let one = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, spread), one), one);
        _mm256_and_si256(set, _mm256_set1_epi8(16))
    }
}

impl Format for Q40 {
    const OFFSET: i32 = 8;
    const PAIRS: usize = 8;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        // SAFETY: within the block.
        unsafe { nibbles(block.add(2)) }
    }
}

impl Format for Q41 {
    const OFFSET: i32 = 0;
    const PAIRS: usize = 8;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        // SAFETY: within the block.
        unsafe { nibbles(block.add(4)) }
    }
}

impl Format for Q50 {
    const OFFSET: i32 = 16;
    const PAIRS: usize = 4;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        // SAFETY: within the block.
        unsafe { _mm256_or_si256(nibbles(block.add(6)), fifth_bits(block.add(2))) }
    }
}

impl Format for Q51 {
    const OFFSET: i32 = 0;
    const PAIRS: usize = 4;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        // SAFETY: within the block.
        unsafe { _mm256_or_si256(nibbles(block.add(8)), fifth_bits(block.add(4))) }
    }
}

impl Format for Q80 {
    const OFFSET: i32 = 0;
    const PAIRS: usize = 1;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        // SAFETY: within the block.
        unsafe { _mm256_loadu_si256(block.add(2).cast()) }
    }
}

/// What nibbles stand for, of 16 steps.
///
/// # Safety
/// The caller has AVX2.
#[inline(always)]
pub(super) unsafe fn stepped(steps: &[i8; 16], nibbles: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(steps.as_ptr().cast())), nibbles) }
}

impl Format for Iq4Nl {
    const OFFSET: i32 = 0;
    const PAIRS: usize = 1;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        // SAFETY: within the block.
        unsafe { stepped(&grid::IQ4_STEPS, nibbles(block.add(2))) }
    }
}

impl Format for Mxfp4 {
    const OFFSET: i32 = 12;
    const PAIRS: usize = 4;
    #[inline(always)]
    unsafe fn ints(block: *const u8) -> __m256i {
        const STEPS: [i8; 16] = {
            let (mut steps, mut i) = (grid::E2M1_DOUBLED, 0);
            while i < 16 {
                steps[i] += Mxfp4::OFFSET as i8;
                i += 1;
            }
            steps
        };
        // SAFETY: within the block.
        unsafe { stepped(&STEPS, nibbles(block.add(1))) }
    }
    #[inline(always)]
    unsafe fn scales(blocks: [*const u8; WIDE]) -> __m256 {
        // SAFETY: the first byte of each block; eight floats.
        unsafe { _mm256_loadu_ps(blocks.map(|block| BlockMxfp4::scale(*block)).as_ptr()) }
    }
}

/// Sums of products of four neighbours. -128 is right, too: its magnitude is taken without a sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fours(w: __m256i, x: __m256i, signed: bool) -> __m256i {
    let pairs = match signed {
        true => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)),
        false => _mm256_maddubs_epi16(w, x),
    };
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Checks what the loops rely on, and gives the number of blocks.
fn blocks_of<F: Format>(w: &WeightRows<'_>, x: Option<&QuantRow<'_>>) -> usize {
    let n = w.stride / F::BYTES;
    assert!(w.n >= 1 && w.n <= WIDE && w.bytes.len() >= w.n * w.stride);
    assert!(x.is_none_or(|x| x.q.len() >= n * 32 && x.d.len() >= n && x.sums.len() >= n));
    n
}

fn dot<F: Format>(w: &WeightRows<'_>, x: QuantRow<'_>, y: &mut [f32; WIDE]) {
    let n = blocks_of::<F>(w, Some(&x));
    // SAFETY: the features are there (see the module), and the sizes were checked.
    unsafe { dot_of::<F>(w, x, y, n) }
}

/// # Safety
/// There are `n` blocks in every row.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_of<F: Format>(w: &WeightRows<'_>, x: QuantRow<'_>, y: &mut [f32; WIDE], n: usize) {
    let rows: [*const u8; WIDE] = std::array::from_fn(|o| w.row(o).as_ptr());
    let mut acc = _mm256_setzero_ps();
    for b in 0..n {
        // SAFETY: block `b < n` of each row, group `b` of the activations.
        unsafe {
            let q = _mm256_loadu_si256(x.q.as_ptr().add(32 * b).cast());
            let at = b * F::BYTES;
            let mut sums = [_mm256_setzero_si256(); WIDE];
            let line = b % (64 / F::BYTES) == 0;
            for o in 0..WIDE {
                if line {
                    prefetch(rows[o].wrapping_add(WIDE * w.stride + at), 64);
                }
                sums[o] = fours(F::ints(rows[o].add(at)), q, F::PAIRS == 1);
            }
            let (dx, sum) = (*x.d.get_unchecked(b), *x.sums.get_unchecked(b));
            let mut total = sums_of_eight(sums);
            if F::OFFSET != 0 {
                total = _mm256_sub_epi32(total, _mm256_set1_epi32(F::OFFSET * i32::from(sum)));
            }
            let d = F::scales(rows.map(|row| row.add(at)));
            acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(d, _mm256_set1_ps(dx)), acc);
            if F::MIN {
                let m = halves(rows.map(|row| row.add(at + 2)));
                acc = _mm256_fmadd_ps(m, _mm256_set1_ps(dx * f32::from(sum)), acc);
            }
        }
    }
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), acc) }
}

/// Bytes of a block of a panel.
const fn panel_block<F: Format>() -> usize {
    (if F::MIN { 64 } else { 32 }) + 32 * WIDE
}

fn panel_bytes<F: Format>(n: usize) -> usize {
    n / 32 * panel_block::<F>()
}

fn pack<F: Format>(w: &WeightRows<'_>, panel: &mut [u8]) {
    let n = blocks_of::<F>(w, None);
    assert!(panel.len() >= n * panel_block::<F>());
    // SAFETY: the features are there (see the module), and the sizes were checked.
    unsafe { pack_of::<F>(w, panel, n) }
}

/// # Safety
/// There are `n` blocks in every row, and room for as many.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_of<F: Format>(w: &WeightRows<'_>, panel: &mut [u8], n: usize) {
    let rows: [*const u8; WIDE] = std::array::from_fn(|o| w.row(o).as_ptr());
    let mut to = panel.as_mut_ptr();
    for b in 0..n {
        // SAFETY: block `b < n` of each row, and of the panel.
        unsafe {
            let blocks = rows.map(|row| row.add(b * F::BYTES));
            _mm256_storeu_ps(to.cast(), F::scales(blocks));
            to = to.add(32);
            if F::MIN {
                _mm256_storeu_ps(to.cast(), halves(blocks.map(|block| block.add(2))));
                to = to.add(32);
            }
            let mut ints = [_mm256_setzero_si256(); WIDE];
            for o in 0..WIDE {
                ints[o] = F::ints(blocks[o]);
            }
            for part in transpose(ints) {
                _mm256_storeu_si256(to.cast(), part);
                to = to.add(32);
            }
        }
    }
}

fn product<F: Format>(panel: &[u8], x: &[QuantRow<'_>], y: &mut [[f32; WIDE]; TALL]) {
    let n = panel.len() / panel_block::<F>();
    assert!(x.len() <= TALL && x.iter().all(|x| x.q.len() >= n * 32 && x.d.len() >= n && x.sums.len() >= n));
    // SAFETY: the features are there (see the module), and the sizes were checked.
    unsafe {
        match x.len() {
            0 => (),
            1 => product_of::<F, 1>(panel, x, y, n),
            2 => product_of::<F, 2>(panel, x, y, n),
            3 => product_of::<F, 3>(panel, x, y, n),
            _ => product_of::<F, 4>(panel, x, y, n),
        }
    }
}

/// # Safety
/// There are `n` blocks in the panel and as many groups in each of `R` rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product_of<F: Format, const R: usize>(
    panel: &[u8],
    x: &[QuantRow<'_>],
    y: &mut [[f32; WIDE]; TALL],
    n: usize,
) {
    let mut acc = [_mm256_setzero_ps(); R];
    let mut from = panel.as_ptr();
    let ones = _mm256_set1_epi16(1);
    // SAFETY: block `b < n` of the panel, group `b` of each row.
    unsafe {
        let q: [*const i8; R] = std::array::from_fn(|r| x.get_unchecked(r).q.as_ptr());
        for b in 0..n {
            let d = _mm256_loadu_ps(from.cast());
            from = from.add(32);
            let m = if F::MIN { _mm256_loadu_ps(from.cast()) } else { _mm256_setzero_ps() };
            from = from.add(if F::MIN { 32 } else { 0 });
            let mut totals = [_mm256_setzero_si256(); R];
            if F::PAIRS == 1 {
                for step in 0..8 {
                    let w = _mm256_loadu_si256(from.add(32 * step).cast());
                    let size = _mm256_abs_epi8(w);
                    for r in 0..R {
                        let four = _mm256_set1_epi32(q[r].add(32 * b + 4 * step).cast::<i32>().read_unaligned());
                        let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four, w));
                        totals[r] = _mm256_add_epi32(totals[r], _mm256_madd_epi16(pairs, ones));
                    }
                }
            } else {
                for part in 0..8 / F::PAIRS {
                    let mut pairs = [_mm256_setzero_si256(); R];
                    for step in part * F::PAIRS..(part + 1) * F::PAIRS {
                        let w = _mm256_loadu_si256(from.add(32 * step).cast());
                        for r in 0..R {
                            let four = _mm256_set1_epi32(q[r].add(32 * b + 4 * step).cast::<i32>().read_unaligned());
                            pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(w, four));
                        }
                    }
                    for r in 0..R {
                        totals[r] = _mm256_add_epi32(totals[r], _mm256_madd_epi16(pairs[r], ones));
                    }
                }
            }
            from = from.add(32 * WIDE);
            for r in 0..R {
                let (dx, sum) = (*x.get_unchecked(r).d.get_unchecked(b), *x.get_unchecked(r).sums.get_unchecked(b));
                if F::OFFSET != 0 {
                    totals[r] = _mm256_sub_epi32(totals[r], _mm256_set1_epi32(F::OFFSET * i32::from(sum)));
                }
                acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[r]), _mm256_mul_ps(d, _mm256_set1_ps(dx)), acc[r]);
                if F::MIN {
                    acc[r] = _mm256_fmadd_ps(m, _mm256_set1_ps(dx * f32::from(sum)), acc[r]);
                }
            }
        }
        for r in 0..R {
            _mm256_storeu_ps(y[r].as_mut_ptr(), acc[r]);
        }
    }
}

fn of<F: Format>() -> Option<BlockKernels> {
    let panel = PanelKernels { bytes: panel_bytes::<F>, pack: pack::<F>, product: product::<F> };
    Some(BlockKernels { rounding: Rounding::Groups32, dot: dot::<F>, panel: Some(panel) })
}

/// The kernels of a type with blocks of 32.
pub(super) fn kernels(ty: TensorType) -> Option<BlockKernels> {
    match ty {
        TensorType::Q4_0 => of::<Q40>(),
        TensorType::Q4_1 => of::<Q41>(),
        TensorType::Q5_0 => of::<Q50>(),
        TensorType::Q5_1 => of::<Q51>(),
        TensorType::Q8_0 => of::<Q80>(),
        TensorType::IQ4_NL => of::<Iq4Nl>(),
        TensorType::MXFP4 => of::<Mxfp4>(),
        _ => None,
    }
}
