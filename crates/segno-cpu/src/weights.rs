//! Weights: matrices stay where the source has them, small vectors are decoded once.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use segno_ir::reference::decode_tensor;
use segno_ir::{DeviceError, Graph, Op, Tensor, WeightDecl, WeightId, WeightSource, Weights};
use segno_quant::TensorType;

/// The weights of a graph. Several programs may share them.
pub(crate) struct CpuWeights {
    vectors: HashMap<String, Arc<[f32]>>,
    source: Arc<dyn WeightSource>,
}

/// A matrix in the source's bytes, row after row.
#[derive(Clone)]
pub(crate) struct Matrix {
    /// Element type.
    pub ty: TensorType,
    /// Length of a row: features of the input.
    pub n_in: usize,
    /// Number of rows: features of the result.
    pub n_out: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    bytes: *const [u8],
    /// Keeps the bytes alive.
    _source: Arc<dyn WeightSource>,
}

// SAFETY: the bytes are shared and read only; the source is `Send` and `Sync`.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// All rows: exactly `n_out * row_bytes` bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the slice was borrowed from the source, which `_source` keeps alive in its place
        // and which nobody can borrow mutably while it is shared.
        unsafe { &*self.bytes }
    }

    /// One row.
    pub fn row(&self, i: usize) -> &[u8] {
        &self.bytes()[i * self.row_bytes..][..self.row_bytes]
    }
}

/// The weights that an op reads as a matrix of the source; all others are small vectors.
pub(crate) fn matrix_of(op: &Op) -> Option<WeightId> {
    match op {
        Op::Linear(linear) => Some(linear.weight),
        Op::ExpertLinear(linear) => Some(linear.weight),
        Op::Embed(embed) => embed.weight,
        _ => None,
    }
}

/// The weights that an op reads as f32 vectors.
pub(crate) fn vectors_of(op: &Op) -> impl Iterator<Item = WeightId> {
    let matrix = matrix_of(op);
    op.weights().into_iter().filter(move |id| Some(*id) != matrix)
}

fn refused(name: &str, reason: impl Into<String>) -> DeviceError {
    DeviceError::Weight { name: name.into(), reason: reason.into() }
}

fn find<'s>(source: &'s dyn WeightSource, decl: &WeightDecl) -> Result<Tensor<'s>, DeviceError> {
    let tensor = source.tensor(&decl.name).ok_or_else(|| refused(&decl.name, "is not in the source"))?;
    let n = tensor.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if tensor.ty != decl.ty || n != Some(decl.n_elements() as u64) {
        let found =
            format!("is {} {:?}, declared as {} {:?}", tensor.ty.name(), tensor.shape, decl.ty.name(), decl.shape);
        return Err(refused(&decl.name, found));
    }
    Ok(tensor)
}

impl CpuWeights {
    /// Decodes the vectors of `graph` and checks that its matrices are there.
    pub fn new(source: Arc<dyn WeightSource>, graph: &Graph) -> Result<Self, DeviceError> {
        let mut weights = CpuWeights { vectors: HashMap::new(), source };
        for node in &graph.nodes {
            if let Some(id) = matrix_of(&node.op) {
                weights.matrix(&graph.weights[id.0 as usize])?;
            }
            for id in vectors_of(&node.op) {
                let decl = &graph.weights[id.0 as usize];
                let vector = weights.vector(decl)?;
                weights.vectors.insert(decl.name.clone(), vector);
            }
        }
        Ok(weights)
    }

    /// A matrix, its size checked.
    pub fn matrix(&self, decl: &WeightDecl) -> Result<Matrix, DeviceError> {
        let tensor = find(&*self.source, decl)?;
        let (n_in, n_out) = (decl.row_len(), decl.n_rows());
        let row_bytes = decl.ty.row_bytes(n_in).map_err(|e| refused(&decl.name, e.to_string()))?;
        if row_bytes.checked_mul(n_out) != Some(tensor.bytes.len()) {
            let found = format!("has {} bytes, expected {n_out} rows of {row_bytes}", tensor.bytes.len());
            return Err(refused(&decl.name, found));
        }
        Ok(Matrix { ty: decl.ty, n_in, n_out, row_bytes, bytes: tensor.bytes, _source: self.source.clone() })
    }

    /// A vector as f32, decoded already if the weights were made for a graph that reads it.
    pub fn vector(&self, decl: &WeightDecl) -> Result<Arc<[f32]>, DeviceError> {
        if let Some(vector) = self.vectors.get(&decl.name) {
            return Ok(vector.clone());
        }
        let tensor = find(&*self.source, decl)?;
        Ok(decode_tensor(&decl.name, &tensor).map_err(|e| refused(&decl.name, e.to_string()))?.into())
    }
}

impl Weights for CpuWeights {
    fn as_any(&self) -> &dyn Any {
        self
    }
}
