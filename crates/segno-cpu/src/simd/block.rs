//! Products of block weights with rounded activations: what is computed, and the portable form.
//!
//! Blocks of 32 with scale `d` (and minimum `m`) against activations `dx q`, in block order:
//! ```text
//! y = fma(sum_i w_i q_i, d dx, y);   y = fma(m, dx sum_i q_i, y)
//! ```
//! Blocks of 256 with integer scales `s` and minima `n` of their parts:
//! ```text
//! y = fma(sum_part s sum_i w_i q_i, d dx, y);   y = fma(sum_part n sum_i q_i, -(dmin dx), y)
//! ```
//! The sums in them are of integers and thus exact in any order, so every form that keeps the chain
//! of multiply-adds gives the same bits.

use segno_quant::block::BlockMxfp4;
use segno_quant::{TensorType, grid};

use super::math::fma;
use super::quant::{QuantRow, Rounding};

/// Outputs that are computed together.
pub(crate) const WIDE: usize = 8;
/// Rows that a panel is multiplied with at once.
pub(crate) const TALL: usize = 4;

/// One to eight rows of a matrix, at a fixed distance.
#[derive(Clone, Copy)]
pub(crate) struct WeightRows<'a> {
    /// From the first byte of the first row to the last of the last.
    pub bytes: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
    /// Number of rows.
    pub n: usize,
}

impl<'a> WeightRows<'a> {
    /// Row `o`; beyond the last one, the last one.
    pub fn row(&self, o: usize) -> &'a [u8] {
        &self.bytes[o.min(self.n - 1) * self.stride..][..self.stride]
    }
}

/// Kernels of one weight type.
#[derive(Clone, Copy)]
pub(crate) struct BlockKernels {
    /// How the activations are rounded.
    pub rounding: Rounding,
    /// Products of one row with up to eight outputs.
    pub dot: fn(&WeightRows<'_>, QuantRow<'_>, &mut [f32; WIDE]),
    /// The form for many rows, if there is one.
    pub panel: Option<PanelKernels>,
}

/// Eight outputs interleaved, to be multiplied with many rows.
#[derive(Clone, Copy)]
pub(crate) struct PanelKernels {
    /// Bytes of a panel for `n` inputs.
    pub bytes: fn(usize) -> usize,
    /// Interleaves up to eight outputs.
    pub pack: fn(&WeightRows<'_>, &mut [u8]),
    /// Products of one to four rows with a panel.
    pub product: fn(&[u8], &[QuantRow<'_>], &mut [[f32; WIDE]; TALL]),
}

/// The IEEE half at the start of `bytes`.
pub(crate) fn half(bytes: &[u8]) -> f32 {
    half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// A format with blocks of 32.
pub(crate) trait Block32 {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether it has a minimum.
    const MIN: bool;
    /// Its integers, scale and minimum.
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32);
}

/// A format with blocks of 256.
pub(crate) trait Block256 {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether it has minima.
    const MIN: bool;
    /// Its integers, scale, scale of the minima, and the scales and minima of its parts of 16.
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], minima: &mut [i16; 16]) -> (f32, f32);
}

pub(crate) struct Q40;
pub(crate) struct Q41;
pub(crate) struct Q50;
pub(crate) struct Q51;
pub(crate) struct Q80;
pub(crate) struct Iq4Nl;
pub(crate) struct Mxfp4;
pub(crate) struct Q2K;
pub(crate) struct Q3K;
pub(crate) struct Q4K;
pub(crate) struct Q5K;
pub(crate) struct Q6K;
pub(crate) struct Iq4Xs;

fn nibbles(bytes: &[u8], w: &mut [i8; 32]) {
    for (i, byte) in bytes[..16].iter().enumerate() {
        w[i] = (byte & 15) as i8;
        w[i + 16] = (byte >> 4) as i8;
    }
}

/// Adds 16 where the bit of an element is set.
fn fifth_bits(bytes: &[u8], w: &mut [i8; 32]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    w.iter_mut().enumerate().for_each(|(i, w)| *w += ((bits >> i & 1) << 4) as i8);
}

impl Block32 for Q40 {
    const BYTES: usize = 18;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        nibbles(&block[2..], w);
        w.iter_mut().for_each(|w| *w -= 8);
        (half(block), 0.0)
    }
}

