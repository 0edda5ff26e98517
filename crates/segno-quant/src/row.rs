//! Rows: from bytes to floats and back, for a type that is known at run time.

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::block::{self, Block, Encode};
use crate::{QuantError, TensorType};

fn check(ty: TensorType, elements: usize, found: usize) -> Result<(), QuantError> {
    let expected = ty.row_bytes(elements)?;
    if found == expected { Ok(()) } else { Err(QuantError::Length { ty, elements, expected, found }) }
}

/// Decodes `out.len()` elements from exactly the bytes that they take.
///
/// Every sequence of bytes has a meaning: scales may be infinite or not a number, and then so are elements.
/// Integers of more than 24 bits and F64 are rounded to the nearest `f32`.
///
/// # Errors
/// If the elements are not whole blocks, or `bytes` has another length than they take.
///
/// ```
/// use segno_quant::{TensorType, decode_row};
///
/// let mut out = [0.0; 2];
/// decode_row(TensorType::F16, &[0x00, 0x3c, 0x00, 0xc0], &mut out)?;
/// assert_eq!(out, [1.0, -2.0]);
/// # Ok::<(), segno_quant::QuantError>(())
/// ```
pub fn decode_row(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    check(ty, out.len(), bytes.len())?;
    match ty {
        TensorType::F32 => numbers(bytes, out, f32::from_le_bytes),
        TensorType::F16 => halves(bytes, out),
        TensorType::BF16 => numbers(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        TensorType::F64 => numbers(bytes, out, |b| f64::from_le_bytes(b) as f32),
        TensorType::I8 => numbers(bytes, out, |b| i8::from_le_bytes(b).into()),
        TensorType::I16 => numbers(bytes, out, |b| i16::from_le_bytes(b).into()),
        TensorType::I32 => numbers(bytes, out, |b| i32::from_le_bytes(b) as f32),
        TensorType::I64 => numbers(bytes, out, |b| i64::from_le_bytes(b) as f32),
        TensorType::Q4_0 => blocks::<block::BlockQ4_0, _>(bytes, out),
        TensorType::Q4_1 => blocks::<block::BlockQ4_1, _>(bytes, out),
        TensorType::Q5_0 => blocks::<block::BlockQ5_0, _>(bytes, out),
        TensorType::Q5_1 => blocks::<block::BlockQ5_1, _>(bytes, out),
        TensorType::Q8_0 => blocks::<block::BlockQ8_0, _>(bytes, out),
        TensorType::Q8_1 => blocks::<block::BlockQ8_1, _>(bytes, out),
        TensorType::Q2_K => blocks::<block::BlockQ2K, _>(bytes, out),
        TensorType::Q3_K => blocks::<block::BlockQ3K, _>(bytes, out),
        TensorType::Q4_K => blocks::<block::BlockQ4K, _>(bytes, out),
        TensorType::Q5_K => blocks::<block::BlockQ5K, _>(bytes, out),
        TensorType::Q6_K => blocks::<block::BlockQ6K, _>(bytes, out),
        TensorType::Q8_K => blocks::<block::BlockQ8K, _>(bytes, out),
        TensorType::IQ2_XXS => blocks::<block::BlockIq2Xxs, _>(bytes, out),
        TensorType::IQ2_XS => blocks::<block::BlockIq2Xs, _>(bytes, out),
        TensorType::IQ2_S => blocks::<block::BlockIq2S, _>(bytes, out),
        TensorType::IQ3_XXS => blocks::<block::BlockIq3Xxs, _>(bytes, out),
        TensorType::IQ3_S => blocks::<block::BlockIq3S, _>(bytes, out),
        TensorType::IQ1_S => blocks::<block::BlockIq1S, _>(bytes, out),
        TensorType::IQ1_M => blocks::<block::BlockIq1M, _>(bytes, out),
        TensorType::IQ4_NL => blocks::<block::BlockIq4Nl, _>(bytes, out),
        TensorType::IQ4_XS => blocks::<block::BlockIq4Xs, _>(bytes, out),
        TensorType::TQ1_0 => blocks::<block::BlockTq1_0, _>(bytes, out),
        TensorType::TQ2_0 => blocks::<block::BlockTq2_0, _>(bytes, out),
        TensorType::MXFP4 => blocks::<block::BlockMxfp4, _>(bytes, out),
        TensorType::NVFP4 => blocks::<block::BlockNvfp4, _>(bytes, out),
        TensorType::Q1_0 => blocks::<block::BlockQ1_0, _>(bytes, out),
        TensorType::Q2_0 => blocks::<block::BlockQ2_0, _>(bytes, out),
    }
    Ok(())
}

/// Encodes a row into exactly the bytes that it takes.
///
/// Scales are searched for the least squared error, deterministically; see each type in [`block`].
/// Halves that are out of range become infinite, as IEEE has it; scales of blocks saturate instead.
///
/// # Errors
/// If the elements are not whole blocks, `out` has another length than they take, the type is not among
/// those with an encoder ([`TensorType::can_encode`]), or a block would have to hold an infinite value or
/// one that is not a number. `out` is then unspecified.
pub fn encode_row(ty: TensorType, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check(ty, values.len(), out.len())?;
    match ty {
        TensorType::F32 => to_numbers(values, out, f32::to_le_bytes),
        TensorType::F16 => to_numbers(values, out, |x| f16::from_f32(x).to_le_bytes()),
        TensorType::BF16 => to_numbers(values, out, |x| bf16::from_f32(x).to_le_bytes()),
        TensorType::Q4_0 => to_blocks::<block::BlockQ4_0, _>(values, out)?,
        TensorType::Q4_1 => to_blocks::<block::BlockQ4_1, _>(values, out)?,
        TensorType::Q5_0 => to_blocks::<block::BlockQ5_0, _>(values, out)?,
        TensorType::Q5_1 => to_blocks::<block::BlockQ5_1, _>(values, out)?,
        TensorType::Q8_0 => to_blocks::<block::BlockQ8_0, _>(values, out)?,
        TensorType::Q4_K => to_blocks::<block::BlockQ4K, _>(values, out)?,
        TensorType::Q5_K => to_blocks::<block::BlockQ5K, _>(values, out)?,
        TensorType::Q6_K => to_blocks::<block::BlockQ6K, _>(values, out)?,
        TensorType::MXFP4 => to_blocks::<block::BlockMxfp4, _>(values, out)?,
        _ => return Err(QuantError::NotEncodable { ty }),
    }
    Ok(())
}

/// Encodes a row while a model runs, as F32, F16, Q8_0 or Q4_0: without a search and without a look at the values.
///
/// Q8_0 is as by [`encode_row`]; the scale of Q4_0 is the value of largest magnitude divided by -8. A block
/// with a value that is not a number decodes to none.
///
/// # Errors
/// If the elements are not whole blocks, `out` has another length than they take, or the type is another one.
pub fn store_row(ty: TensorType, values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check(ty, values.len(), out.len())?;
    match ty {
        TensorType::F32 | TensorType::F16 => encode_row(ty, values, out)?,
        TensorType::Q8_0 => each_block(values, out, block::BlockQ8_0::encode),
        TensorType::Q4_0 => each_block(values, out, block::BlockQ4_0::encode_plain),
        _ => return Err(QuantError::NotEncodable { ty }),
    }
    Ok(())
}

impl TensorType {
    /// Whether [`encode_row`] writes this type.
    pub fn can_encode(self) -> bool {
        encode_row(self, &[], &mut []).is_ok()
    }
}

fn numbers<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (chunk, value) in chunks.iter().zip(out) {
        *value = read(*chunk);
    }
}

