//! Products with weights in blocks of 256: see `simd::block` for what is computed.
//!
//! A panel holds eight outputs, block after block: eight scales; eight scales of the minima if the
//! format has them; 16-bit scales, twice for each output; 16-bit minima, two parts for each output;
//! then the integers of four inputs at a time, output after output.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_and_si128, _mm_cvtepu8_epi16, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm_loadu_si128,
    _mm_madd_epi16, _mm_set_epi8, _mm_set1_epi8, _mm_setr_epi32, _mm_shuffle_epi8, _mm_srli_epi16, _mm_sub_epi8,
    _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sign_epi8,
    _mm256_slli_epi16, _mm256_slli_epi32, _mm256_srl_epi16, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32,
    _mm256_zextsi128_si256,
};

use segno_quant::{TensorType, grid};

use super::super::block::{
    BlockKernels, Iq4Xs, PanelKernels, Q2K, Q3K, Q4K, Q5K, Q6K, TALL, WIDE, WeightRows, iq4_xs_scales, q3_scales,
    sub_blocks,
};
use super::super::quant::{QuantRow, Rounding};
use super::blocks_32::{nibbles as nibbles_32, stepped};
use super::{halves, prefetch, sums_of_eight, transpose};
use crate::simd::block::Block256;

/// How the integers of a format are multiplied.
trait Format: Block256 {
    /// Where the scale stands in a block; that of the minima follows it.
    const D: usize;
    /// Neighbours that share a scale: 32 or 16.
    const PART: usize;
    /// Products of pairs whose sum fits 16 bits; 1 also says that the integers have a sign.
    const PAIRS: usize;

    /// The integers of 32 neighbours, without a sign unless `PAIRS` is 1. What is taken off them
    /// afterwards counts among the minima.
    ///
    /// # Safety
    /// The block's bytes can be read, `k < 8`; the caller has AVX2.
    unsafe fn ints(block: *const u8, k: usize) -> __m256i;

    /// The sums of products of one row with one block: of scaled integers, and of minima. Lanes are
    /// summed by the caller.
    ///
    /// # Safety
    /// Block and activations can be read; the caller has AVX2.
    unsafe fn sums(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i);

    /// Scales and minima of the parts, for a panel.
    fn parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]);
}

/// Shuffles that spread element `k` of eight 16-bit numbers over a vector.
const SPREAD: [[u8; 32]; 8] = {
    let mut all = [[0; 32]; 8];
    let mut k = 0;
    while k < 8 {
        let mut i = 0;
        while i < 32 {
            all[k][i] = (2 * k + i % 2) as u8;
            i += 1;
        }
        k += 1;
    }
    all
};

/// The sums of Q4_K and Q5_K.
///
/// # Safety
/// As for [`Format::sums`].
#[inline(always)]
unsafe fn sub_block_sums<F: Format>(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i) {
    // SAFETY: as promised by the caller: 12 bytes of scales, 256 integers, 24 sums.
    unsafe {
        // Scales and minima of six bits, unpacked four at a time.
        let word = |i: usize| block.add(4 + 4 * i).cast::<u32>().read_unaligned();
        let (a, b, c) = (word(0), word(1), word(2));
        let low = |w: u32| u64::from(w & 0x3f3f_3f3f);
        let scales = low(a) | u64::from((c & 0x0f0f_0f0f) | ((a >> 6) & 0x0303_0303) << 4) << 32;
        let minima = low(b) | u64::from(((c >> 4) & 0x0f0f_0f0f) | ((b >> 6) & 0x0303_0303) << 4) << 32;
        let wide = |packed: u64| _mm_cvtepu8_epi16(_mm_loadl_epi64((&raw const packed).cast()));
        let scales = _mm256_broadcastsi128_si256(wide(scales));
        let min = _mm_madd_epi16(wide(minima), _mm_loadu_si128(sums.add(16).cast()));
        let mut total = _mm256_setzero_si256();
        for k in 0..8 {
            let pairs = _mm256_maddubs_epi16(F::ints(block, k), _mm256_loadu_si256(q.add(32 * k).cast()));
            let scale = _mm256_shuffle_epi8(scales, _mm256_loadu_si256(SPREAD[k].as_ptr().cast()));
            total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
        }
        // The upper lanes of the minima are zero.
        (total, _mm256_zextsi128_si256(min))
    }
}

