//! Block formats of GGUF tensors: layouts, decoding, encoding.
#![allow(missing_docs, non_camel_case_types)]
use half::{bf16, f16};
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q5_0,
    Q4_K,
    Q5_K,
    Q6_K,
}
use TensorType::*;
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QuantError(pub String);
impl TensorType {
    pub const ALL: [TensorType; 8] = [F32, F16, BF16, Q8_0, Q5_0, Q4_K, Q5_K, Q6_K];
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id() == id)
    }
    pub fn id(self) -> u32 {
        match self {
            F32 => 0,
            F16 => 1,
            BF16 => 30,
            Q8_0 => 8,
            Q5_0 => 6,
            Q4_K => 12,
            Q5_K => 13,
            Q6_K => 14,
        }
    }
    pub fn name(self) -> &'static str {
        match self {
            F32 => "F32",
            F16 => "F16",
            BF16 => "BF16",
            Q8_0 => "Q8_0",
            Q5_0 => "Q5_0",
            Q4_K => "Q4_K",
            Q5_K => "Q5_K",
            Q6_K => "Q6_K",
        }
    }
    pub fn block_len(self) -> usize {
        match self {
            F32 | F16 | BF16 => 1,
            Q8_0 | Q5_0 => 32,
            _ => 256,
        }
    }
    pub fn block_bytes(self) -> usize {
        match self {
            F32 => 4,
            F16 | BF16 => 2,
            Q8_0 => 34,
            Q5_0 => 22,
            Q4_K => 144,
            Q5_K => 176,
            Q6_K => 210,
        }
    }
    pub fn row_bytes(self, n: usize) -> Result<usize, QuantError> {
        if !n.is_multiple_of(self.block_len()) {
            return Err(QuantError(format!("{n} elements are not whole blocks of {}", self.name())));
        }
        Ok(n / self.block_len() * self.block_bytes())
    }
}
fn h(b: &[u8]) -> f32 {
    f16::from_le_bytes([b[0], b[1]]).to_f32()
}
fn sm(s: &[u8], k: usize) -> (f32, f32) {
    let (a, b) = if k < 4 {
        (s[k] & 63, s[k + 4] & 63)
    } else {
        ((s[k + 4] & 15) | (s[k - 4] >> 6) << 4, (s[k + 4] >> 4) | (s[k] >> 6) << 4)
    };
    (a as f32, b as f32)
}
pub fn decode_row(ty: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if bytes.len() != ty.row_bytes(out.len())? {
        return Err(QuantError("length".into()));
    }
    for (b, o) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len())) {
        match ty {
            F32 => o[0] = f32::from_le_bytes(b.try_into().unwrap_or_default()),
            F16 => o[0] = h(b),
            BF16 => o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Q8_0 => {
                for j in 0..32 {
                    o[j] = h(b) * b[2 + j] as i8 as f32
                }
            }
            Q5_0 => {
                let qh = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
                for j in 0..32 {
                    let n = if j < 16 { b[6 + j] & 15 } else { b[6 + j - 16] >> 4 };
                    o[j] = h(b) * ((n as i32 | ((qh >> j & 1) << 4) as i32) - 16) as f32;
                }
            }
            Q4_K | Q5_K => {
                let (d, m) = (h(b), h(&b[2..]));
                let s = &b[4..16];
                let (qh, qs) = if ty == Q4_K { (None, &b[16..]) } else { (Some(&b[16..48]), &b[48..]) };
                for k in 0..8 {
                    let (sc, mn) = sm(s, k);
                    for l in 0..32 {
                        let q = qs[32 * (k / 2) + l];
                        let mut q = if k % 2 == 0 { q & 15 } else { q >> 4 };
                        if let Some(qh) = qh {
                            q += (qh[l] >> k & 1) * 16;
                        }
                        o[32 * k + l] = d * sc * q as f32 - m * mn;
                    }
                }
            }
            Q6_K => {
                let d = h(&b[208..]);
                for hf in 0..2 {
                    for g in 0..4 {
                        for l in 0..32 {
                            let q = b[64 * hf + l + 32 * (g & 1)];
                            let lo = if g < 2 { q & 15 } else { q >> 4 };
                            let hi = (b[128 + 32 * hf + l] >> (2 * g)) & 3;
                            let sc = b[192 + 8 * hf + 2 * g + l / 16] as i8;
                            o[128 * hf + 32 * g + l] = d * sc as f32 * ((lo | hi << 4) as i32 - 32) as f32;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
