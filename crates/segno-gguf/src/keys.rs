//! Metadata by type, with errors that say what was found.

use crate::array::Array;
use crate::error::GgufError;
use crate::read::Gguf;
use crate::value::{Value, ValueType};

/// An integer of any width, or a flag as 0 or 1: arrays of one number a layer come as both.
fn flag_or_u32(value: &Value) -> Option<u32> {
    match value.as_bool() {
        Some(flag) => Some(flag.into()),
        None => value.as_u64().and_then(|n| u32::try_from(n).ok()),
    }
}

/// Each is an error where the key is missing ([`Optional`](crate::Optional) makes that `None`) or its value
/// has another type or does not fit. Integers may have any width in the file.
impl Gguf {
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let Some(value) = self.get(key) else {
            return Err(GgufError::Missing { file: self.file().into(), key: key.into(), expected: expected.into() });
        };
        read(value).ok_or_else(|| GgufError::Unfit {
            file: self.file().into(),
            key: key.into(),
            found: format!("{value:?}"),
            expected: expected.into(),
        })
    }

    /// The name of the mixture of tensor types that `general.file_type` says the file was made with, such
    /// as `Q4_K_M`; `None` if it doesn't say, or a number that this version doesn't know.
    pub fn file_type(&self) -> Option<&'static str> {
        Some(match self.u32("general.file_type").ok()? {
            0 => "F32",
            1 => "F16",
            2 => "Q4_0",
            3 => "Q4_1",
            7 => "Q8_0",
            8 => "Q5_0",
            9 => "Q5_1",
            10 => "Q2_K",
            11 => "Q3_K_S",
            12 => "Q3_K_M",
            13 => "Q3_K_L",
            14 => "Q4_K_S",
            15 => "Q4_K_M",
            16 => "Q5_K_S",
            17 => "Q5_K_M",
            18 => "Q6_K",
            19 => "IQ2_XXS",
            20 => "IQ2_XS",
            21 => "Q2_K_S",
            22 => "IQ3_XS",
            23 => "IQ3_XXS",
            24 => "IQ1_S",
            25 => "IQ4_NL",
            26 => "IQ3_S",
            27 => "IQ3_M",
            28 => "IQ2_S",
            29 => "IQ2_M",
            30 => "IQ4_XS",
            31 => "IQ1_M",
            32 => "BF16",
            36 => "TQ1_0",
            37 => "TQ2_0",
            38 => "MXFP4_MOE",
            39 => "NVFP4",
            40 => "Q1_0",
            41 => "Q2_0",
            _ => return None,
        })
    }

    /// An unsigned integer of up to 32 bits.
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.typed(key, "an unsigned 32-bit integer", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }

    /// An unsigned integer.
    pub fn u64(&self, key: &str) -> Result<u64, GgufError> {
        self.typed(key, "an unsigned integer", Value::as_u64)
    }

    /// A signed integer.
    pub fn i64(&self, key: &str) -> Result<i64, GgufError> {
        self.typed(key, "an integer", Value::as_i64)
    }

    /// A finite number; integers are converted.
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        let finite = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
        self.typed(key, "a finite number", finite)
    }

    /// A flag.
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// Text.
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An array of any type.
    pub fn array(&self, key: &str) -> Result<&Array, GgufError> {
        self.typed(key, "an array", Value::as_array)
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&Array, GgufError> {
        let strings = |v: &'_ Value| v.as_array().is_some_and(|a| a.element_type() == ValueType::String);
        self.typed(key, "an array of strings", |v| if strings(v) { v.as_array() } else { None })
    }

    /// One number a layer: a scalar stands for all `n_layers`, an array must have exactly so many. Flags
    /// count as 0 and 1.
    ///
    /// The result has `n_layers` numbers: bound a count that comes from a file before asking for so many.
    pub fn u32_per_layer(&self, key: &str, n_layers: usize) -> Result<Vec<u32>, GgufError> {
        let expected = format!("an unsigned 32-bit integer, or {n_layers} of them");
        self.typed(key, &expected, |value| match value.as_array() {
            None => flag_or_u32(value).map(|n| vec![n; n_layers]),
            Some(array) if array.len() == n_layers => array.iter().map(|v| flag_or_u32(&v)).collect(),
            Some(_) => None,
        })
    }
}