fn sub_block_parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]) {
    let (s, m) = sub_blocks(&block[4..]);
    for i in 0..16 {
        scales[i] = i16::from(s[i / 2]);
        minima[i] = i16::from(m[i / 2]);
    }
}

/// Nibbles of sub-block `k` of Q4_K and Q5_K.
///
/// # Safety
/// 128 bytes can be read, `k < 8`; the caller has AVX2.
#[inline(always)]
unsafe fn nibbles(at: *const u8, k: usize) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let both = _mm256_loadu_si256(at.add(k / 2 * 32).cast());
        let shifted = _mm256_srl_epi16(both, _mm_cvtsi32_si128((k % 2 * 4) as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(15))
    }
}

impl Format for Q4K {
    const D: usize = 0;
    const PART: usize = 32;
    const PAIRS: usize = 8;

    #[inline(always)]
    unsafe fn ints(block: *const u8, k: usize) -> __m256i {
        // SAFETY: within the block.
        unsafe { nibbles(block.add(16), k) }
    }

    #[inline(always)]
    unsafe fn sums(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i) {
        // SAFETY: as promised by the caller.
        unsafe { sub_block_sums::<Q4K>(block, q, sums) }
    }

    fn parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]) {
        sub_block_parts(block, scales, minima);
    }
}

impl Format for Q5K {
    const D: usize = 0;
    const PART: usize = 32;
    const PAIRS: usize = 4;

    #[inline(always)]
    unsafe fn ints(block: *const u8, k: usize) -> __m256i {
        // SAFETY: within the block.
        unsafe {
            let high = _mm256_srl_epi16(_mm256_loadu_si256(block.add(16).cast()), _mm_cvtsi32_si128(k as i32));
            let high = _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(1)));
            _mm256_or_si256(nibbles(block.add(48), k), high)
        }
    }

    #[inline(always)]
    unsafe fn sums(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i) {
        // SAFETY: as promised by the caller.
        unsafe { sub_block_sums::<Q5K>(block, q, sums) }
    }

    fn parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]) {
        sub_block_parts(block, scales, minima);
    }
}

/// The sum of products of parts of 16 with scales of 8 bits.
///
/// # Safety
/// Block and 256 integers can be read; the caller has AVX2.
#[inline(always)]
unsafe fn sixteenth_sums<F: Format>(block: *const u8, q: *const i8, scales: __m128i) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut total = _mm256_setzero_si256();
        for k in 0..8 {
            let pairs = _mm256_maddubs_epi16(F::ints(block, k), _mm256_loadu_si256(q.add(32 * k).cast()));
            let (a, b) = (2 * k as i8, 2 * k as i8 + 1);
            let two = _mm_shuffle_epi8(scales, _mm_set_epi8(b, b, b, b, b, b, b, b, a, a, a, a, a, a, a, a));
            total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_cvtepi8_epi16(two)));
        }
        total
    }
}

/// Scales with the sums of 16 neighbours: what integers cost that were taken 1 too large.
///
/// # Safety
/// 16 sums can be read; the caller has AVX2.
#[inline(always)]
unsafe fn one_each(scales: __m128i, sums: *const i16) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe { _mm256_madd_epi16(_mm256_cvtepi8_epi16(scales), _mm256_loadu_si256(sums.cast())) }
}

impl Format for Q2K {
    const D: usize = 80;
    const PART: usize = 16;
    const PAIRS: usize = 4;

    #[inline(always)]
    unsafe fn ints(block: *const u8, k: usize) -> __m256i {
        // SAFETY: within the block.
        unsafe { two_bits(block.add(16), k) }
    }

    #[inline(always)]
    unsafe fn sums(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i) {
        // SAFETY: as promised by the caller: 16 scales with minima, 256 integers, 24 sums.
        unsafe {
            let (both, mask) = (_mm_loadu_si128(block.cast()), _mm_set1_epi8(15));
            let minima = _mm_and_si128(_mm_srli_epi16::<4>(both), mask);
            (sixteenth_sums::<Q2K>(block, q, _mm_and_si128(both, mask)), one_each(minima, sums))
        }
    }

    fn parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]) {
        for (i, byte) in block[..16].iter().enumerate() {
            (scales[i], minima[i]) = (i16::from(byte & 15), i16::from(byte >> 4));
        }
    }
}

