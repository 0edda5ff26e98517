//! The reader: a file, or several that belong together.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::GgufError;
use crate::header::{Part, TensorInfo, parse};
use crate::names::Names;
use crate::parse::Bytes;
use crate::value::Value;

/// More parts than any model has.
const MAX_PARTS: u64 = 1024;

/// An opened file. Cheap to clone; shared freely.
#[derive(Clone)]
pub struct Gguf(Arc<Inner>);

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = &self.0.first;
        write!(f, "Gguf({}, {} keys, {} tensors)", first.file, first.metadata.len(), first.tensors.len())
    }
}

struct Inner {
    /// The first part, with the tensors of all.
    first: Part,
    names: Names,
    /// Bytes of all parts.
    sources: Vec<Arc<Bytes>>,
}

impl Gguf {
    /// Opens and maps a file, and its other parts if it is the first of several: `split.count` says how
    /// many, their names follow from the first's, `PREFIX-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// If the system refuses to open a file, it is no GGUF file or a broken one, it is a part but not the
    /// first, or the parts do not belong together.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        let path = path.as_ref();
        let first = parse(&path.display().to_string(), map(path)?, 0)?;
        let mut sources = vec![first.source.clone()];
        let first = join(path, first, &mut sources)?;
        Gguf::new(first, sources)
    }

    /// Reads a file that is part of the program.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn from_static(bytes: &'static [u8]) -> Result<Gguf, GgufError> {
        Gguf::single(parse("built-in file", Bytes::Static(bytes), 0)?)
    }

    /// Reads a file that is in memory; a `Vec` is taken as it is, slices are copied.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Gguf, GgufError> {
        Gguf::single(parse("file in memory", Bytes::Owned(bytes.into()), 0)?)
    }

    fn single(part: Part) -> Result<Gguf, GgufError> {
        let sources = vec![part.source.clone()];
        Gguf::new(part, sources)
    }

    fn new(first: Part, sources: Vec<Arc<Bytes>>) -> Result<Gguf, GgufError> {
        // Within a part this was checked; here it is about several.
        let names = Names::of(&first.tensors, |info| &info.name).map_err(|(a, b)| {
            let (a, b) = (&first.tensors[a], &first.tensors[b]);
            let problem = format!("part {} has tensor {}, which part {} has too", b.part + 1, b.name, a.part + 1);
            GgufError::Kind { file: first.file.clone(), problem }
        })?;
        Ok(Gguf(Arc::new(Inner { first, names, sources })))
    }

    /// The path, or what it is instead.
    pub fn file(&self) -> &str {
        &self.0.first.file
    }

    /// Version of the format, 2 or 3; they differ in nothing that is read here.
    pub fn version(&self) -> u32 {
        self.0.first.version
    }

    /// Number of files: 1, or as many as the model was split into.
    pub fn n_parts(&self) -> usize {
        self.0.sources.len()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.first.get(key)
    }

    /// Keys and values, in file order; of a split model those of the first part.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.first.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Tensors, in file order, those of the first part first.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.0.first.tensors.iter()
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.0.names.find(&self.0.first.tensors, name, |info| &info.name)
    }

    /// A tensor's bytes: whole blocks, row after row. `info` must be this file's; of another file's the
    /// bytes are unspecified, and empty if there are none at its place.
    pub fn tensor_bytes(&self, info: &TensorInfo) -> &[u8] {
        let part = self.0.sources.get(info.part).map_or(&[][..], |p| p.as_slice());
        part.get(info.range.clone()).unwrap_or_default()
    }
}

fn map(path: &Path) -> Result<Bytes, GgufError> {
    let fail = |source| GgufError::Io { file: path.display().to_string(), source };
    // Asked before opening: to open a pipe is to wait for its writer.
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "is a folder" } else { "is not a regular file" };
        let problem = format!("{found}, expected a GGUF file");
        return Err(GgufError::Kind { file: path.display().to_string(), problem });
    }
    let file = File::open(path).map_err(fail)?;
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

/// Adds the tensors of the other parts to the first, if there are any.
fn join(path: &Path, mut first: Part, sources: &mut Vec<Arc<Bytes>>) -> Result<Part, GgufError> {
    let number = |part: &Part, key: &str| part.get(key).and_then(Value::as_u64);
    let count = number(&first, "split.count").unwrap_or(0);
    if count <= 1 {
        return Ok(first);
    }
    let kind = |file: &str, problem: String| GgufError::Kind { file: file.into(), problem };
    if let Some(no) = number(&first, "split.no").filter(|&no| no != 0) {
        let problem = format!("is part {} of {count}; open the first part", no.saturating_add(1));
        return Err(kind(&first.file, problem));
    }
    if count > MAX_PARTS {
        let problem = format!("says it has {count} parts, expected at most {MAX_PARTS}");
        return Err(kind(&first.file, problem));
    }
    for no in 1..count {
        let other = part_path(path, no, count).ok_or_else(|| {
            let problem =
                format!("is the first of {count} parts, but its name does not end in -00001-of-{count:05}.gguf");
            kind(&first.file, problem)
        })?;
        let part = parse(&other.display().to_string(), map(&other)?, no as usize)?;
        for (key, expected) in [("split.no", no), ("split.count", count)] {
            if let Some(found) = number(&part, key).filter(|&found| found != expected) {
                return Err(kind(&part.file, format!("has {key} {found}, expected {expected}")));
            }
        }
        sources.push(part.source);
        first.tensors.extend(part.tensors);
    }
    if let Some(total) = number(&first, "split.tensors.count").filter(|&n| n != first.tensors.len() as u64) {
        let problem = format!("its parts have {} tensors, expected {total}", first.tensors.len());
        return Err(kind(&first.file, problem));
    }
    Ok(first)
}

/// The path of part `no` (from 0), from that of the first.
fn part_path(first: &Path, no: u64, count: u64) -> Option<PathBuf> {
    let name = first.file_name()?.to_str()?;
    let prefix = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(first.with_file_name(format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1)))
}
