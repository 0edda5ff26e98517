//! The types of tensors, by their numbers in files.

use crate::QuantError;

macro_rules! types {
    ($($name:ident = $id:literal, $len:literal, $bytes:literal, $doc:literal;)*) => {
        /// The type of a tensor's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[expect(non_camel_case_types, reason = "the names of the file format")]
        pub enum TensorType { $(#[doc = $doc] $name,)* }

        impl TensorType {
            /// Every type.
            pub const ALL: &'static [TensorType] = &[$(TensorType::$name,)*];

            /// The type of a number in a file; `None` if it is not known.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(TensorType::$name),)* _ => None }
            }

            /// The number in a file.
            pub fn id(self) -> u32 {
                match self { $(TensorType::$name => $id,)* }
            }

            /// The name, e.g. `Q4_K`.
            pub fn name(self) -> &'static str {
                match self { $(TensorType::$name => stringify!($name),)* }
            }

            /// Elements of a block.
            pub fn block_len(self) -> usize {
                match self { $(TensorType::$name => $len,)* }
            }

            /// Bytes of a block.
            pub fn block_bytes(self) -> usize {
                match self { $(TensorType::$name => $bytes,)* }
            }
        }
    };
}

types! {
    F32 = 0, 1, 4, "32-bit float.";
    F16 = 1, 1, 2, "IEEE half.";
    BF16 = 30, 1, 2, "The upper half of a 32-bit float.";
    Q4_0 = 2, 32, 18, "4 bits, scale.";
    Q4_1 = 3, 32, 20, "4 bits, scale and minimum.";
    Q5_0 = 6, 32, 22, "5 bits, scale.";
    Q5_1 = 7, 32, 24, "5 bits, scale and minimum.";
    Q8_0 = 8, 32, 34, "8 bits, scale.";
    Q4_K = 12, 256, 144, "4 bits, eight scales and minima of 6 bits.";
    Q5_K = 13, 256, 176, "5 bits, eight scales and minima of 6 bits.";
    Q6_K = 14, 256, 210, "6 bits, sixteen scales of 8 bits.";
}

impl TensorType {
    /// Bytes of a row of `n` elements.
    pub fn row_bytes(self, n: usize) -> Result<usize, QuantError> {
        if !n.is_multiple_of(self.block_len()) {
            return Err(QuantError::Blocks { ty: self, elements: n });
        }
        let bytes = (n / self.block_len()).checked_mul(self.block_bytes());
        bytes.ok_or(QuantError::Overflow { ty: self, elements: n })
    }
}
