//! The parser: from bytes to metadata and a table of tensors, all of it checked.
//!
//! ```text
//! magic "GGUF" | version u32 | tensor count u64 | metadata count u64
//! metadata count x { key: string | value type u32 | value }       string = length u64, bytes
//! tensor count x   { name: string | n_dims u32 | sizes u64 x n_dims | type u32 | offset u64 }
//! padding to the alignment | data: tensor i at its offset
//! ```

use std::ops::Range;
use std::sync::Arc;

use segno_quant::TensorType;

use crate::error::GgufError;
use crate::names::Names;
use crate::parse::{Bytes, Cursor};
use crate::value::Value;

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// Larger ones would only be a way to make a small file seem large.
pub(crate) const MAX_ALIGNMENT: u64 = 1 << 20;
/// Far more than any model has. An entry of a table takes more memory than it takes bytes in the file;
/// these two bound by how much.
const MAX_KEYS: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 17;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Sizes, the contiguous one first; as many as the file gives, up to four.
    pub shape: Vec<u64>,
    /// Element type.
    pub ty: TensorType,
    pub(crate) part: usize,
    pub(crate) range: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        // The product was checked when the file was opened.
        self.shape.iter().product()
    }

    /// Elements of a row, the contiguous direction; 1 for a tensor without sizes.
    pub fn row_len(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Bytes of all rows.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }
}

/// One file, parsed.
pub(crate) struct Part {
    pub file: String,
    pub version: u32,
    pub source: Arc<Bytes>,
    pub metadata: Vec<(String, Value)>,
    pub keys: Names,
    pub tensors: Vec<TensorInfo>,
}

impl Part {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.find(&self.metadata, key, |(key, _)| key).map(|(_, value)| value)
    }
}

/// Parses part number `part` (from 0) of a model.
pub(crate) fn parse(file: &str, bytes: Bytes, part: usize) -> Result<Part, GgufError> {
    let source = Arc::new(bytes);
    let mut cursor = Cursor { file, source: &source, position: 0 };
    let version = version(&mut cursor)?;
    // The least that an entry takes: lengths, types, one byte of name, one of value.
    let n_tensors = limited(&mut cursor, "tensor count", 8 + 1 + 4 + 4 + 8, MAX_TENSORS)?;
    let n_metadata = limited(&mut cursor, "metadata count", 8 + 1 + 4 + 1, MAX_KEYS)?;

    let (mut metadata, mut starts) = (Vec::new(), Vec::new());
    for i in 0..n_metadata {
        starts.push(cursor.position);
        let key = cursor.name(&format!("key {i}"))?;
        let value = cursor.value(&key)?;
        metadata.push((key, value));
    }
    let keys = Names::of(&metadata, |(key, _)| key).map_err(|(first, second)| {
        let problem = format!("is there twice, first at byte {}", starts[first]);
        cursor.error(starts[second], &metadata[second].0, problem)
    })?;
    let alignment = match metadata.iter().position(|(key, _)| key == ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(i) => alignment(&metadata[i].1).map_err(|problem| cursor.error(starts[i], ALIGNMENT_KEY, problem))?,
    };
    let tensors = tensors(&mut cursor, n_tensors, alignment, part)?;
    Ok(Part { file: file.into(), version, source: source.clone(), metadata, keys, tensors })
}

/// Magic and version.
fn version(cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    let bytes = cursor.source.as_slice();
    let kind = |problem: String| GgufError::Kind { file: cursor.file.into(), problem };
    match bytes.get(..MAGIC.len()) {
        Some(magic) if magic == MAGIC => {}
        Some(magic) => {
            let text: String = magic.iter().map(|b| char::from(*b).escape_default().to_string()).collect();
            return Err(kind(format!("is not a GGUF file: it begins with '{text}', expected 'GGUF'")));
        }
        None => return Err(kind(format!("is not a GGUF file: it has {} bytes", bytes.len()))),
    }
    cursor.position = MAGIC.len();
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => Ok(version),
        // Small numbers written by a big-endian machine have zeros where ours begin. (0 itself has no order.)
        1.. if version & 0xffff == 0 => {
            let problem = format!("is big-endian (version {}); convert it to little-endian", version.swap_bytes());
            Err(GgufError::Kind { file: cursor.file.into(), problem })
        }
        _ => Err(cursor.error(MAGIC.len(), "version", format!("is {version}, expected 2 or 3"))),
    }
}

fn limited(cursor: &mut Cursor<'_>, field: &str, least: usize, most: usize) -> Result<usize, GgufError> {
    let start = cursor.position;
    match cursor.count(least, field)? {
        n if n <= most => Ok(n),
        n => Err(cursor.error(start, field, format!("is {n}, expected at most {most}"))),
    }
}

