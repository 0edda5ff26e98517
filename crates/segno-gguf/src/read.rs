//! The reader.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use segno_quant::TensorType;

use crate::error::GgufError;
use crate::parse::{Bytes, Cursor};
use crate::value::Value;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Larger ones would only be a way to make a small file seem large.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// More parts than any model has.
const MAX_PARTS: u64 = 1024;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes, the contiguous one first; as many as the file gives, up to four.
    pub shape: Vec<u64>,
    /// Element type.
    pub ty: TensorType,
    part: usize,
    range: Range<usize>,
}

/// An opened file. Cheap to clone; shared freely.
#[derive(Clone)]
pub struct Gguf(Arc<Inner>);

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gguf({}, {} keys, {} tensors)", self.0.file, self.0.metadata.len(), self.0.tensors.len())
    }
}

struct Inner {
    file: String,
    parts: Vec<Arc<Bytes>>,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

impl Gguf {
    /// Opens and maps a file, and its other parts if it is the first of several.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        let path = path.as_ref();
        let mut inner = parse(&path.display().to_string(), map(path)?, 0)?;
        let number = |inner: &Inner, key: &str| inner.keys.get(key).and_then(|&i| inner.metadata[i].1.as_u64());
        let count = number(&inner, "split.count").unwrap_or(0);
        if count > 1 {
            let fail = |problem: String| GgufError::Kind { file: path.display().to_string(), problem };
            if let Some(no) = number(&inner, "split.no").filter(|&no| no != 0) {
                return Err(fail(format!("is part {} of {count}; open the first part", no + 1)));
            }
            if count > MAX_PARTS {
                return Err(fail(format!("says it has {count} parts, expected at most {MAX_PARTS}")));
            }
            for no in 1..count {
                let other = part_path(path, no, count).ok_or_else(|| {
                    fail(format!(
                        "is the first of {count} parts, but its name does not end in -00001-of-{count:05}.gguf"
                    ))
                })?;
                let part = parse(&other.display().to_string(), map(&other)?, no as usize)?;
                inner.join(part)?;
            }
            let total = number(&inner, "split.tensors.count");
            if let Some(total) = total.filter(|&n| n != inner.tensors.len() as u64) {
                return Err(fail(format!("its parts have {} tensors, expected {total}", inner.tensors.len())));
            }
        }
        Ok(Gguf(Arc::new(inner)))
    }

    /// Reads a file that is part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Result<Gguf, GgufError> {
        Ok(Gguf(Arc::new(parse("built-in file", Bytes::Static(bytes), 0)?)))
    }

    /// Reads a file that is in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        Ok(Gguf(Arc::new(parse("file in memory", Bytes::Owned(bytes), 0)?)))
    }

    /// The path, or what it is instead.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.keys.get(key).map(|&i| &self.0.metadata[i].1)
    }

    /// Keys and values, in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.tensors.iter()
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.names.get(name).map(|&i| &self.0.tensors[i])
    }

    /// A tensor's bytes: whole blocks, row after row. `info` must be this file's.
    pub fn tensor_bytes(&self, info: &TensorInfo) -> &[u8] {
        let part = self.0.parts.get(info.part).map_or(&[][..], |p| p.as_slice());
        part.get(info.range.clone()).unwrap_or_default()
    }
}

impl Inner {
    /// Adds the tensors of a further part.
    fn join(&mut self, part: Inner) -> Result<(), GgufError> {
        self.parts.extend(part.parts);
        for info in part.tensors {
            if self.names.insert(info.name.clone(), self.tensors.len()).is_some() {
                let problem = format!("has tensor {}, which another part has too", info.name);
                return Err(GgufError::Kind { file: part.file, problem });
            }
            self.tensors.push(info);
        }
        Ok(())
    }
}

fn map(path: &Path) -> Result<Bytes, GgufError> {
    let fail = |source| GgufError::Io { file: path.display().to_string(), source };
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(GgufError::Kind {
            file: path.display().to_string(),
            problem: "is a folder, expected a GGUF file".into(),
        });
    }
    // SAFETY: the mapping is read-only and lives as long as its users. That nobody truncates the file
    // meanwhile is the crate's documented condition.
    match unsafe { Mmap::map(&file) } {
        Ok(map) => Ok(Bytes::Mapped(map)),
        Err(error) => {
            log::debug!("{} cannot be mapped ({error}); it is read instead", path.display());
            std::fs::read(path).map(Bytes::Owned).map_err(fail)
        }
    }
}

/// The path of part `no` (from 0), from that of the first.
fn part_path(first: &Path, no: u64, count: u64) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let prefix = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(first.with_file_name(format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1)))
}