/// Pairs of bits of sub-block `k` of Q2_K and Q3_K.
///
/// # Safety
/// 64 bytes can be read, `k < 8`; the caller has AVX2.
#[inline(always)]
unsafe fn two_bits(at: *const u8, k: usize) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        let four = _mm256_loadu_si256(at.add(k / 4 * 32).cast());
        _mm256_and_si256(_mm256_srl_epi16(four, _mm_cvtsi32_si128((k % 4 * 2) as i32)), _mm256_set1_epi8(3))
    }
}

impl Format for Q3K {
    const D: usize = 108;
    const PART: usize = 16;
    const PAIRS: usize = 4;

    #[inline(always)]
    unsafe fn ints(block: *const u8, k: usize) -> __m256i {
        // SAFETY: within the block.
        unsafe {
            let high = _mm256_srl_epi16(_mm256_loadu_si256(block.cast()), _mm_cvtsi32_si128(k as i32));
            let high = _mm256_slli_epi16::<2>(_mm256_and_si256(high, _mm256_set1_epi8(1)));
            _mm256_or_si256(two_bits(block.add(32), k), high)
        }
    }

    #[inline(always)]
    unsafe fn sums(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i) {
        // SAFETY: as promised by the caller: 12 bytes of scales, 256 integers, 24 sums.
        unsafe {
            // Four scales at a time: their low nibbles, and two bits from the last four bytes.
            let word = |i: usize| block.add(96 + 4 * i).cast::<u32>().read_unaligned();
            let (a, b, c) = (word(0), word(1), word(2));
            let four = |low: u32, high: u32| ((low & 0x0f0f_0f0f) | (high & 0x0303_0303) << 4) as i32;
            let scales = _mm_setr_epi32(four(a, c), four(b, c >> 2), four(a >> 4, c >> 4), four(b >> 4, c >> 6));
            let scales = _mm_sub_epi8(scales, _mm_set1_epi8(32));
            let off = _mm256_slli_epi32::<2>(one_each(scales, sums));
            (_mm256_sub_epi32(sixteenth_sums::<Q3K>(block, q, scales), off), _mm256_setzero_si256())
        }
    }

    fn parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]) {
        for (i, scale) in q3_scales(&block[96..]).into_iter().enumerate() {
            scales[i] = i16::from(scale);
            minima[i] = scales[i] * 4;
        }
    }
}

impl Format for Q6K {
    const D: usize = 208;
    const PART: usize = 16;
    const PAIRS: usize = 2;

    #[inline(always)]
    unsafe fn ints(block: *const u8, k: usize) -> __m256i {
        // SAFETY: within the block.
        unsafe {
            let (h, g) = (k / 4, k % 4);
            let low = _mm256_loadu_si256(block.add(64 * h + 32 * (g & 1)).cast());
            let low =
                _mm256_and_si256(_mm256_srl_epi16(low, _mm_cvtsi32_si128((g / 2 * 4) as i32)), _mm256_set1_epi8(15));
            _mm256_or_si256(low, _mm256_slli_epi16::<4>(two_bits(block.add(128), k)))
        }
    }

    #[inline(always)]
    unsafe fn sums(block: *const u8, q: *const i8, sums: *const i16) -> (__m256i, __m256i) {
        // SAFETY: as promised by the caller: 16 scales, 256 integers, 24 sums.
        unsafe {
            let scales = _mm_loadu_si128(block.add(192).cast());
            let off = _mm256_slli_epi32::<5>(one_each(scales, sums));
            (_mm256_sub_epi32(sixteenth_sums::<Q6K>(block, q, scales), off), _mm256_setzero_si256())
        }
    }

    fn parts(block: &[u8], scales: &mut [i16; 16], minima: &mut [i16; 16]) {
        for (i, byte) in block[192..208].iter().enumerate() {
            scales[i] = i16::from(*byte as i8);
            minima[i] = scales[i] * 32;
        }
    }
}

impl Format for Iq4Xs {
    const D: usize = 0;
    const PART: usize = 32;
    const PAIRS: usize = 1;

    #[inline(always)]
    unsafe fn ints(block: *const u8, k: usize) -> __m256i {
        // SAFETY: within the block.
        unsafe { stepped(&grid::IQ4_STEPS, nibbles_32(block.add(8 + 16 * k))) }
    }

