//! What Q4_K and Q5_K share: six-bit scales and minima, and how they are fitted.

use crate::F16Le;
use crate::fit;

/// The eight pairs of scale and minimum, 0 to 63 each, of a block of Q4_K or Q5_K.
///
/// Pairs 0 to 3 are the low six bits of bytes k and k + 4. Of pairs 4 to 7, byte k + 4 holds the low four
/// bits of both, and the top bits of bytes k - 4 and k hold the rest.
pub fn unpack_scales(bytes: &[u8; 12]) -> [(u8, u8); 8] {
    std::array::from_fn(|k| match k {
        0..4 => (bytes[k] & 63, bytes[k + 4] & 63),
        _ => (bytes[k + 4] & 15 | bytes[k - 4] >> 6 << 4, bytes[k + 4] >> 4 | bytes[k] >> 6 << 4),
    })
}

fn pack_scales(pairs: &[(u8, u8); 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (k, &(scale, min)) in pairs.iter().enumerate() {
        if k < 4 {
            bytes[k] |= scale;
            bytes[k + 4] |= min;
        } else {
            bytes[k + 4] = scale & 15 | (min & 15) << 4;
            bytes[k - 4] |= scale >> 4 << 6;
            bytes[k] |= min >> 4 << 6;
        }
    }
    bytes
}

/// A block's parts before the elements are packed.
pub(super) struct Fitted {
    pub d: F16Le,
    pub dmin: F16Le,
    pub scales: [u8; 12],
    pub q: [u8; 256],
}

/// Fits `d * scale * q - dmin * min`, q up to `q_max`.
///
/// Each 32 elements get the scale and minimum that suit them best; then `d` and `dmin` are set so that the
/// largest of these are 63, and for each 32 the best of the nine pairs of whole numbers around is taken.
pub(super) fn fit(values: &[f32; 256], q_max: i32) -> Fitted {
    let (rows, _) = values.as_chunks::<32>();
    let wanted: [(f32, f32); 8] =
        std::array::from_fn(|k| fit::affine(&rows[k], q_max, fit::Minimum::NotPositive, |x| x));
    let largest = |pick: fn(&(f32, f32)) -> f32| wanted.iter().map(pick).fold(0f32, f32::max);
    let d = F16Le::saturating(largest(|&(scale, _)| scale) / 63.0);
    let dmin = F16Le::saturating(largest(|&(_, min)| -min) / 63.0);
    let (step, min_step) = (d.get(), dmin.get());

    let mut pairs = [(0, 0); 8];
    let mut q = [0; 256];
    for ((k, row), &(scale, min)) in rows.iter().enumerate().zip(&wanted) {
        let (scale, min) = (fit::nearest(scale, step, 0, 63), fit::nearest(-min, min_step, 0, 63));
        let mut best = (f64::INFINITY, scale, min);
        for scale in (scale - 1).max(0)..=(scale + 1).min(63) {
            for min in (min - 1).max(0)..=(min + 1).min(63) {
                let error = fit::affine_error(row, step * scale as f32, -(min_step * min as f32), q_max);
                if error < best.0 {
                    best = (error, scale, min);
                }
            }
        }
        let (_, scale, min) = best;
        pairs[k] = (scale as u8, min as u8);
        let (step, min) = (step * scale as f32, min_step * min as f32);
        for (q, &x) in q[32 * k..].iter_mut().zip(row) {
            *q = fit::nearest(x + min, step, 0, q_max) as u8;
        }
    }
    Fitted { d, dmin, scales: pack_scales(&pairs), q }
}

/// Fifth bits and packed low halves of 32 numbers below 32, as Q5_0 and Q5_1 have them.
pub(super) fn split_five_bits(q: &[u8; 32]) -> ([u8; 4], [u8; 16]) {
    let high = q.iter().enumerate().fold(0u32, |bits, (j, &q)| bits | u32::from(q >> 4) << j);
    (high.to_le_bytes(), std::array::from_fn(|i| q[i] & 15 | (q[i + 16] & 15) << 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_come_back() {
        for shift in 0..64 {
            let pairs = std::array::from_fn(|k| (((shift + 9 * k) % 64) as u8, ((shift * 5 + 23 * k) % 64) as u8));
            assert_eq!(unpack_scales(&pack_scales(&pairs)), pairs);
        }
    }
}