impl Block32 for Q41 {
    const BYTES: usize = 20;
    const MIN: bool = true;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        nibbles(&block[4..], w);
        (half(block), half(&block[2..]))
    }
}

impl Block32 for Q50 {
    const BYTES: usize = 22;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        nibbles(&block[6..], w);
        fifth_bits(&block[2..], w);
        w.iter_mut().for_each(|w| *w -= 16);
        (half(block), 0.0)
    }
}

impl Block32 for Q51 {
    const BYTES: usize = 24;
    const MIN: bool = true;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        nibbles(&block[8..], w);
        fifth_bits(&block[4..], w);
        (half(block), half(&block[2..]))
    }
}

impl Block32 for Q80 {
    const BYTES: usize = 34;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        w.iter_mut().zip(&block[2..34]).for_each(|(w, b)| *w = *b as i8);
        (half(block), 0.0)
    }
}

/// Replaces nibbles by the steps they stand for.
fn stepped(steps: &[i8; 16], w: &mut [i8]) {
    w.iter_mut().for_each(|w| *w = steps[*w as usize]);
}

impl Block32 for Iq4Nl {
    const BYTES: usize = 18;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        nibbles(&block[2..], w);
        stepped(&grid::IQ4_STEPS, w);
        (half(block), 0.0)
    }
}

impl Block32 for Mxfp4 {
    const BYTES: usize = 17;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 32]) -> (f32, f32) {
        nibbles(&block[1..], w);
        stepped(&grid::E2M1_DOUBLED, w);
        (BlockMxfp4::scale(block[0]), 0.0)
    }
}

/// Scales and minima of the eight sub-blocks of Q4_K and Q5_K, from 12 bytes: six bits each, those of
/// the upper four sub-blocks in a nibble and the two bits that the lower four leave.
pub(crate) fn sub_blocks(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let scale = |k: usize| match k {
        0..4 => packed[k] & 63,
        _ => packed[k + 4] & 15 | (packed[k - 4] >> 6) << 4,
    };
    let min = |k: usize| match k {
        0..4 => packed[k + 4] & 63,
        _ => packed[k + 4] >> 4 | (packed[k] >> 6) << 4,
    };
    (std::array::from_fn(scale), std::array::from_fn(min))
}

fn by_sixteens(sub_blocks: [u8; 8], parts: &mut [i16; 16]) {
    parts.iter_mut().enumerate().for_each(|(i, part)| *part = i16::from(sub_blocks[i / 2]));
}

/// The sixteen scales of Q3_K, from 12 bytes: see [`segno_quant::block::BlockQ3K`].
pub(crate) fn q3_scales(packed: &[u8]) -> [i8; 16] {
    let scale = |k: usize| packed[k % 8] >> (4 * (k / 8)) & 15 | (packed[8 + k % 4] >> (2 * (k / 4)) & 3) << 4;
    std::array::from_fn(|k| scale(k) as i8 - 32)
}

/// The eight scales of IQ4_XS, from the 6 bytes that follow `d`.
pub(crate) fn iq4_xs_scales(packed: &[u8]) -> [i8; 8] {
    let high = u16::from_le_bytes([packed[0], packed[1]]);
    let low = |k: usize| packed[2 + k / 2] >> (4 * (k % 2)) & 15;
    std::array::from_fn(|k| (low(k) | ((high >> (2 * k) & 3) << 4) as u8) as i8 - 32)
}