/// What a file may ask for; otherwise what is wrong.
pub(crate) fn alignment(value: &Value) -> Result<u64, String> {
    let fits = |n: &u64| n.is_power_of_two() && *n <= MAX_ALIGNMENT;
    let problem = || format!("is {value:?}, expected a power of two up to {MAX_ALIGNMENT}");
    value.as_u64().filter(fits).ok_or_else(problem)
}

/// The table of tensors and their places.
fn tensors(cursor: &mut Cursor<'_>, n: usize, alignment: u64, part: usize) -> Result<Vec<TensorInfo>, GgufError> {
    let (mut tensors, mut places) = (Vec::new(), Vec::new());
    for i in 0..n {
        let start = cursor.position;
        let (info, offset) = tensor(cursor, i, alignment, part)?;
        places.push((start, offset));
        tensors.push(info);
    }
    let field = |info: &TensorInfo| format!("tensor {}", info.name);
    Names::of(&tensors, |info| &info.name).map_err(|(first, second)| {
        let problem = format!("is there twice, first at byte {}", places[first].0);
        cursor.error(places[second].0, &field(&tensors[second]), problem)
    })?;

    let end = cursor.source.as_slice().len() as u64;
    let data = (cursor.position as u64).next_multiple_of(alignment);
    for (info, &(start, offset)) in tensors.iter_mut().zip(&places) {
        // Offset and size were checked to be below 2^62 each.
        let (from, to) = (data + offset, data + offset + info.range.len() as u64);
        if to > end {
            let problem = format!("its data is bytes {from} to {to}, but the file ends at {end}");
            return Err(cursor.error(start, &field(info), problem));
        }
        info.range = from as usize..to as usize;
    }
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&i| (tensors[i as usize].range.start, tensors[i as usize].range.end));
    for pair in order.windows(2) {
        let (a, b) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if a.range.end > b.range.start {
            let problem = format!("begins at byte {}, inside tensor {}, {:?}", b.range.start, a.name, a.range);
            return Err(cursor.error(places[pair[1] as usize].0, &field(b), problem));
        }
    }
    Ok(tensors)
}

/// One entry of the table: the tensor with its size as range, and its offset.
fn tensor(cursor: &mut Cursor<'_>, i: usize, alignment: u64, part: usize) -> Result<(TensorInfo, u64), GgufError> {
    let name = cursor.name(&format!("name of tensor {i}"))?;
    let field = format!("tensor {name}");
    let start = cursor.position;
    let n_dims = cursor.u32(&field)?;
    if n_dims > 4 {
        return Err(cursor.error(start, &field, format!("has {n_dims} dimensions, expected at most 4")));
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    let mut elements = 1u64;
    for _ in 0..n_dims {
        let start = cursor.position;
        let n = cursor.u64(&field)?;
        elements = match elements.checked_mul(n) {
            Some(product) if product > 0 && product < 1 << 56 => product,
            _ => return Err(cursor.error(start, &field, format!("has an impossible size: {shape:?}, then {n}"))),
        };
        shape.push(n);
    }
    let start = cursor.position;
    let id = cursor.u32(&field)?;
    let ty = TensorType::from_id(id).ok_or_else(|| {
        let problem = match id {
            4 | 5 | 31..=33 | 36..=38 => "which the format has withdrawn; convert the model again",
            _ => "which is not known; it may be newer than this program",
        };
        cursor.error(start, &field, format!("has type {id}, {problem}"))
    })?;
    let row = shape.first().copied().unwrap_or(1);
    let row_bytes = usize::try_from(row).ok().and_then(|n| ty.row_bytes(n).ok()).ok_or_else(|| {
        let problem =
            format!("has rows of {row} elements, expected a multiple of {} for {}", ty.block_len(), ty.name());
        cursor.error(start, &field, problem)
    })?;
    let bytes = (row_bytes as u64).checked_mul(elements / row).filter(|&n| n < 1 << 62);
    let bytes = bytes.and_then(|n| usize::try_from(n).ok());
    let bytes = bytes.ok_or_else(|| cursor.error(start, &field, format!("of shape {shape:?} is too large")))?;
    let start = cursor.position;
    let offset = cursor.u64(&field)?;
    if offset % alignment != 0 || offset >= 1 << 62 {
        return Err(cursor.error(start, &field, format!("has offset {offset}, expected a multiple of {alignment}")));
    }
    Ok((TensorInfo { name, shape, ty, part, range: 0..bytes }, offset))
}
