//! The writer: the header first, then each tensor's bytes as they come.

use std::collections::HashSet;
use std::io::Write;

use segno_quant::TensorType;

use crate::error::GgufError;
use crate::value::{Value, encode_string};

const ALIGNMENT: u64 = 32;

/// What a file is to hold.
#[derive(Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>, TensorType, u64)>,
    names: HashSet<String>,
}

impl GgufWriter {
    /// A file without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key; one that is set already gets the new value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Declares the next tensor, sizes with the contiguous one first.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[u64], ty: TensorType) -> Result<&mut Self, GgufError> {
        let name = name.into();
        let fail = |problem: String| GgufError::Write { field: format!("tensor {name}"), problem };
        if name.is_empty() || !self.names.insert(name.clone()) {
            return Err(fail("its name must be there, and once".into()));
        }
        if shape.len() > 4 || shape.contains(&0) {
            return Err(fail(format!("shape {shape:?} must have at most 4 sizes, none of them 0")));
        }
        let row = shape.first().copied().unwrap_or(1);
        let row = ty.row_bytes(row as usize).map_err(|source| GgufError::Rows { name: name.clone(), source })?;
        let rows = shape.iter().skip(1).try_fold(1u64, |product, &n| product.checked_mul(n));
        let bytes = rows
            .and_then(|n| n.checked_mul(row as u64))
            .ok_or_else(|| fail(format!("shape {shape:?} is too large")))?;
        self.tensors.push((name, shape.to_vec(), ty, bytes));
        Ok(self)
    }

    /// Writes the header, and hands out what takes the tensors' bytes.
    pub fn begin<W: Write>(self, mut out: W) -> Result<GgufSink<W>, GgufError> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            encode_string(key.as_bytes(), &mut header);
            header.extend(value.value_type().id().to_le_bytes());
            value.encode(&mut header);
        }
        let mut offset = 0u64;
        for (name, shape, ty, bytes) in &self.tensors {
            encode_string(name.as_bytes(), &mut header);
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|n| header.extend(n.to_le_bytes()));
            header.extend(ty.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (offset + bytes).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        out.write_all(&header).map_err(io)?;
        let tensors = self.tensors.into_iter().map(|(name, _, _, bytes)| (name, bytes)).collect::<Vec<_>>();
        Ok(GgufSink { out, tensors: tensors.into_iter(), current: None })
    }
}

fn io(source: std::io::Error) -> GgufError {
    GgufError::Io { file: "file being written".into(), source }
}

/// Takes the tensors' bytes, in the order of declaration and in pieces of any size.
pub struct GgufSink<W: Write> {
    out: W,
    tensors: std::vec::IntoIter<(String, u64)>,
    /// The tensor under way: name, bytes, bytes left.
    current: Option<(String, u64, u64)>,
}

impl<W: Write> GgufSink<W> {
    /// Writes the next bytes of the tensors.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), GgufError> {
        while !bytes.is_empty() {
            let Some((_, size, left)) = &mut self.current else {
                let (name, size) = self.tensors.next().ok_or_else(|| GgufError::Write {
                    field: "tensors".into(),
                    problem: format!("{} bytes are left over after the last", bytes.len()),
                })?;
                self.current = Some((name, size, size));
                continue;
            };
            let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            self.out.write_all(&bytes[..n]).map_err(io)?;
            bytes = &bytes[n..];
            *left -= n as u64;
            if *left == 0 {
                let padding = (size.next_multiple_of(ALIGNMENT) - *size) as usize;
                self.out.write_all(&[0; ALIGNMENT as usize][..padding]).map_err(io)?;
                self.current = None;
            }
        }
        Ok(())
    }

    /// Ends the file; every tensor must have got its bytes.
    pub fn finish(mut self) -> Result<W, GgufError> {
        let missing = self.current.take().map(|(name, _, left)| (name, left)).or_else(|| self.tensors.next());
        if let Some((name, left)) = missing {
            return Err(GgufError::Write {
                field: format!("tensor {name}"),
                problem: format!("{left} bytes are missing"),
            });
        }
        self.out.flush().map_err(io)?;
        Ok(self.out)
    }
}