fn parse(file: &str, bytes: Bytes, part: usize) -> Result<Inner, GgufError> {
    let source = Arc::new(bytes);
    let len = source.as_slice().len();
    let kind = |problem: String| GgufError::Kind { file: file.into(), problem };
    match source.as_slice().get(..4) {
        Some(magic) if magic == MAGIC => {}
        Some(magic) => {
            let text: String = magic.iter().map(|b| char::from(*b).escape_default().to_string()).collect();
            return Err(kind(format!("is not a GGUF file: it begins with '{text}', expected 'GGUF'")));
        }
        None => return Err(kind(format!("is not a GGUF file: it has {len} bytes"))),
    }
    let mut cursor = Cursor { file, source: &source, position: 4 };
    let version = cursor.u32("version")?;
    if version & 0xffff == 0 {
        return Err(kind(format!("is big-endian (version {}); convert it to little-endian", version.swap_bytes())));
    }
    if !(2..=3).contains(&version) {
        return Err(cursor.error(4, "version", format!("is {version}, expected 2 or 3")));
    }
    // The least that an entry takes: lengths, types, one byte of name, one of value.
    let n_tensors = cursor.count(8 + 1 + 4 + 4 + 8, "tensor count")?;
    let n_metadata = cursor.count(8 + 1 + 4 + 1, "metadata count")?;

    let (mut metadata, mut keys) = (Vec::new(), HashMap::new());
    for i in 0..n_metadata {
        let start = cursor.position;
        let key = cursor.name(&format!("key {i}"))?;
        let value = cursor.value(&key)?;
        if keys.insert(key.clone(), metadata.len()).is_some() {
            return Err(cursor.error(start, &key, "is there twice"));
        }
        metadata.push((key, value));
    }
    let alignment = match keys.get("general.alignment").map(|&i| &metadata[i].1) {
        None => DEFAULT_ALIGNMENT,
        Some(value) => match value.as_u64() {
            Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => n,
            _ => {
                let problem = format!("is {value:?}, expected a power of two up to {MAX_ALIGNMENT}");
                return Err(cursor.error(cursor.position, "general.alignment", problem));
            }
        },
    };

    let mut found = Vec::new();
    let mut names = HashMap::new();
    for i in 0..n_tensors {
        let start = cursor.position;
        let (info, offset) = tensor(&mut cursor, i, alignment)?;
        if names.insert(info.name.clone(), i).is_some() {
            return Err(cursor.error(start, &format!("tensor {}", info.name), "is there twice"));
        }
        found.push((info, offset, start));
    }
    let data = (cursor.position as u64).next_multiple_of(alignment);
    let mut tensors = Vec::with_capacity(found.len());
    for (mut info, offset, start) in found {
        // Offset and size were checked to be below 2^62 each.
        let (from, to) = (data + offset, data + offset + info.range.len() as u64);
        if to > len as u64 {
            let problem = format!("its data is bytes {from} to {to}, but the file ends at {len}");
            return Err(cursor.error(start, &format!("tensor {}", info.name), problem));
        }
        info.range = from as usize..to as usize;
        info.part = part;
        tensors.push(info);
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_unstable_by_key(|&i| (tensors[i].range.start, tensors[i].range.end));
    for pair in order.windows(2) {
        let (a, b) = (&tensors[pair[0]], &tensors[pair[1]]);
        if a.range.end > b.range.start {
            let problem = format!("overlaps tensor {}, which ends at byte {}", a.name, a.range.end);
            return Err(cursor.error(b.range.start, &format!("tensor {}", b.name), problem));
        }
    }
    Ok(Inner { file: file.into(), parts: vec![source.clone()], metadata, keys, tensors, names })
}

/// One entry of the tensor table: the tensor with its size as range, and its offset.
fn tensor(cursor: &mut Cursor<'_>, i: usize, alignment: u64) -> Result<(TensorInfo, u64), GgufError> {
    let start = cursor.position;
    let name = cursor.name(&format!("name of tensor {i}"))?;
    let field = format!("tensor {name}");
    let n_dims = cursor.u32(&field)?;
    if n_dims > 4 {
        return Err(cursor.error(start, &field, format!("has {n_dims} dimensions, expected at most 4")));
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    let mut elements = 1u64;
    for _ in 0..n_dims {
        let n = cursor.u64(&field)?;
        elements = match elements.checked_mul(n) {
            Some(product) if product > 0 && product < 1 << 56 => product,
            _ => return Err(cursor.error(start, &field, format!("has an impossible size: {shape:?}, then {n}"))),
        };
        shape.push(n);
    }
    let id = cursor.u32(&field)?;
    let Some(ty) = TensorType::from_id(id) else {
        return Err(cursor.error(start, &field, format!("has type {id}, which is not known")));
    };
    let row = shape.first().copied().unwrap_or(1);
    let row_bytes = usize::try_from(row).ok().and_then(|n| ty.row_bytes(n).ok()).ok_or_else(|| {
        let problem =
            format!("has rows of {row} elements, expected a multiple of {} for {}", ty.block_len(), ty.name());
        cursor.error(start, &field, problem)
    })?;
    let bytes = (row_bytes as u64).checked_mul(elements / row).filter(|&n| n < 1 << 62);
    let bytes = bytes.and_then(|n| usize::try_from(n).ok());
    let Some(bytes) = bytes else {
        return Err(cursor.error(start, &field, format!("of shape {shape:?} is too large")));
    };
    let offset = cursor.u64(&field)?;
    if offset % alignment != 0 || offset >= 1 << 62 {
        return Err(cursor.error(start, &field, format!("has offset {offset}, expected a multiple of {alignment}")));
    }
    Ok((TensorInfo { name, shape, ty, part: 0, range: 0..bytes }, offset))
}