    #[inline(always)]
    unsafe fn sums(block: *const u8, q: *const i8, _: *const i16) -> (__m256i, __m256i) {
        // SAFETY: as promised by the caller: 6 bytes of scales, 256 integers.
        unsafe {
            let scales = iq4_xs_scales(std::slice::from_raw_parts(block.add(2), 6));
            let mut total = _mm256_setzero_si256();
            for k in 0..8 {
                let (w, x) = (Iq4Xs::ints(block, k), _mm256_loadu_si256(q.add(32 * k).cast()));
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                let scale = _mm256_set1_epi16(i16::from(scales[k]));
                total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, scale));
            }
            (total, _mm256_setzero_si256())
        }
    }

    fn parts(block: &[u8], scales: &mut [i16; 16], _: &mut [i16; 16]) {
        let packed = iq4_xs_scales(&block[2..]);
        scales.iter_mut().enumerate().for_each(|(i, s)| *s = i16::from(packed[i / 2]));
    }
}

/// Checks what the loops rely on, and gives the number of blocks.
fn blocks_of<F: Format>(w: &WeightRows<'_>, x: Option<&QuantRow<'_>>) -> usize {
    let n = w.stride / F::BYTES;
    assert!(w.n >= 1 && w.n <= WIDE && w.bytes.len() >= w.n * w.stride);
    assert!(x.is_none_or(|x| x.q.len() >= n * 256 && x.d.len() >= n && x.sums.len() >= n * 24));
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
            let at = b * F::BYTES;
            let (q, sums) = (x.q.as_ptr().add(256 * b), x.sums.as_ptr().add(24 * b));
            let mut totals = [_mm256_setzero_si256(); WIDE];
            let mut minima = [_mm256_setzero_si256(); WIDE];
            for o in 0..WIDE {
                prefetch(rows[o].wrapping_add(WIDE * w.stride + at), F::BYTES);
                (totals[o], minima[o]) = F::sums(rows[o].add(at), q, sums);
            }
            let dx = _mm256_set1_ps(*x.d.get_unchecked(b));
            let d = halves(rows.map(|row| row.add(at + F::D)));
            acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums_of_eight(totals)), _mm256_mul_ps(d, dx), acc);
            if F::MIN {
                let dmin = halves(rows.map(|row| row.add(at + F::D + 2)));
                acc = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(sums_of_eight(minima)), _mm256_mul_ps(dmin, dx), acc);
            }
        }
    }
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(y.as_mut_ptr(), acc) }
}

/// Vectors of scales of a panel's block.
const fn scale_vectors<F: Format>() -> usize {
    256 / F::PART
}

/// Vectors of minima: two parts in each.
const fn minimum_vectors<F: Format>() -> usize {
    scale_vectors::<F>() / 2
}

/// Bytes of a block of a panel.
const fn panel_block<F: Format>() -> usize {
    32 * (if F::MIN { 2 } else { 1 } + scale_vectors::<F>() + minimum_vectors::<F>() + 64)
}

fn panel_bytes<F: Format>(n: usize) -> usize {
    n / 256 * panel_block::<F>()
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
    let mut to = panel.as_mut_ptr();
    let step = F::PART / 16;
    for b in 0..n {
        let blocks: [&[u8]; WIDE] = std::array::from_fn(|o| &w.row(o)[b * F::BYTES..][..F::BYTES]);
        let (mut scales, mut minima) = ([[0i16; 16]; WIDE], [[0i16; 16]; WIDE]);
        for o in 0..WIDE {
            F::parts(blocks[o], &mut scales[o], &mut minima[o]);
        }
        // SAFETY: block `b < n` of each row, and of the panel.
        unsafe {
            _mm256_storeu_ps(to.cast(), halves(blocks.map(|block| block.as_ptr().add(F::D))));
            to = to.add(32);
            if F::MIN {
                _mm256_storeu_ps(to.cast(), halves(blocks.map(|block| block.as_ptr().add(F::D + 2))));
                to = to.add(32);
            }
            for part in 0..scale_vectors::<F>() {
                let twice: [i16; 16] = std::array::from_fn(|i| scales[i / 2][part * step]);
                to.cast::<[i16; 16]>().write_unaligned(twice);
                to = to.add(32);
            }
            for pair in 0..minimum_vectors::<F>() {
                let both: [i16; 16] = std::array::from_fn(|i| minima[i / 2][(2 * pair + i % 2) * step]);
                to.cast::<[i16; 16]>().write_unaligned(both);
                to = to.add(32);
            }
            for k in 0..8 {
                let mut ints = [_mm256_setzero_si256(); WIDE];
                for o in 0..WIDE {
                    ints[o] = F::ints(blocks[o].as_ptr(), k);
                }
                for part in transpose(ints) {
                    _mm256_storeu_si256(to.cast(), part);
                    to = to.add(32);
                }
            }
        }
    }
}

