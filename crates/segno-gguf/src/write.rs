//! The writer: the header first, then each tensor's bytes as they come.

use std::collections::HashSet;
use std::io::Write;

use segno_quant::TensorType;

use crate::error::GgufError;
use crate::header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, alignment};
use crate::parse::MAX_NAME_BYTES;
use crate::value::{Value, encode_string};

/// Longest name of a tensor that other readers take.
const MAX_TENSOR_NAME_BYTES: usize = 63;

/// What a file is to hold: set keys, declare tensors, then [`begin`](Self::begin).
///
/// ```
/// use segno_gguf::{Gguf, GgufWriter};
/// use segno_quant::TensorType;
///
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", "example");
/// writer.tensor("ones", &[4, 2], TensorType::F32)?;
/// let mut sink = writer.begin(Vec::new())?;
/// for _ in 0..2 {
///     sink.write(&[1f32; 4].map(f32::to_le_bytes).concat())?;
/// }
/// let gguf = Gguf::from_bytes(sink.finish()?)?;
/// assert_eq!(gguf.tensor("ones").map(|t| t.n_bytes()), Some(32));
/// # Ok::<(), segno_gguf::GgufError>(())
/// ```
#[derive(Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Declared>,
    names: HashSet<String>,
}

struct Declared {
    name: String,
    shape: Vec<u64>,
    ty: TensorType,
    bytes: u64,
}

impl GgufWriter {
    /// A file without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key; one that is set already gets the new value in its old place. `general.alignment` is
    /// obeyed.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Declares the next tensor, sizes with the contiguous one first.
    ///
    /// # Errors
    /// If the name is empty, longer than 63 bytes (other readers take no more) or there already, the shape
    /// has more than four sizes or a zero, or its rows are not whole blocks of the type.
    pub fn tensor(&mut self, name: impl Into<String>, shape: &[u64], ty: TensorType) -> Result<&mut Self, GgufError> {
        let name = name.into();
        let fail = |problem: String| GgufError::Write { field: format!("tensor {name}"), problem };
        if name.is_empty() || name.len() > MAX_TENSOR_NAME_BYTES {
            let problem = format!("its name has {} bytes, expected 1 to {MAX_TENSOR_NAME_BYTES}", name.len());
            return Err(fail(problem));
        }
        if shape.len() > 4 || shape.contains(&0) {
            return Err(fail(format!("shape {shape:?} must have at most 4 sizes, none of them 0")));
        }
        let too_large = || fail(format!("shape {shape:?} is too large"));
        let row = usize::try_from(shape.first().copied().unwrap_or(1)).map_err(|_| too_large())?;
        let row = ty.row_bytes(row).map_err(|source| GgufError::Rows { name: name.clone(), source })?;
        let bytes = shape.iter().skip(1).try_fold(row as u64, |product, &n| product.checked_mul(n));
        let bytes = bytes.filter(|&n| n < 1 << 62).ok_or_else(too_large)?;
        if !self.names.insert(name.clone()) {
            return Err(fail("is there already".into()));
        }
        self.tensors.push(Declared { name, shape: shape.to_vec(), ty, bytes });
        Ok(self)
    }

    /// Writes the header, and hands out what takes the tensors' bytes.
    ///
    /// `out` gets many small writes: wrap a file in [`BufWriter`](std::io::BufWriter).
    ///
    /// # Errors
    /// If `out` refuses, a key is empty or too long, the alignment is not a power of two up to 2^20, or the
    /// tensors together are too large.
    pub fn begin<W: Write>(self, mut out: W) -> Result<GgufSink<W>, GgufError> {
        let wrong = |field: &str, problem: String| GgufError::Write { field: field.into(), problem };
        let align = match self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            None => DEFAULT_ALIGNMENT,
            Some((_, value)) => alignment(value).map_err(|problem| wrong(ALIGNMENT_KEY, problem))?,
        };
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            if key.is_empty() || key.len() > MAX_NAME_BYTES {
                let problem = format!("has {} bytes, expected 1 to {MAX_NAME_BYTES}", key.len());
                return Err(wrong(&format!("key '{:.64}'", key), problem));
            }
            encode_string(key.as_bytes(), &mut header);
            header.extend(value.value_type().id().to_le_bytes());
            value.encode(&mut header);
        }
        let mut offset = 0u64;
        for Declared { name, shape, ty, bytes } in &self.tensors {
            encode_string(name.as_bytes(), &mut header);
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|n| header.extend(n.to_le_bytes()));
            header.extend(ty.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            // Both are below 2^62.
            offset = (offset + bytes).next_multiple_of(align);
            if offset >= 1 << 62 {
                return Err(wrong(&format!("tensor {name}"), "the tensors together are too large".into()));
            }
        }
        header.resize(header.len().next_multiple_of(align as usize), 0);
        out.write_all(&header).map_err(io)?;
        let tensors = self.tensors.into_iter().map(|t| (t.name, t.bytes)).collect::<Vec<_>>();
        Ok(GgufSink { out, align, tensors: tensors.into_iter(), current: None })
    }
}

fn io(source: std::io::Error) -> GgufError {
    GgufError::Io { file: "file being written".into(), source }
}

/// Takes the tensors' bytes, in the order of declaration and in pieces of any size, so that a file may be
/// larger than memory.
#[derive(Debug)]
pub struct GgufSink<W: Write> {
    out: W,
    align: u64,
    tensors: std::vec::IntoIter<(String, u64)>,
    /// The tensor under way: name, bytes, bytes left.
    current: Option<(String, u64, u64)>,
}

impl<W: Write> GgufSink<W> {
    /// The tensor that the next byte belongs to, and how many bytes it still wants; `None` when all are
    /// written.
    pub fn next(&self) -> Option<(&str, u64)> {
        match &self.current {
            Some((name, _, left)) => Some((name, *left)),
            None => self.tensors.as_slice().first().map(|(name, bytes)| (name.as_str(), *bytes)),
        }
    }

    /// Writes the next bytes of the tensors.
    ///
    /// # Errors
    /// If the system refuses, or there are more bytes than were declared.
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
                let padding = size.next_multiple_of(self.align) - *size;
                std::io::copy(&mut std::io::Read::take(std::io::repeat(0), padding), &mut self.out).map_err(io)?;
                self.current = None;
            }
        }
        Ok(())
    }

    /// Ends the file; every tensor must have got its bytes.
    ///
    /// # Errors
    /// If bytes are missing, or the system refuses.
    pub fn finish(mut self) -> Result<W, GgufError> {
        if let Some((name, left)) = self.next() {
            return Err(GgufError::Write {
                field: format!("tensor {name}"),
                problem: format!("{left} bytes are missing"),
            });
        }
        self.out.flush().map_err(io)?;
        Ok(self.out)
    }
}
