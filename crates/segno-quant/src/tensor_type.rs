//! The table of types.

use crate::QuantError;

/// Defines the enum and everything that is one fact a type.
macro_rules! tensor_types {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal, $len:literal x $bytes:literal;)+) => {
        /// How the elements of a tensor are stored.
        ///
        /// Each type packs [`block_len`](Self::block_len) neighbours of a row into
        /// [`block_bytes`](Self::block_bytes); the layouts are in [`block`](crate::block).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[expect(non_camel_case_types, reason = "the names of the file format")]
        pub enum TensorType {
            $($(#[doc = $doc])+ $name,)+
        }

        impl TensorType {
            /// Every type that a file may name, by ascending number.
            pub const KNOWN: &'static [TensorType] = &[$(TensorType::$name),+];

            /// The type of a number in a file; `None` for numbers that were never given out or have been
            /// withdrawn (4, 5, 31 to 33, 36 to 38).
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(TensorType::$name),)+
                    _ => None,
                }
            }

            /// The type's number in a file.
            pub const fn id(self) -> u32 {
                match self {
                    $(TensorType::$name => $id,)+
                }
            }

            /// The type's usual name, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(TensorType::$name => stringify!($name),)+
                }
            }

            /// Elements of a block; 1 where every element stands for itself.
            pub const fn block_len(self) -> usize {
                match self {
                    $(TensorType::$name => $len,)+
                }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> usize {
                match self {
                    $(TensorType::$name => $bytes,)+
                }
            }
        }
    };
}

tensor_types! {
    /// 32 bits, floating.
    F32 = 0, 1 x 4;
    /// 16 bits, floating (IEEE half).
    F16 = 1, 1 x 2;
    /// 4 bits and a scale for 32.
    Q4_0 = 2, 32 x 18;
    /// 4 bits, a scale and a minimum for 32.
    Q4_1 = 3, 32 x 20;
    /// 5 bits and a scale for 32.
    Q5_0 = 6, 32 x 22;
    /// 5 bits, a scale and a minimum for 32.
    Q5_1 = 7, 32 x 24;
    /// 8 bits and a scale for 32.
    Q8_0 = 8, 32 x 34;
    /// 8 bits, a scale and a sum for 32: activations of other engines, not found in files.
    Q8_1 = 9, 32 x 36;
    /// 2 bits, 4-bit scales and minima for 16 of 256.
    Q2_K = 10, 256 x 84;
    /// 3 bits, 6-bit scales for 16 of 256.
    Q3_K = 11, 256 x 110;
    /// 4 bits, 6-bit scales and minima for 32 of 256.
    Q4_K = 12, 256 x 144;
    /// 5 bits, 6-bit scales and minima for 32 of 256.
    Q5_K = 13, 256 x 176;
    /// 6 bits, 8-bit scales for 16 of 256.
    Q6_K = 14, 256 x 210;
    /// 8 bits and a scale for 256: activations of other engines, not found in files.
    Q8_K = 15, 256 x 292;
    /// A codebook of 256 for 8 values.
    IQ2_XXS = 16, 256 x 66;
    /// A codebook of 512 for 8 values.
    IQ2_XS = 17, 256 x 74;
    /// A codebook of 256 for 4 values.
    IQ3_XXS = 18, 256 x 98;
    /// A codebook of 2048 for 8 values of -1, 0, 1.
    IQ1_S = 19, 256 x 50;
    /// 4 bits that choose of 16 uneven steps, for 32.
    IQ4_NL = 20, 32 x 18;
    /// A codebook of 512 for 4 values.
    IQ3_S = 21, 256 x 110;
    /// A codebook of 1024 for 8 values.
    IQ2_S = 22, 256 x 82;
    /// 4 bits that choose of 16 uneven steps, 6-bit scales for 32 of 256.
    IQ4_XS = 23, 256 x 136;
    /// 8 bits, signed integer.
    I8 = 24, 1 x 1;
    /// 16 bits, signed integer.
    I16 = 25, 1 x 2;
    /// 32 bits, signed integer.
    I32 = 26, 1 x 4;
    /// 64 bits, signed integer.
    I64 = 27, 1 x 8;
    /// 64 bits, floating.
    F64 = 28, 1 x 8;
    /// A codebook of 2048 for 8 values of -1, 0, 1, with finer scales.
    IQ1_M = 29, 256 x 56;
    /// 16 bits, floating: the upper half of an F32.
    BF16 = 30, 1 x 2;
    /// -1, 0 or 1, five to a byte.
    TQ1_0 = 34, 256 x 54;
    /// -1, 0 or 1, four to a byte.
    TQ2_0 = 35, 256 x 66;
    /// 4-bit floats and a power of two for 32 (OCP microscaling).
    MXFP4 = 39, 32 x 17;
    /// 4-bit floats and an 8-bit float for 16 of 64.
    NVFP4 = 40, 64 x 36;
    /// One bit, a sign, and a scale for 128.
    Q1_0 = 41, 128 x 18;
    /// -1, 0, 1 or 2 and a scale for 64.
    Q2_0 = 42, 64 x 18;
}

