//! Tensors in memory, and random blocks of any type.

use segno_ir::{Tensor, WeightSource};
use segno_quant::{TensorType, decode_row};

use crate::random::Random;

/// Start of a tensor in a file: GGUF's own alignment.
const ALIGNMENT: usize = 32;

struct Entry {
    name: String,
    ty: TensorType,
    shape: Vec<u64>,
    bytes: Vec<u8>,
    /// Where the aligned content starts.
    offset: usize,
    len: usize,
}

/// The tensors of a case.
#[derive(Default)]
pub(crate) struct MemorySource {
    entries: Vec<Entry>,
}

impl MemorySource {
    /// Adds a tensor.
    pub fn add(&mut self, name: &str, ty: TensorType, shape: &[usize], content: &[u8]) {
        let mut bytes = vec![0; content.len() + ALIGNMENT];
        let offset = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes[offset..offset + content.len()].copy_from_slice(content);
        let shape = shape.iter().map(|&n| n as u64).collect();
        self.entries.push(Entry { name: name.into(), ty, shape, bytes, offset, len: content.len() });
    }
}

impl WeightSource for MemorySource {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = self.entries.iter().find(|e| e.name == name)?;
        let bytes = &entry.bytes[entry.offset..entry.offset + entry.len];
        Some(Tensor { ty: entry.ty, shape: &entry.shape, bytes })
    }

    fn names(&self) -> Vec<String> {
        self.entries.iter().map(|e| e.name.clone()).collect()
    }
}

/// The bytes of `values` in a type of one element a block; `None` for other types.
pub(crate) fn encode_float(ty: TensorType, values: &[f32]) -> Option<Vec<u8>> {
    match ty {
        TensorType::F32 => Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        TensorType::F16 => Some(values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()),
        TensorType::BF16 => Some(values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()),
        _ => None,
    }
}

/// Random elements of any type with magnitudes around `scale`.
///
/// A block is random bits, drawn again until its largest element lies between `scale / 8` and
/// `4 scale`: every bit pattern of scales, minima and high bits comes up, encoders or not, and a type
/// that is added needs no line here.
pub(crate) fn random_tensor(rng: &mut Random, ty: TensorType, n: usize, scale: f32) -> Vec<u8> {
    if ty.block_len() == 1 {
        let values: Vec<f32> = (0..n).map(|_| rng.normal() * scale).collect();
        if let Some(bytes) = encode_float(ty, &values) {
            return bytes;
        }
    }
    let (len, size) = (ty.block_len(), ty.block_bytes());
    let mut bytes = vec![0u8; n / len * size];
    let mut decoded = vec![0f32; len];
    for block in bytes.chunks_exact_mut(size) {
        loop {
            for chunk in block.chunks_mut(4) {
                chunk.copy_from_slice(&rng.word().to_le_bytes()[..chunk.len()]);
            }
            let largest = match decode_row(ty, block, &mut decoded) {
                Ok(()) => decoded.iter().fold(0f32, |m, v| if v.is_nan() { f32::INFINITY } else { m.max(v.abs()) }),
                Err(_) => break,
            };
            if (scale / 8.0..scale * 4.0).contains(&largest) {
                break;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_every_type_have_the_scale_that_was_asked_for() {
        let mut rng = Random::of("blocks");
        for ty in TensorType::ALL.iter().copied() {
            for scale in [1e-3, 1.0, 100.0] {
                let bytes = random_tensor(&mut rng, ty, 512, scale);
                let mut values = vec![0.0; 512];
                assert!(decode_row(ty, &bytes, &mut values).is_ok(), "{}", ty.name());
                let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(largest > scale / 8.0 && largest < scale * 6.0, "{} {scale}: {largest}", ty.name());
            }
        }
    }
}