fn product<F: Format>(panel: &[u8], x: &[QuantRow<'_>], y: &mut [[f32; WIDE]; TALL]) {
    let n = panel.len() / panel_block::<F>();
    assert!(x.len() <= TALL && x.iter().all(|x| x.q.len() >= n * 256 && x.d.len() >= n && x.sums.len() >= n * 24));
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
    // SAFETY: block `b < n` of the panel, group `b` of each row.
    unsafe {
        let q: [*const i8; R] = std::array::from_fn(|r| x.get_unchecked(r).q.as_ptr());
        // Sums of 16 or of 32 neighbours, as the parts are.
        let sums_at = if F::PART == 16 { 0 } else { 16 };
        let sums: [*const i16; R] = std::array::from_fn(|r| x.get_unchecked(r).sums.as_ptr().add(sums_at));
        for b in 0..n {
            let d = _mm256_loadu_ps(from.cast());
            from = from.add(32);
            let dmin = if F::MIN { _mm256_loadu_ps(from.cast()) } else { _mm256_setzero_ps() };
            from = from.add(if F::MIN { 32 } else { 0 });
            let scales = from;
            from = from.add(32 * scale_vectors::<F>());
            let mut minima = [_mm256_setzero_si256(); R];
            for pair in 0..minimum_vectors::<F>() {
                let m = _mm256_loadu_si256(from.add(32 * pair).cast());
                for r in 0..R {
                    let two = _mm256_set1_epi32(sums[r].add(24 * b + 2 * pair).cast::<i32>().read_unaligned());
                    minima[r] = _mm256_add_epi32(minima[r], _mm256_madd_epi16(m, two));
                }
            }
            from = from.add(32 * minimum_vectors::<F>());
            let mut totals = [_mm256_setzero_si256(); R];
            for part in 0..64 / F::PAIRS {
                let mut pairs = [_mm256_setzero_si256(); R];
                for step in part * F::PAIRS..(part + 1) * F::PAIRS {
                    let w = _mm256_loadu_si256(from.add(32 * step).cast());
                    for r in 0..R {
                        let four = _mm256_set1_epi32(q[r].add(256 * b + 4 * step).cast::<i32>().read_unaligned());
                        pairs[r] = match F::PAIRS {
                            1 => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four, w)),
                            _ => _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(w, four)),
                        };
                    }
                }
                let scale = _mm256_loadu_si256(scales.add(part * F::PAIRS * 4 / F::PART * 32).cast());
                for r in 0..R {
                    totals[r] = _mm256_add_epi32(totals[r], _mm256_madd_epi16(pairs[r], scale));
                }
            }
            from = from.add(32 * 64);
            for r in 0..R {
                let dx = _mm256_set1_ps(*x.get_unchecked(r).d.get_unchecked(b));
                if F::MIN {
                    acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(totals[r]), _mm256_mul_ps(d, dx), acc[r]);
                    acc[r] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima[r]), _mm256_mul_ps(dmin, dx), acc[r]);
                } else {
                    let total = _mm256_sub_epi32(totals[r], minima[r]);
                    acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total), _mm256_mul_ps(d, dx), acc[r]);
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
    Some(BlockKernels { rounding: Rounding::Groups256, dot: dot::<F>, panel: Some(panel) })
}

/// The kernels of a type with blocks of 256.
pub(super) fn kernels(ty: TensorType) -> Option<BlockKernels> {
    match ty {
        TensorType::Q2_K => of::<Q2K>(),
        TensorType::Q3_K => of::<Q3K>(),
        TensorType::Q4_K => of::<Q4K>(),
        TensorType::Q5_K => of::<Q5K>(),
        TensorType::Q6_K => of::<Q6K>(),
        TensorType::IQ4_XS => of::<Iq4Xs>(),
        _ => None,
    }
}