impl Block256 for Q2K {
    const BYTES: usize = 84;
    const MIN: bool = true;
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], minima: &mut [i16; 16]) -> (f32, f32) {
        for (k, byte) in block[..16].iter().enumerate() {
            (scales[k], minima[k]) = (i16::from(byte & 15), i16::from(byte >> 4));
        }
        for (k, w) in w.chunks_exact_mut(32).enumerate() {
            let bytes = &block[16 + 32 * (k / 4)..];
            w.iter_mut().zip(bytes).for_each(|(w, b)| *w = (b >> (2 * (k % 4)) & 3) as i8);
        }
        (half(&block[80..]), half(&block[82..]))
    }
}

impl Block256 for Q3K {
    const BYTES: usize = 110;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], _: &mut [i16; 16]) -> (f32, f32) {
        for (k, w) in w.chunks_exact_mut(32).enumerate() {
            let bytes = block[..32].iter().zip(&block[32 + 32 * (k / 4)..]);
            for (w, (h, l)) in w.iter_mut().zip(bytes) {
                *w = (l >> (2 * (k % 4)) & 3 | (h >> k & 1) << 2) as i8 - 4;
            }
        }
        scales.iter_mut().zip(q3_scales(&block[96..])).for_each(|(s, scale)| *s = i16::from(scale));
        (half(&block[108..]), 0.0)
    }
}

impl Block256 for Iq4Xs {
    const BYTES: usize = 136;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], _: &mut [i16; 16]) -> (f32, f32) {
        for (k, w) in w.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            nibbles(&block[8 + 16 * k..], w);
        }
        stepped(&grid::IQ4_STEPS, w);
        let packed = iq4_xs_scales(&block[2..]);
        scales.iter_mut().enumerate().for_each(|(i, s)| *s = i16::from(packed[i / 2]));
        (half(block), 0.0)
    }
}

impl Block256 for Q4K {
    const BYTES: usize = 144;
    const MIN: bool = true;
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], minima: &mut [i16; 16]) -> (f32, f32) {
        let (s, m) = sub_blocks(&block[4..]);
        by_sixteens(s, scales);
        by_sixteens(m, minima);
        for (k, w) in w.chunks_exact_mut(32).enumerate() {
            let bytes = &block[16 + k / 2 * 32..];
            w.iter_mut().zip(bytes).for_each(|(w, b)| *w = (b >> (k % 2 * 4) & 15) as i8);
        }
        (half(block), half(&block[2..]))
    }
}

impl Block256 for Q5K {
    const BYTES: usize = 176;
    const MIN: bool = true;
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], minima: &mut [i16; 16]) -> (f32, f32) {
        let (s, m) = sub_blocks(&block[4..]);
        by_sixteens(s, scales);
        by_sixteens(m, minima);
        for (k, w) in w.chunks_exact_mut(32).enumerate() {
            let (high, low) = (&block[16..48], &block[48 + k / 2 * 32..]);
            let bytes = high.iter().zip(low);
            w.iter_mut().zip(bytes).for_each(|(w, (h, b))| *w = (b >> (k % 2 * 4) & 15 | (h >> k & 1) << 4) as i8);
        }
        (half(block), half(&block[2..]))
    }
}

impl Block256 for Q6K {
    const BYTES: usize = 210;
    const MIN: bool = false;
    fn read(block: &[u8], w: &mut [i8; 256], scales: &mut [i16; 16], _: &mut [i16; 16]) -> (f32, f32) {
        for (k, w) in w.chunks_exact_mut(32).enumerate() {
            // Half of the block, and group in it: two bits of `qh`, a nibble of `ql`.
            let (h, g) = (k / 4, k % 4);
            let (low, high) = (&block[64 * h + 32 * (g & 1)..], &block[128 + 32 * h..]);
            for (w, (l, b)) in w.iter_mut().zip(low.iter().zip(high)) {
                *w = ((l >> (g / 2 * 4) & 15) | (b >> (2 * g) & 3) << 4) as i8 - 32;
            }
        }
        scales.iter_mut().zip(&block[192..]).for_each(|(s, b)| *s = i16::from(*b as i8));
        (half(&block[208..]), 0.0)
    }
}

