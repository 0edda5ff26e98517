//! A cursor over untrusted bytes: every read is checked and says where it was.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

use crate::array::Array;
use crate::error::GgufError;
use crate::value::{Value, ValueType};

/// Longest key or tensor name that is believed.
pub(crate) const MAX_NAME_BYTES: usize = 65_535;

/// The bytes of a file.
pub(crate) enum Bytes {
    /// Mapped, read-only.
    Mapped(Mmap),
    /// In memory.
    Owned(Vec<u8>),
    /// Part of the program.
    Static(&'static [u8]),
}

impl Bytes {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Static(bytes) => bytes,
        }
    }
}

/// Reads a file from front to back.
pub(crate) struct Cursor<'a> {
    pub file: &'a str,
    pub source: &'a Arc<Bytes>,
    pub position: usize,
}

impl Cursor<'_> {
    /// An error about the field that begins at `offset`.
    pub fn error(&self, offset: usize, field: &str, problem: impl Into<String>) -> GgufError {
        GgufError::Format {
            file: self.file.into(),
            offset: offset as u64,
            field: field.into(),
            problem: problem.into(),
        }
    }

    fn len(&self) -> usize {
        self.source.as_slice().len()
    }

    /// The range of the next `n` bytes.
    fn take(&mut self, n: usize, field: &str) -> Result<Range<usize>, GgufError> {
        let start = self.position;
        let left = self.len() - start;
        if n > left {
            return Err(self.error(start, field, format!("needs {n} bytes, but the file ends after {left}")));
        }
        self.position += n;
        Ok(start..start + n)
    }

    fn bytes<const N: usize>(&mut self, field: &str) -> Result<[u8; N], GgufError> {
        let range = self.take(N, field)?;
        let mut out = [0; N];
        out.copy_from_slice(&self.source.as_slice()[range]);
        Ok(out)
    }

    pub fn u32(&mut self, field: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(field)?))
    }

    pub fn u64(&mut self, field: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(field)?))
    }

    /// A count of things that take at least `least` bytes each: more than fit is a lie.
    pub fn count(&mut self, least: usize, field: &str) -> Result<usize, GgufError> {
        let start = self.position;
        let n = self.u64(field)?;
        let fit = (self.len() - self.position) / least;
        match usize::try_from(n) {
            Ok(n) if n <= fit => Ok(n),
            _ => Err(self.error(start, field, format!("is {n}, but at most {fit} fit into the rest of the file"))),
        }
    }

    /// The range of a string's bytes.
    fn string_range(&mut self, field: &str) -> Result<Range<usize>, GgufError> {
        let n = self.count(1, field)?;
        self.take(n, field)
    }

    /// A name: not empty, UTF-8, of a believable length.
    pub fn name(&mut self, field: &str) -> Result<String, GgufError> {
        let start = self.position;
        let range = self.string_range(field)?;
        if range.is_empty() || range.len() > MAX_NAME_BYTES {
            let problem = format!("has {} bytes, expected 1 to {MAX_NAME_BYTES}", range.len());
            return Err(self.error(start, field, problem));
        }
        match std::str::from_utf8(&self.source.as_slice()[range]) {
            Ok(name) => Ok(name.to_string()),
            Err(_) => Err(self.error(start, field, "is not UTF-8")),
        }
    }

    fn value_type(&mut self, field: &str) -> Result<ValueType, GgufError> {
        let start = self.position;
        let id = self.u32(field)?;
        let known = ValueType::ALL.get(id as usize).copied();
        known.ok_or_else(|| self.error(start, field, format!("has value type {id}, expected 0 to 12")))
    }

    /// A value of the type that is read first.
    pub fn value(&mut self, field: &str) -> Result<Value, GgufError> {
        let ty = self.value_type(field)?;
        match ty {
            ValueType::String => {
                let range = self.string_range(field)?;
                Ok(Value::String(String::from_utf8_lossy(&self.source.as_slice()[range]).into_owned()))
            }
            ValueType::Array => self.array(field).map(Value::Array),
            _ => {
                let start = self.position;
                let range = self.take(ty.fixed_bytes().unwrap_or(0), field)?;
                let value = Value::fixed(ty, &self.source.as_slice()[range]);
                value.ok_or_else(|| self.error(start, field, "cannot be read"))
            }
        }
    }

    fn array(&mut self, field: &str) -> Result<Array, GgufError> {
        let start = self.position;
        let ty = self.value_type(field)?;
        if ty == ValueType::Array {
            return Err(self.error(start, field, "is an array of arrays, which the format does not have"));
        }
        let len = self.count(ty.fixed_bytes().unwrap_or(8), field)?;
        let from = self.position;
        match ty.fixed_bytes() {
            // `count` has bounded the product by the file's size.
            Some(n) => {
                self.take(len * n, field)?;
            }
            None => {
                for _ in 0..len {
                    self.string_range(field)?;
                }
            }
        }
        Ok(Array { source: self.source.clone(), ty, len, range: from..self.position })
    }
}
