//! Weights as a graph names them, and where their bytes come from.

use segno_quant::TensorType;

/// Index of a weight in [`Graph::weights`](crate::Graph::weights).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// A tensor of the model file that an op reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDecl {
    /// Name in the file, e.g. `blk.3.attn_q.weight`.
    pub name: String,
    /// Sizes with the contiguous one first, as GGUF has them: a matrix is `[in, out]`.
    pub shape: Vec<u64>,
    /// Element type in the file.
    pub ty: TensorType,
}

impl WeightDecl {
    /// Length of a row: the contiguous dimension.
    pub fn row_len(&self) -> usize {
        self.shape.first().copied().unwrap_or(1) as usize
    }

    /// Number of rows: the product of the other dimensions.
    pub fn n_rows(&self) -> usize {
        self.shape.iter().skip(1).product::<u64>() as usize
    }

    /// Matrices of a three-dimensional weight `[in, out, groups]`; 1 of one with fewer dimensions.
    pub fn n_groups(&self) -> usize {
        self.shape.get(2).copied().unwrap_or(1) as usize
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.row_len() * self.n_rows()
    }
}

/// The bytes of a tensor, as the file has them.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Element type.
    pub ty: TensorType,
    /// Sizes, the contiguous one first.
    pub shape: &'a [u64],
    /// Blocks, row after row.
    pub bytes: &'a [u8],
}

/// Gives a tensor's bytes by name; usually a mapped file.
pub trait WeightSource: Send + Sync {
    /// The tensor called `name`, or `None` if there is none.
    fn tensor(&self, name: &str) -> Option<Tensor<'_>>;
    /// Names of all tensors, in file order.
    fn names(&self) -> Vec<String>;
}