/// The conversion of whole slices has its instructions chosen once, not for every element.
fn halves(bytes: &[u8], out: &mut [f32]) {
    match bytemuck::try_cast_slice::<u8, f16>(bytes) {
        Ok(halves) if cfg!(target_endian = "little") => halves.convert_to_f32_slice(out),
        _ => numbers(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
    }
}

fn to_numbers<const N: usize>(values: &[f32], out: &mut [u8], write: impl Fn(f32) -> [u8; N]) {
    let (chunks, _) = out.as_chunks_mut::<N>();
    for (chunk, value) in chunks.iter_mut().zip(values) {
        *chunk = write(*value);
    }
}

/// Lengths were checked; alignment is 1, so every cut of the bytes is a slice of blocks.
fn blocks<B: Block<N> + Pod, const N: usize>(bytes: &[u8], out: &mut [f32]) {
    const { assert!(size_of::<B>() == B::TYPE.block_bytes() && align_of::<B>() == 1 && N == B::TYPE.block_len()) };
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    let (rows, _) = out.as_chunks_mut::<N>();
    for (block, values) in blocks.iter().zip(rows) {
        block.decode(values);
    }
}

fn to_blocks<B: Encode<N> + Pod, const N: usize>(values: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    const { assert!(size_of::<B>() == B::TYPE.block_bytes() && align_of::<B>() == 1 && N == B::TYPE.block_len()) };
    if let Some(index) = values.iter().position(|x| !x.is_finite()) {
        return Err(QuantError::NotFinite { ty: B::TYPE, index });
    }
    each_block(values, out, B::encode);
    Ok(())
}

fn each_block<B: Pod, const N: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(&[f32; N]) -> B) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    let (rows, _) = values.as_chunks::<N>();
    for (values, block) in rows.iter().zip(blocks) {
        *block = encode(values);
    }
}
