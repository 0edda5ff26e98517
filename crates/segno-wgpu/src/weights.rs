//! Weights in arenas: block types as they are with whole words, vectors as f32.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;
use segno_ir::reference::decode_tensor;
use segno_ir::{DeviceError, Graph, Op, Tensor, WeightDecl, WeightId, WeightSource, Weights};
use segno_quant::TensorType;

use crate::gpu::Gpu;

/// Every tensor starts at a multiple: the largest alignment that a driver may ask of a binding.
const ALIGN: u64 = 256;
/// Most bytes of an arena.
const ARENA_BYTES: u64 = 1 << 30;

/// How a type lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Its function set in `shaders/wgsl/lib`.
    pub name: &'static str,
    /// Elements of a block.
    pub block: usize,
    /// Bytes of a block in the file, and on the device.
    pub bytes: usize,
    pub padded: usize,
    /// Where the padding goes: after so many bytes.
    pub pad_at: usize,
}

/// The format of a type; `None`: it is brought as f32.
pub(crate) fn format(ty: TensorType) -> Option<Format> {
    let of = |name, block, bytes: usize, pad_at| {
        Some(Format { name, block, bytes, padded: bytes.next_multiple_of(4), pad_at })
    };
    match ty {
        TensorType::F32 => of("f32", 1, 4, 4),
        TensorType::F16 => Some(Format { name: "f16", block: 1, bytes: 2, padded: 2, pad_at: 2 }),
        TensorType::BF16 => Some(Format { name: "bf16", block: 1, bytes: 2, padded: 2, pad_at: 2 }),
        TensorType::Q4_0 => of("q4_0", 32, 18, 2),
        TensorType::Q4_1 => of("q4_1", 32, 20, 20),
        TensorType::Q5_0 => of("q5_0", 32, 22, 2),
        TensorType::Q5_1 => of("q5_1", 32, 24, 24),
        TensorType::Q8_0 => of("q8_0", 32, 34, 2),
        TensorType::Q4_K => of("q4_k", 256, 144, 144),
        TensorType::Q5_K => of("q5_k", 256, 176, 176),
        TensorType::Q6_K => of("q6_k", 256, 210, 210),
        _ => None,
    }
}

/// Bytes of a row on the device: whole words.
fn row_bytes(decl: &WeightDecl) -> u64 {
    match format(decl.ty) {
        Some(f) => (decl.row_len().div_ceil(f.block) * f.padded).next_multiple_of(4) as u64,
        None => 4 * decl.row_len() as u64,
    }
}

/// Weights that are read in blocks; all others are vectors.
fn is_matrix(graph: &Graph, id: WeightId) -> bool {
    graph.nodes.iter().any(|node| match &node.op {
        Op::Linear(op) => op.weight == id,
        Op::ExpertLinear(op) => op.weight == id,
        Op::Embed(op) => op.weight == Some(id),
        _ => false,
    })
}

/// Bytes of all weights of a graph on the device.
pub(crate) fn weight_bytes(graph: &Graph) -> u64 {
    let one = |(i, decl): (usize, &WeightDecl)| match is_matrix(graph, WeightId(i as u32)) {
        true => row_bytes(decl) * decl.n_rows() as u64,
        false => 4 * decl.n_elements() as u64,
    };
    graph.weights.iter().enumerate().map(|w| one(w).next_multiple_of(ALIGN)).sum()
}

/// Rows of a tensor that lie in one arena.
#[derive(Clone)]
pub(crate) struct Part {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
    pub first_row: usize,
    pub rows: usize,
}

/// A tensor on the device.
#[derive(Clone)]
pub(crate) struct Placed {
    pub parts: Vec<Part>,
    /// Function set that reads it.
    pub format: &'static str,
    /// Words of a row.
    pub row_words: u32,
}

/// All weights of a graph, by name.
pub(crate) struct WgpuWeights {
    pub tensors: HashMap<String, Placed>,
    /// The same weights as plain f32, where an op reads a vector.
    pub vectors: HashMap<String, Placed>,
}

impl Weights for WgpuWeights {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Where the next tensor goes.
struct Arenas<'a> {
    gpu: &'a Gpu,
    limit: u64,
    /// Bytes that are still to come, so that the last arena is no larger than needed.
    left: u64,
    current: Option<(wgpu::Buffer, u64, u64)>,
}

impl Arenas<'_> {
    fn place(&mut self, bytes: u64) -> Result<(wgpu::Buffer, u64), DeviceError> {
        let bytes = bytes.next_multiple_of(ALIGN);
        if self.current.as_ref().is_none_or(|(_, used, size)| used + bytes > *size) {
            let size = self.left.min(self.limit).max(bytes);
            self.current = Some((self.gpu.storage(size, "weights")?, 0, size));
        }
        let (buffer, used, _) = self.current.as_mut().expect("made above");
        let offset = *used;
        *used += bytes;
        self.left = self.left.saturating_sub(bytes);
        Ok((buffer.clone(), offset))
    }
}