impl TensorType {
    /// Every type whose blocks alone are weights, by ascending number.
    ///
    /// What [`KNOWN`](Self::KNOWN) has beyond these: integers and F64, which hold no weights; Q8_1 and Q8_K,
    /// which are for activations; NVFP4, whose values want the scale of a further tensor.
    pub const ALL: &'static [TensorType] = &[
        TensorType::F32,
        TensorType::F16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
        TensorType::IQ2_XXS,
        TensorType::IQ2_XS,
        TensorType::IQ3_XXS,
        TensorType::IQ1_S,
        TensorType::IQ4_NL,
        TensorType::IQ3_S,
        TensorType::IQ2_S,
        TensorType::IQ4_XS,
        TensorType::IQ1_M,
        TensorType::BF16,
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::MXFP4,
        TensorType::Q1_0,
        TensorType::Q2_0,
    ];

    /// Bytes of a row of `n` elements.
    ///
    /// # Errors
    /// If `n` is not a multiple of [`block_len`](Self::block_len), or the size is beyond `usize`.
    pub const fn row_bytes(self, n: usize) -> Result<usize, QuantError> {
        if !n.is_multiple_of(self.block_len()) {
            return Err(QuantError::PartialBlock { ty: self, elements: n });
        }
        match (n / self.block_len()).checked_mul(self.block_bytes()) {
            Some(bytes) => Ok(bytes),
            None => Err(QuantError::TooLarge { ty: self, elements: n }),
        }
    }

    /// Whether elements are packed with a shared scale, so that a stored value is a rounded one.
    pub const fn is_quantised(self) -> bool {
        self.block_len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_types_are_each_others_inverse() {
        for &ty in TensorType::KNOWN {
            assert_eq!(TensorType::from_id(ty.id()), Some(ty));
        }
        let known = (0..100).filter_map(TensorType::from_id).collect::<Vec<_>>();
        assert_eq!((known.len(), &known[..]), (35, TensorType::KNOWN));
        for withdrawn in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(TensorType::from_id(withdrawn), None);
        }
    }

    #[test]
    fn weights_are_all_but_eight() {
        let others: Vec<_> = TensorType::KNOWN.iter().filter(|ty| !TensorType::ALL.contains(ty)).collect();

        let names: Vec<_> = others.into_iter().map(|ty| ty.name()).collect();
        assert_eq!(names, ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "NVFP4"]);
        assert!(TensorType::ALL.is_sorted_by_key(|ty| ty.id()));
    }

    #[test]
    fn a_row_is_whole_blocks_of_a_size_that_fits() {
        assert_eq!(TensorType::Q4_K.row_bytes(512), Ok(288));
        assert_eq!(TensorType::F32.row_bytes(0), Ok(0));
        let partial = TensorType::Q4_K.row_bytes(300).unwrap_err();
        assert_eq!(partial.to_string(), "a row of 300 elements is not whole blocks of Q4_K (256 elements each)");
        let huge = usize::MAX & !31;
        assert_eq!(
            TensorType::Q8_0.row_bytes(huge),
            Err(QuantError::TooLarge { ty: TensorType::Q8_0, elements: huge })
        );
    }
}
