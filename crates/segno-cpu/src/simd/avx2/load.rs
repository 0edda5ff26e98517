//! Decoding of stored keys and values.

use std::arch::x86_64::{
    __m128i, __m256, _mm_and_si128, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm_loadu_si128, _mm_set1_epi8, _mm_srli_epi16,
    _mm_sub_epi8, _mm_unpackhi_epi64, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_mul_ps,
    _mm256_set1_ps, _mm256_storeu_ps,
};

/// The scale at the start of a block, in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scale(block: &[u8]) -> __m256 {
    let bits = u16::from_le_bytes([block[0], block[1]]);
    let one = _mm256_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)));
    _mm256_set1_ps(std::arch::x86_64::_mm256_cvtss_f32(one))
}

/// `d q` of the eight low bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eight(d: __m256, q: __m128i) -> __m256 {
    _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)))
}

pub(in super::super) fn load_q8_0(bytes: &[u8], out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn blocks(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = scale(block);
            for i in 0..4 {
                // SAFETY: eight of the 32 bytes behind the scale, eight of 32 floats; neither needs alignment.
                unsafe {
                    let q = _mm_loadl_epi64(block.as_ptr().add(2 + 8 * i).cast());
                    _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), eight(d, q));
                }
            }
        }
    }
    // SAFETY: the features are there (see the module).
    unsafe { blocks(bytes, out) }
}

pub(in super::super) fn load_q4_0(bytes: &[u8], out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn blocks(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = scale(block);
            // SAFETY: the 16 bytes behind the scale.
            let packed = unsafe { _mm_loadu_si128(block.as_ptr().add(2).cast()) };
            let nibbles = |v| _mm_sub_epi8(_mm_and_si128(v, _mm_set1_epi8(15)), _mm_set1_epi8(8));
            let (low, high) = (nibbles(packed), nibbles(_mm_srli_epi16::<4>(packed)));
            let q = [low, _mm_unpackhi_epi64(low, low), high, _mm_unpackhi_epi64(high, high)];
            for (i, q) in q.into_iter().enumerate() {
                // SAFETY: eight of 32 floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), eight(d, q)) };
            }
        }
    }
    // SAFETY: the features are there (see the module).
    unsafe { blocks(bytes, out) }
}