/// Decodes whole blocks that have no minimum.
pub(super) fn load<B: Block32>(bytes: &[u8], out: &mut [f32]) {
    let mut ints = [0; 32];
    for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(32)) {
        let (d, _) = B::read(block, &mut ints);
        out.iter_mut().zip(ints).for_each(|(out, q)| *out = d * f32::from(q));
    }
}

fn dot_ints(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

fn dot_32<B: Block32>(w: &WeightRows<'_>, x: QuantRow<'_>, y: &mut [f32; WIDE]) {
    for (o, y) in y.iter_mut().enumerate().take(w.n) {
        let mut ints = [0; 32];
        let mut acc = 0.0;
        let blocks = w.row(o).chunks_exact(B::BYTES).zip(x.q.chunks_exact(32));
        for ((block, q), (dx, sum)) in blocks.zip(x.d.iter().zip(x.sums)) {
            let (d, m) = B::read(block, &mut ints);
            acc = fma::<false>(dot_ints(&ints, q) as f32, d * dx, acc);
            if B::MIN {
                acc = fma::<false>(m, dx * f32::from(*sum), acc);
            }
        }
        *y = acc;
    }
}

fn dot_256<B: Block256>(w: &WeightRows<'_>, x: QuantRow<'_>, y: &mut [f32; WIDE]) {
    for (o, y) in y.iter_mut().enumerate().take(w.n) {
        let (mut ints, mut scales, mut minima) = ([0; 256], [0; 16], [0; 16]);
        let mut acc = 0.0;
        let blocks = w.row(o).chunks_exact(B::BYTES).zip(x.q.chunks_exact(256));
        for ((block, q), (dx, sums)) in blocks.zip(x.d.iter().zip(x.sums.chunks_exact(24))) {
            let (d, dmin) = B::read(block, &mut ints, &mut scales, &mut minima);
            let parts = ints.chunks_exact(16).zip(q.chunks_exact(16));
            let sum: i32 = parts.zip(scales).map(|((w, q), s)| i32::from(s) * dot_ints(w, q)).sum();
            acc = fma::<false>(sum as f32, d * dx, acc);
            if B::MIN {
                let min: i32 = sums.iter().zip(minima).map(|(s, m)| i32::from(*s) * i32::from(m)).sum();
                acc = fma::<false>(min as f32, -(dmin * dx), acc);
            }
        }
        *y = acc;
    }
}

/// The portable kernels of a type; `None` if it is multiplied with f32 activations.
pub(super) fn portable(ty: TensorType) -> Option<BlockKernels> {
    let blocks_32 = |dot| Some(BlockKernels { rounding: Rounding::Groups32, dot, panel: None });
    let blocks_256 = |dot| Some(BlockKernels { rounding: Rounding::Groups256, dot, panel: None });
    match ty {
        TensorType::Q4_0 => blocks_32(dot_32::<Q40>),
        TensorType::Q4_1 => blocks_32(dot_32::<Q41>),
        TensorType::Q5_0 => blocks_32(dot_32::<Q50>),
        TensorType::Q5_1 => blocks_32(dot_32::<Q51>),
        TensorType::Q8_0 => blocks_32(dot_32::<Q80>),
        TensorType::IQ4_NL => blocks_32(dot_32::<Iq4Nl>),
        TensorType::MXFP4 => blocks_32(dot_32::<Mxfp4>),
        TensorType::Q2_K => blocks_256(dot_256::<Q2K>),
        TensorType::Q3_K => blocks_256(dot_256::<Q3K>),
        TensorType::Q4_K => blocks_256(dot_256::<Q4K>),
        TensorType::Q5_K => blocks_256(dot_256::<Q5K>),
        TensorType::Q6_K => blocks_256(dot_256::<Q6K>),
        TensorType::IQ4_XS => blocks_256(dot_256::<Iq4Xs>),
        _ => None,
    }
}
