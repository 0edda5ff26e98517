//! AVX2, FMA and F16C.
//!
//! Every function here is reached through the table of this level alone, which is chosen where the
//! features were detected. The functions in the table check the sizes that their loops rely on.
#![expect(clippy::needless_range_loop, reason = "indices name the registers of a tile")]

mod blocks_256;
mod blocks_32;
mod float;
mod load;

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_insert_epi16, _mm_movehl_ps,
    _mm_prefetch, _mm_setzero_si128, _mm_shuffle_ps, _mm256_add_epi32, _mm256_castps256_ps128, _mm256_cvtph_ps,
    _mm256_extractf128_ps, _mm256_hadd_epi32, _mm256_permute2x128_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use segno_quant::TensorType;

use super::block::BlockKernels;

pub(super) use float::{delta_rows, products, weighted_sums};
pub(super) use load::{load_q4_0, load_q8_0};

/// The kernels of a block type.
pub(super) fn block(ty: TensorType) -> Option<BlockKernels> {
    blocks_32::kernels(ty).or_else(|| blocks_256::kernels(ty))
}

/// Adds eight lanes in the order of `lanes::tree`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_lanes(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Asks for bytes that will be needed, of the next outputs: hardware foresees one or two streams, not
/// the eight rows that are walked side by side. They need not be readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefetch(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast());
    }
}

/// The sums of eight vectors of integers, one a lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums_of_eight(v: [__m256i; 8]) -> __m256i {
    let (a, b) = (_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    let (c, d) = (_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));
    let (a, b) = (_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

/// Turns eight rows of eight 4-byte groups into eight vectors, each with one group of every row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(r: [__m256i; 8]) -> [__m256i; 8] {
    let pair = |a, b| (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let ((a0, a1), (b0, b1)) = (pair(r[0], r[1]), pair(r[2], r[3]));
    let ((c0, c1), (d0, d1)) = (pair(r[4], r[5]), pair(r[6], r[7]));
    let four = |a, b| (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let ((e0, e1), (e2, e3)) = (four(a0, b0), four(a1, b1));
    let ((f0, f1), (f2, f3)) = (four(c0, d0), four(c1, d1));
    let low = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
    let high = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
    [low(e0, f0), low(e1, f1), low(e2, f2), low(e3, f3), high(e0, f0), high(e1, f1), high(e2, f2), high(e3, f3)]
}

/// Eight IEEE halves from eight places.
///
/// # Safety
/// Two bytes can be read at each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(at: [*const u8; 8]) -> __m256 {
    // SAFETY: as promised by the caller; reads need no alignment.
    let bits = |i: usize| i32::from(unsafe { at[i].cast::<u16>().read_unaligned() });
    let mut v: __m128i = _mm_setzero_si128();
    v = _mm_insert_epi16::<0>(v, bits(0));
    v = _mm_insert_epi16::<1>(v, bits(1));
    v = _mm_insert_epi16::<2>(v, bits(2));
    v = _mm_insert_epi16::<3>(v, bits(3));
    v = _mm_insert_epi16::<4>(v, bits(4));
    v = _mm_insert_epi16::<5>(v, bits(5));
    v = _mm_insert_epi16::<6>(v, bits(6));
    v = _mm_insert_epi16::<7>(v, bits(7));
    _mm256_cvtph_ps(v)
}