impl WgpuWeights {
    pub fn new(gpu: &Arc<Gpu>, source: &dyn WeightSource, graph: &Graph) -> Result<Self, DeviceError> {
        let limit = ARENA_BYTES.min(gpu.limits.max_storage_buffer_binding_size / ALIGN * ALIGN);
        let mut arenas = Arenas { gpu, limit, left: weight_bytes(graph), current: None };
        let (mut tensors, mut vectors) = (HashMap::new(), HashMap::new());
        for (i, decl) in graph.weights.iter().enumerate() {
            let fail = |reason: String| DeviceError::Weight { name: decl.name.clone(), reason };
            let tensor = source.tensor(&decl.name).ok_or_else(|| fail("is missing".into()))?;
            if is_matrix(graph, WeightId(i as u32)) {
                tensors.insert(decl.name.clone(), matrix(&mut arenas, decl, &tensor)?);
            }
            let read_as_vector = graph.nodes.iter().any(|node| match &node.op {
                Op::Embed(_) => false,
                Op::Linear(op) => op.bias == Some(WeightId(i as u32)),
                Op::ExpertLinear(op) => [op.bias, op.factor].contains(&Some(WeightId(i as u32))),
                op => op.weights().contains(&WeightId(i as u32)),
            });
            if read_as_vector {
                let values = decode_tensor(&decl.name, &tensor).map_err(|e| fail(e.to_string()))?;
                let bytes = 4 * values.len() as u64;
                let (buffer, offset) = arenas.place(bytes)?;
                gpu.queue.write_buffer(&buffer, offset, bytemuck::cast_slice(&values));
                let part = Part { buffer, offset, bytes, first_row: 0, rows: 1 };
                let placed = Placed { parts: vec![part], format: "f32", row_words: values.len() as u32 };
                vectors.insert(decl.name.clone(), placed);
            }
        }
        gpu.submit();
        gpu.queue.submit([]);
        gpu.check().map(|()| WgpuWeights { tensors, vectors })
    }
}

/// Brings a matrix, in as many parts as bindings need, through pieces of bounded size.
fn matrix(arenas: &mut Arenas<'_>, decl: &WeightDecl, tensor: &Tensor<'_>) -> Result<Placed, DeviceError> {
    const PIECE: u64 = 16 << 20;
    let fail = |reason: String| DeviceError::Weight { name: decl.name.clone(), reason };
    let from_bytes = tensor.ty.row_bytes(decl.row_len()).map_err(|e| fail(e.to_string()))?;
    let to_bytes = row_bytes(decl);
    if to_bytes > arenas.limit || tensor.bytes.len() < from_bytes * decl.n_rows() {
        return Err(fail(format!("has rows of {to_bytes} bytes, beyond this device's bindings, or too few of them")));
    }
    let per_part = (arenas.limit / to_bytes).min(decl.n_rows() as u64) as usize;
    let per_piece = (PIECE / to_bytes).max(1) as usize;
    let mut parts = Vec::new();
    for first_row in (0..decl.n_rows()).step_by(per_part) {
        let rows = per_part.min(decl.n_rows() - first_row);
        let bytes = to_bytes * rows as u64;
        let (buffer, offset) = arenas.place(bytes)?;
        for at in (0..rows).step_by(per_piece) {
            let n = per_piece.min(rows - at);
            let from = &tensor.bytes[(first_row + at) * from_bytes..][..n * from_bytes];
            let piece = repack(decl, from, from_bytes, to_bytes as usize).map_err(fail)?;
            arenas.gpu.queue.write_buffer(&buffer, offset + at as u64 * to_bytes, &piece);
            // Keeps the staging memory bounded.
            arenas.gpu.queue.submit([]);
        }
        parts.push(Part { buffer, offset, bytes, first_row, rows });
    }
    let name = format(decl.ty).map_or("f32", |f| f.name);
    Ok(Placed { parts, format: name, row_words: (to_bytes / 4) as u32 })
}

/// Rows as the device has them: blocks padded to whole words, unknown types decoded.
fn repack(decl: &WeightDecl, rows: &[u8], from_bytes: usize, to_bytes: usize) -> Result<Vec<u8>, String> {
    let mut out = vec![0u8; rows.len() / from_bytes * to_bytes];
    let pairs = rows.par_chunks_exact(from_bytes).zip(out.par_chunks_exact_mut(to_bytes));
    pairs.try_for_each(|(row, out)| match format(decl.ty) {
        Some(f) if f.padded == f.bytes => {
            out[..row.len()].copy_from_slice(row);
            Ok::<(), String>(())
        }
        Some(f) => {
            for (block, out) in row.chunks_exact(f.bytes).zip(out.chunks_exact_mut(f.padded)) {
                out[..f.pad_at].copy_from_slice(&block[..f.pad_at]);
                out[f.pad_at + f.padded - f.bytes..].copy_from_slice(&block[f.pad_at..]);
            }
            Ok(())
        }
        None => {
            let mut values = vec![0f32; decl.row_len()];
            segno_quant::decode_row(decl.ty, row, &mut values).map_err(|e| e.to_string())?;
            out.copy_from_slice(bytemuck::cast_slice(&values));
            Ok(())
        }
    })?;
    Ok(out)
}
