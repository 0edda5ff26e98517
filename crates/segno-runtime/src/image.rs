//! Checkpoints outside the device: what names one, and its file.
//!
//! docs/checkpoint-format.md describes the bytes. Files are hostile until parsed: every byte is covered by a checksum or
//! must be zero, and no length is believed beyond the file.

use std::fmt;
use std::io::{self, Write};
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use half::bf16;
use segno_ir::{DeviceError, Graph, PAGE_TOKENS, Pending, StateLayout, WeightSource};
use twox_hash::XxHash3_128;

/// A row of a context: a token, or an embedded row's content hash with the top bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u128);

impl From<u32> for Key {
    fn from(token: u32) -> Self {
        Key(token.into())
    }
}

impl Key {
    /// The key of an embedded row.
    pub fn of_row(content: u128) -> Self {
        Key(content | 1 << 127)
    }
}

/// Says which states may stand for each other (design, exactness rule 5): equal in both, same bits; equal in content
/// only, the same within the backends' bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Hash of the file and all that changes what the model means.
    pub content: u128,
    /// Hash of the backend, its variants and the types of stored keys and values.
    pub numerics: u128,
}

/// Bytes of a tensor that are looked at, and at how many places.
const SAMPLE: (usize, usize) = (256, 16);

impl Fingerprint {
    /// Of a model and how it is computed. Of each tensor its name, type, shape and bytes at sixteen places are hashed: a
    /// model of 20 GB is not read for it, and one that was trained further differs all over.
    pub fn of(graph: &Graph, weights: &dyn WeightSource, numerics: &str) -> Self {
        let mut hash = XxHash3_128::new();
        hash.write(format!("{graph:?}").as_bytes());
        for name in weights.names() {
            let Some(tensor) = weights.tensor(&name) else { continue };
            hash.write(format!("{name} {:?} {:?} {}", tensor.ty, tensor.shape, tensor.bytes.len()).as_bytes());
            let (length, places) = SAMPLE;
            for i in 0..places {
                let start = tensor.bytes.len().saturating_sub(length) * i / (places - 1);
                hash.write(&tensor.bytes[start..tensor.bytes.len().min(start + length)]);
            }
        }
        let numerics = format!("{numerics} {}", env!("CARGO_PKG_VERSION"));
        Fingerprint { content: hash.finish_128(), numerics: XxHash3_128::oneshot(numerics.as_bytes()) }
    }

    /// Refuses what was made with another model, or in another way.
    pub fn expect(self, expected: Fingerprint) -> Result<(), ImageError> {
        if self.content != expected.content {
            return Err(ImageError::Content { found: self.content, expected: expected.content });
        }
        match self.numerics == expected.numerics {
            true => Ok(()),
            false => Err(ImageError::Numerics { found: self.numerics, expected: expected.numerics }),
        }
    }
}

/// How the rows that a state has read were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Made {
    /// All by prefill.
    Prefill,
    /// Some one by one while generating, on a device where that gives other bits.
    Mixed,
    /// Some after a state that had been rounded in a file.
    Rounded,
}

/// How a file stores the recurrent states. What is not [`Precision::F32`] is not what was computed: never for exact mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, ties to even: half the bytes, relative error at most 2^-8.
    Bf16,
    /// Blocks of 64 values with an f32 scale: 17/64 of the bytes, error at most 1/254 of a block's largest magnitude.
    Int8,
}

/// Values that share a scale in [`Precision::Int8`].
const BLOCK: usize = 64;

impl Precision {
    const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// Bytes of `n` values.
    fn bytes(self, n: u64) -> Option<u64> {
        match self {
            Precision::F32 => n.checked_mul(4),
            Precision::Bf16 => n.checked_mul(2),
            Precision::Int8 => n.div_ceil(BLOCK as u64).checked_mul(4)?.checked_add(n),
        }
    }

    /// Scales first, then codes. A block with a value that is not finite is decoded as NaN: it was lost before.
    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Precision::F32 => le_bytes(values, f32::to_le_bytes),
            Precision::Bf16 => le_bytes(values, |v| bf16::from_f32(v).to_le_bytes()),
            Precision::Int8 => {
                let most = |block: &[f32]| match block.iter().all(|v| v.is_finite()) {
                    true => block.iter().fold(0.0f32, |most, v| most.max(v.abs())),
                    false => f32::NAN,
                };
                let scales: Vec<f32> = values.chunks(BLOCK).map(|block| most(block) / 127.0).collect();
                let mut bytes = le_bytes(&scales, f32::to_le_bytes);
                for (block, &scale) in values.chunks(BLOCK).zip(&scales) {
                    let code = |&v: &f32| if scale > 0.0 { (v / scale).round_ties_even() as i8 as u8 } else { 0 };
                    bytes.extend(block.iter().map(code));
                }
                bytes
            }
        }
    }

    /// Of bytes whose number was checked.
    fn decode(self, bytes: &[u8], n: usize) -> Vec<f32> {
        match self {
            Precision::F32 => floats(bytes),
            Precision::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Precision::Int8 => {
                let (scales, codes) = bytes.split_at(n.div_ceil(BLOCK) * 4);
                let blocks = codes.chunks(BLOCK).zip(floats(scales));
                blocks.flat_map(|(block, scale)| block.iter().map(move |&c| f32::from(c as i8) * scale)).collect()
            }
        }
    }
}

/// The bytes of a page of keys and values, owned or in a mapped file. Clones share them and their hash.
#[derive(Clone)]
pub struct Page(Arc<PageInner>);

struct PageInner {
    /// Always there in a [`Page`].
    bytes: OnceLock<Result<(Bytes, Range<usize>), DeviceError>>,
    /// Until they are.
    coming: Mutex<Option<Pending<Vec<u8>>>>,
    len: usize,
    hash: OnceLock<u128>,
}

/// A file's bytes, in memory or mapped.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

impl Page {
    /// A part of a file, which must be within it. The file stays mapped while the page lives.
    fn within(bytes: &Bytes, range: Range<usize>) -> Self {
        let (len, bytes) = (range.len(), OnceLock::from(Ok((bytes.clone(), range))));
        Page(Arc::new(PageInner { bytes, coming: Mutex::default(), len, hash: OnceLock::new() }))
    }

    /// Finds the bytes again while somebody holds them.
    pub(crate) fn downgrade(&self) -> WeakPage {
        WeakPage(Arc::downgrade(&self.0))
    }

    /// Hash of the bytes, computed once: names the page in a [`Store`](crate::store::Store).
    pub fn hash(&self) -> u128 {
        *self.0.hash.get_or_init(|| checksum(self))
    }

    /// The hash, if somebody has asked for it before.
    pub(crate) fn known_hash(&self) -> Option<u128> {
        self.0.hash.get().copied()
    }

    /// Whether nobody else holds these bytes.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// A page whose bytes may still be on their way to the host. Whoever wants them first takes them.
#[derive(Clone)]
pub(crate) struct Coming(Arc<PageInner>);

impl Coming {
    /// A page of `len` bytes.
    pub fn new(len: usize, bytes: Pending<Vec<u8>>) -> Self {
        let coming = Mutex::new(Some(bytes));
        Coming(Arc::new(PageInner { bytes: OnceLock::new(), coming, len, hash: OnceLock::new() }))
    }

    fn pending(&self) -> MutexGuard<'_, Option<Pending<Vec<u8>>>> {
        self.0.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, bytes: Result<Vec<u8>, DeviceError>) {
        let whole = |bytes: Vec<u8>| {
            let range = 0..bytes.len();
            (Arc::new(bytes) as Bytes, range)
        };
        self.0.bytes.get_or_init(|| bytes.map(whole));
    }

    /// Whether there is nothing left to wait for.
    pub fn is_here(&self) -> bool {
        let mut pending = self.pending();
        if let Some(bytes) = pending.as_mut().and_then(Pending::try_take) {
            self.fill(bytes);
            *pending = None;
        }
        pending.is_none()
    }

    /// Waits for the bytes.
    pub fn wait(self, timeout: Duration) -> Result<Page, DeviceError> {
        let mut pending = self.pending();
        if let Some(bytes) = pending.take() {
            self.fill(bytes.wait(timeout));
        }
        drop(pending);
        match self.0.bytes.get() {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(Page(self.0)),
        }
    }

    /// Bytes that it has or will have.
    pub fn len(&self) -> usize {
        self.0.len
    }

    pub fn downgrade(&self) -> WeakPage {
        WeakPage(Arc::downgrade(&self.0))
    }
}

/// A page that somebody else may hold.
#[derive(Clone)]
pub(crate) struct WeakPage(Weak<PageInner>);

impl WeakPage {
    /// The page, unless nobody holds it any more or its bytes could not be had.
    pub fn upgrade(&self) -> Option<Coming> {
        self.0.upgrade().filter(|page| !matches!(page.bytes.get(), Some(Err(_)))).map(Coming)
    }

    /// Whether somebody holds it.
    pub fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Names the page as long as this is kept.
    pub fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

impl From<Arc<[u8]>> for Page {
    fn from(bytes: Arc<[u8]>) -> Self {
        let range = 0..bytes.len();
        Page::within(&(Arc::new(bytes) as Bytes), range)
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.0.bytes.get() {
            Some(Ok((bytes, range))) => &(**bytes).as_ref()[range.clone()],
            // No page is made of these.
            _ => &[],
        }
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({} bytes)", self.len())
    }
}

/// Pages of one group, in position order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageTable {
    /// Position of the first page's first token, over [`PAGE_TOKENS`].
    pub first: u32,
    /// Up to the one that holds the last position; all of one size.
    pub pages: Vec<Page>,
}

/// A checkpoint outside the device. Its file is described in docs/checkpoint-format.md.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Of which model, and how it was computed.
    pub fingerprint: Fingerprint,
    /// All that the state has read; at least one.
    pub keys: Vec<Key>,
    /// How.
    pub made: Made,
    /// What the recurrent states have been through.
    pub precision: Precision,
    /// The recurrent states as the pool's layout has them; empty where there are none.
    pub slot: Vec<f32>,
    /// One per page group.
    pub tables: Vec<ImageTable>,
    /// After the last key, if they were kept.
    pub logits: Option<Arc<[f32]>>,
}

/// Why a file is not taken. `place` says which file or part of one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Something else altogether.
    #[error("this is not a checkpoint of Segno: it begins with {found:02x?}")]
    Magic {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// Written by a machine of the other byte order.
    #[error("written in another byte order (mark {found:#010x}); checkpoints are little-endian")]
    ByteOrder {
        /// The mark as read.
        found: u32,
    },
    /// Written by another version.
    #[error("format version {found}; this program reads version {VERSION}")]
    Version {
        /// The file's.
        found: u32,
    },
    /// Another model, or the same with other adapters or overrides.
    #[error("made with another model (content {found:032x}, here {expected:032x})")]
    Content {
        /// The file's.
        found: u128,
        /// The running model's.
        expected: u128,
    },
    /// The same model, computed in another way: equal within the backends' bound only.
    #[error(
        "made with this model on another backend or with other types of keys and values \
         (numerics {found:032x}, here {expected:032x})"
    )]
    Numerics {
        /// The file's.
        found: u128,
        /// The running one's.
        expected: u128,
    },
    /// Bytes are missing.
    #[error("truncated: {place} needs {need} bytes, the file has {have}")]
    Truncated {
        /// What does not fit.
        place: String,
        /// Where it ends.
        need: u64,
        /// The file's length.
        have: u64,
    },
    /// Bytes were changed.
    #[error("the checksum of {place} does not fit its bytes: the file is damaged")]
    Checksum {
        /// What is damaged.
        place: String,
    },
    /// Well checksummed, but it does not say what such a file says; or not for this model.
    #[error("{place}: {reason}")]
    Malformed {
        /// Where.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{place}: {error}")]
    Io {
        /// The file.
        place: String,
        /// What the system said.
        error: io::Error,
    },
}

fn malformed(place: impl fmt::Display, reason: impl Into<String>) -> ImageError {
    ImageError::Malformed { place: place.to_string(), reason: reason.into() }
}

/// The format's version, which changes with every byte that is read differently.
pub const VERSION: u32 = 1;
/// Bytes that text-mode transfers change.
const MAGIC: [u8; 8] = *b"SEGNO\r\n\x1a";
const PAGE_MAGIC: [u8; 8] = *b"SGPAGE\r\n";
const BYTE_ORDER: u32 = 0x0102_0304;
/// Alignment of sections and pages.
const ALIGN: usize = 64;
const HEADER: usize = 128;
const CHECKSUM_AT: usize = 64;
const ENTRY: usize = 64;

fn checksum(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

fn le_bytes<T: Copy, const N: usize>(values: &[T], convert: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    for (to, &value) in bytes.chunks_exact_mut(N).zip(values) {
        to.copy_from_slice(&convert(value));
    }
    bytes
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The `N` bytes at `at`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(bytes, at))
}

/// What a section holds, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Keys = 1,
    Slot,
    Logits,
    Tables,
    Pages,
}

impl Part {
    const ALL: [Part; 5] = [Part::Keys, Part::Slot, Part::Logits, Part::Tables, Part::Pages];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Keys => "section keys",
            Part::Slot => "section slot",
            Part::Logits => "section logits",
            Part::Tables => "section tables",
            Part::Pages => "section pages",
        })
    }
}

/// A section as its table entry describes it.
#[derive(Clone, Debug)]
struct Section {
    part: Part,
    /// Of slots: [`Precision`]; of keys: bytes of a key.
    encoding: u32,
    range: Range<usize>,
    /// Values, or groups, or pages.
    count: u64,
    checksum: u128,
}

/// A group's pages by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableNames {
    pub first: u32,
    pub page_bytes: usize,
    pub hashes: Vec<u128>,
}

/// A file whose header has been checked; each section is checked when it is read.
pub(crate) struct View<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
    pub fingerprint: Fingerprint,
    pub made: Made,
    pub precision: Precision,
}

/// Checks what all files of all versions begin with.
fn check_preamble(bytes: &[u8], magic: [u8; 8]) -> Result<(), ImageError> {
    let found = &bytes[..bytes.len().min(magic.len())];
    if !magic.starts_with(found) {
        return Err(ImageError::Magic { found: found.to_vec() });
    }
    if bytes.len() < 16 {
        return Err(ImageError::Truncated { place: "the header".into(), need: 16, have: bytes.len() as u64 });
    }
    match (u32_at(bytes, 8), u32_at(bytes, 12)) {
        (BYTE_ORDER, VERSION) => Ok(()),
        (BYTE_ORDER, found) => Err(ImageError::Version { found }),
        (found, _) => Err(ImageError::ByteOrder { found }),
    }
}

fn check_zero(bytes: &[u8], place: impl fmt::Display) -> Result<(), ImageError> {
    match bytes.iter().all(|&b| b == 0) {
        true => Ok(()),
        false => Err(malformed(place, "padding is not zero")),
    }
}

impl<'a> View<'a> {
    /// Checks the header, the table of sections and the padding between them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        check_preamble(bytes, MAGIC)?;
        let have = bytes.len() as u64;
        let truncated = |place: &str, need: u64| ImageError::Truncated { place: place.into(), need, have };
        if bytes.len() < HEADER {
            return Err(truncated("the header", HEADER as u64));
        }
        let table = u64::from(u32_at(bytes, 24)) * ENTRY as u64;
        let body = HEADER as u64 + table;
        if have < body {
            return Err(truncated("the table of sections", body));
        }
        let body = body as usize;
        let mut header = bytes[..body].to_vec();
        header[CHECKSUM_AT..CHECKSUM_AT + 16].fill(0);
        if checksum(&header) != u128_at(bytes, CHECKSUM_AT) {
            return Err(ImageError::Checksum { place: "the header".into() });
        }
        match u64_at(bytes, 16) {
            length if length > have => return Err(truncated("the file", length)),
            length if length < have => {
                return Err(malformed("the file", format!("{} bytes follow its end", have - length)));
            }
            _ => {}
        }
        let made = match u32_at(bytes, 28) {
            0 => Made::Prefill,
            1 => Made::Mixed,
            2 => Made::Rounded,
            other => return Err(malformed("the header", format!("kind {other}, expected 0 to 2"))),
        };
        check_zero(&bytes[80..HEADER], "the header")?;

        let mut sections: Vec<Section> = Vec::with_capacity(Part::ALL.len());
        let mut end = body;
        for entry in bytes[HEADER..body].chunks_exact(ENTRY) {
            let id = u32_at(entry, 0);
            let part = Part::ALL.into_iter().find(|p| *p as u32 == id);
            let part = part.ok_or_else(|| malformed("the table of sections", format!("unknown section {id}")))?;
            if sections.last().is_some_and(|last| last.part >= part) {
                return Err(malformed(part, "out of order"));
            }
            let (offset, length) = (u64_at(entry, 8), u64_at(entry, 16));
            let start = end.next_multiple_of(ALIGN);
            if offset != start as u64 {
                return Err(malformed(part, format!("at offset {offset}, expected {start}")));
            }
            let need = offset.saturating_add(length);
            if need > have {
                return Err(truncated(&part.to_string(), need));
            }
            check_zero(&bytes[end..start], part)?;
            check_zero(&entry[48..], part)?;
            end = need as usize;
            let range = start..end;
            let (encoding, count) = (u32_at(entry, 4), u64_at(entry, 24));
            sections.push(Section { part, encoding, range, count, checksum: u128_at(entry, 32) });
        }
        if end.next_multiple_of(ALIGN) != bytes.len() {
            return Err(malformed("the file", format!("its sections end at {end}, its length is {have}")));
        }
        check_zero(&bytes[end..], "the file's end")?;

        let fingerprint = Fingerprint { content: u128_at(bytes, 32), numerics: u128_at(bytes, 48) };
        let mut view = View { bytes, sections, fingerprint, made, precision: Precision::F32 };
        let slot = view.section(Part::Slot)?;
        let precision = Precision::ALL.get(slot.encoding as usize);
        view.precision = *precision.ok_or_else(|| malformed(Part::Slot, format!("precision {}", slot.encoding)))?;
        view.section(Part::Keys)?;
        view.section(Part::Tables)?;
        Ok(view)
    }

    pub fn has_logits(&self) -> bool {
        self.sections.iter().any(|s| s.part == Part::Logits)
    }

    fn section(&self, part: Part) -> Result<&Section, ImageError> {
        self.sections.iter().find(|s| s.part == part).ok_or_else(|| malformed(part, "is missing"))
    }

    /// The bytes of a section of `count` values, `expected` bytes together.
    fn checked(&self, section: &Section, expected: Option<u64>) -> Result<&'a [u8], ImageError> {
        let bytes = &self.bytes[section.range.clone()];
        if expected != Some(bytes.len() as u64) {
            let reason =
                format!("{} bytes do not hold {} of encoding {}", bytes.len(), section.count, section.encoding);
            return Err(malformed(section.part, reason));
        }
        match checksum(bytes) == section.checksum {
            true => Ok(bytes),
            false => Err(ImageError::Checksum { place: section.part.to_string() }),
        }
    }

    pub fn keys(&self) -> Result<Vec<Key>, ImageError> {
        let section = self.section(Part::Keys)?;
        let bytes = self.checked(section, section.count.checked_mul(section.encoding.into()))?;
        match section.encoding {
            _ if bytes.is_empty() || section.count > u32::MAX.into() => {
                Err(malformed(Part::Keys, format!("{} keys", section.count)))
            }
            4 => Ok(bytes.chunks_exact(4).map(|b| Key::from(u32_at(b, 0))).collect()),
            16 => Ok(bytes.chunks_exact(16).map(|b| Key(u128_at(b, 0))).collect()),
            other => Err(malformed(Part::Keys, format!("keys of {other} bytes, expected 4 or 16"))),
        }
    }

    fn slot(&self) -> Result<Vec<f32>, ImageError> {
        let section = self.section(Part::Slot)?;
        let bytes = self.checked(section, self.precision.bytes(section.count))?;
        Ok(self.precision.decode(bytes, section.count as usize))
    }

    fn logits(&self) -> Result<Option<Arc<[f32]>>, ImageError> {
        let Some(section) = self.sections.iter().find(|s| s.part == Part::Logits) else { return Ok(None) };
        if section.encoding != 0 {
            return Err(malformed(Part::Logits, format!("encoding {}, expected 0", section.encoding)));
        }
        Ok(Some(floats(self.checked(section, section.count.checked_mul(4))?).into()))
    }

    /// The page tables of a state that has read `n_keys`.
    pub fn tables(&self, n_keys: usize) -> Result<Vec<TableNames>, ImageError> {
        let section = self.section(Part::Tables)?;
        let mut rest = self.checked(section, Some(section.range.len() as u64))?;
        let mut tables = Vec::new();
        while rest.len() >= 16 {
            let (first, n, page_bytes) = (u32_at(rest, 0), u32_at(rest, 4), u64_at(rest, 8));
            let group = tables.len();
            let names = rest[16..].get(..n as usize * 16);
            let names =
                names.ok_or_else(|| malformed(Part::Tables, format!("group {group} has no room for {n} pages")))?;
            let end = (n_keys as u64).div_ceil(PAGE_TOKENS.into());
            if u64::from(first) + u64::from(n) != end {
                let reason = format!("group {group} has {n} pages from {first}; {n_keys} tokens end in page {end}");
                return Err(malformed(Part::Tables, reason));
            }
            if (n == 0) != (page_bytes == 0) || page_bytes > 1 << 40 {
                return Err(malformed(Part::Tables, format!("group {group} has {n} pages of {page_bytes} bytes")));
            }
            let hashes = names.chunks_exact(16).map(|b| u128_at(b, 0)).collect();
            tables.push(TableNames { first, page_bytes: page_bytes as usize, hashes });
            rest = &rest[16 + names.len()..];
        }
        if !rest.is_empty() || tables.len() as u64 != section.count || section.encoding != 0 {
            return Err(malformed(Part::Tables, format!("{} groups do not fill it", section.count)));
        }
        Ok(tables)
    }

    /// Where the file has each of its pages, if it has them at all.
    fn pages(&self, tables: &[TableNames]) -> Result<Option<Vec<Range<usize>>>, ImageError> {
        let Some(section) = self.sections.iter().find(|s| s.part == Part::Pages) else { return Ok(None) };
        let sizes = tables.iter().flat_map(|t| t.hashes.iter().map(|_| t.page_bytes));
        let (mut at, mut ranges) = (section.range.start, Vec::new());
        for size in sizes {
            let end = at + size;
            let next = end.next_multiple_of(ALIGN);
            if next > section.range.end {
                return Err(malformed(Part::Pages, format!("page {} does not fit", ranges.len())));
            }
            check_zero(&self.bytes[end..next], Part::Pages)?;
            ranges.push(at..end);
            at = next;
        }
        if at != section.range.end || (section.encoding, section.count, section.checksum) != (0, ranges.len() as u64, 0)
        {
            return Err(malformed(Part::Pages, format!("{} pages do not fill it", section.count)));
        }
        Ok(Some(ranges))
    }
}

/// Whether a file has the pages, or only their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The file is complete.
    Inside,
    /// They are files of their own, shared by several checkpoints: [`encode_page`].
    Elsewhere,
}

/// Gets the page of this hash and size.
pub type FetchPage<'a> = &'a mut dyn FnMut(u128, usize) -> Result<Page, ImageError>;

impl Image {
    /// Bytes that it holds beside its pages.
    pub(crate) fn own_bytes(&self) -> u64 {
        let floats = self.slot.len() + self.logits.as_ref().map_or(0, |logits| logits.len());
        (floats * size_of::<f32>() + self.keys.len() * size_of::<Key>()) as u64
    }

    /// All its pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = &Page> {
        self.tables.iter().flat_map(|table| &table.pages)
    }

    /// How a file of this image has its states: once they are rounded, they stay so.
    pub(crate) fn stored_as(&self, precision: Precision) -> Precision {
        match self.precision {
            Precision::F32 => precision,
            rounded => rounded,
        }
    }

    /// Writes the file, with the states in `precision` unless they are rounded already.
    ///
    /// # Errors
    /// Of the writer; [`io::ErrorKind::InvalidInput`] if there are no keys, or the pages of a group differ in size.
    pub fn encode(&self, to: &mut impl Write, precision: Precision, pages: Pages) -> io::Result<()> {
        let invalid = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if self.keys.is_empty() {
            return invalid("a checkpoint has read at least one token");
        }
        let mut tables = Vec::new();
        for table in &self.tables {
            let size = table.pages.first().map_or(0, |page| page.len());
            if table.pages.iter().any(|p| p.len() != size || size == 0) {
                return invalid("the pages of a group differ in size, or are empty");
            }
            tables.extend_from_slice(&table.first.to_le_bytes());
            tables.extend_from_slice(&(table.pages.len() as u32).to_le_bytes());
            tables.extend_from_slice(&(size as u64).to_le_bytes());
            table.pages.iter().for_each(|page| tables.extend_from_slice(&page.hash().to_le_bytes()));
        }
        let precision = self.stored_as(precision);
        let (key_bytes, keys) = match self.keys.iter().all(|k| u32::try_from(k.0).is_ok()) {
            true => (4, le_bytes(&self.keys, |k| (k.0 as u32).to_le_bytes())),
            false => (16, le_bytes(&self.keys, |k| k.0.to_le_bytes())),
        };
        let mut parts = vec![
            (Part::Keys, key_bytes, self.keys.len(), keys),
            (Part::Slot, precision as u32, self.slot.len(), precision.encode(&self.slot)),
        ];
        if let Some(logits) = &self.logits {
            parts.push((Part::Logits, 0, logits.len(), le_bytes(logits, f32::to_le_bytes)));
        }
        parts.push((Part::Tables, 0, self.tables.len(), tables));

        let inside: Vec<&Page> = match pages {
            Pages::Inside => self.tables.iter().flat_map(|t| &t.pages).collect(),
            Pages::Elsewhere => Vec::new(),
        };
        let n_sections = parts.len() + usize::from(pages == Pages::Inside);
        let mut end = HEADER + n_sections * ENTRY;
        let mut entries = Vec::new();
        let mut entry = |part: Part, encoding: u32, count: usize, length: usize, checksum: u128| {
            let offset = end.next_multiple_of(ALIGN);
            end = offset + length;
            entries.extend_from_slice(&(part as u32).to_le_bytes());
            entries.extend_from_slice(&encoding.to_le_bytes());
            [offset, length, count].iter().for_each(|&n| entries.extend_from_slice(&(n as u64).to_le_bytes()));
            entries.extend_from_slice(&checksum.to_le_bytes());
            entries.extend_from_slice(&[0; 16]);
        };
        for (part, encoding, count, bytes) in &parts {
            entry(*part, *encoding, *count, bytes.len(), checksum(bytes));
        }
        if pages == Pages::Inside {
            // Each page has its own hash, in the tables.
            entry(Part::Pages, 0, inside.len(), inside.iter().map(|p| p.len().next_multiple_of(ALIGN)).sum(), 0);
        }

        let mut header = Vec::with_capacity(HEADER + entries.len());
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&BYTE_ORDER.to_le_bytes());
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(end.next_multiple_of(ALIGN) as u64).to_le_bytes());
        header.extend_from_slice(&(n_sections as u32).to_le_bytes());
        header.extend_from_slice(&(self.made as u32).to_le_bytes());
        header.extend_from_slice(&self.fingerprint.content.to_le_bytes());
        header.extend_from_slice(&self.fingerprint.numerics.to_le_bytes());
        header.resize(HEADER, 0);
        header.extend(entries);
        let sum = checksum(&header);
        header[CHECKSUM_AT..CHECKSUM_AT + 16].copy_from_slice(&sum.to_le_bytes());
        to.write_all(&header)?;
        for bytes in parts.iter().map(|p| &p.3[..]).chain(inside.iter().map(|p| &p[..])) {
            write_padded(to, bytes)?;
        }
        Ok(())
    }

    /// Reads a file and checks all of it. Pages are views into `file` where it has them; those that it only names come
    /// from `fetch`. Takes no more memory than a small multiple of the file's size.
    pub fn decode(file: &Bytes, expected: Fingerprint, fetch: FetchPage<'_>) -> Result<Image, ImageError> {
        let view = View::parse((**file).as_ref())?;
        view.fingerprint.expect(expected)?;
        let keys = view.keys()?;
        let slot = view.slot()?;
        let logits = view.logits()?;
        let names = view.tables(keys.len())?;
        let mut inside = view.pages(&names)?.map(Vec::into_iter);
        let mut tables = Vec::new();
        for (group, table) in names.into_iter().enumerate() {
            let mut pages = Vec::new();
            for (i, &hash) in table.hashes.iter().enumerate() {
                let page = match inside.as_mut().and_then(Iterator::next) {
                    Some(range) => Page::within(file, range),
                    None => fetch(hash, table.page_bytes)?,
                };
                if page.len() != table.page_bytes || page.hash() != hash {
                    return Err(ImageError::Checksum { place: format!("page {i} of group {group}") });
                }
                pages.push(page);
            }
            tables.push(ImageTable { first: table.first, pages });
        }
        Ok(Image {
            fingerprint: view.fingerprint,
            keys,
            made: view.made,
            precision: view.precision,
            slot,
            tables,
            logits,
        })
    }

    /// Checks that a pool of this layout can take the state, and that the logits are as many as the model's.
    pub fn check(&self, layout: &StateLayout, n_logits: usize) -> Result<(), ImageError> {
        let n = self.keys.len() as u32;
        if self.slot.len() != layout.slot_floats {
            let reason = format!("{} values, the model has {}", self.slot.len(), layout.slot_floats);
            return Err(malformed(Part::Slot, reason));
        }
        if self.logits.as_ref().is_some_and(|l| l.len() != n_logits) {
            return Err(malformed(Part::Logits, format!("not the model's {n_logits}")));
        }
        if self.tables.len() != layout.groups.len() {
            let reason = format!("{} groups, the model has {}", self.tables.len(), layout.groups.len());
            return Err(malformed(Part::Tables, reason));
        }
        for (i, (table, group)) in self.tables.iter().zip(&layout.groups).enumerate() {
            let seen = group.window.map_or(0, |w| (n + 1).saturating_sub(w)) / PAGE_TOKENS;
            let end = table.first as usize + table.pages.len();
            if table.first > seen || end != n.div_ceil(PAGE_TOKENS) as usize {
                let reason = format!("group {i} has pages {}..{end}; {n} tokens see those from {seen}", table.first);
                return Err(malformed(Part::Tables, reason));
            }
            if let Some(page) = table.pages.iter().find(|p| p.len() != group.page_bytes) {
                let reason = format!("group {i} has pages of {} bytes, the model's {}", page.len(), group.page_bytes);
                return Err(malformed(Part::Tables, reason));
            }
        }
        Ok(())
    }
}

fn write_padded(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.write_all(&[0; ALIGN][..bytes.len().next_multiple_of(ALIGN) - bytes.len()])
}

/// Bytes of the file of a page of `n` bytes.
pub(crate) fn page_file_bytes(n: usize) -> u64 {
    (ALIGN + n.next_multiple_of(ALIGN)) as u64
}

/// Writes a page as a file of its own.
pub fn encode_page(page: &Page, to: &mut impl Write) -> io::Result<()> {
    let mut header = Vec::with_capacity(ALIGN);
    header.extend_from_slice(&PAGE_MAGIC);
    header.extend_from_slice(&BYTE_ORDER.to_le_bytes());
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(page.len() as u64).to_le_bytes());
    header.resize(ALIGN, 0);
    to.write_all(&header)?;
    write_padded(to, page)
}

/// Reads the file of the page of this hash and size; the result is a view into it.
pub fn decode_page(file: &Bytes, hash: u128, page_bytes: usize) -> Result<Page, ImageError> {
    let bytes = (**file).as_ref();
    let (have, need) = (bytes.len() as u64, page_file_bytes(page_bytes));
    check_preamble(bytes, PAGE_MAGIC)?;
    if have < need {
        return Err(ImageError::Truncated { place: "the page".into(), need, have });
    }
    if u64_at(bytes, 16) != page_bytes as u64 || have != need {
        let reason = format!("{} bytes in a file of {have}, expected {page_bytes}", u64_at(bytes, 16));
        return Err(malformed("the page", reason));
    }
    check_zero(&bytes[24..ALIGN], "the page's header")?;
    check_zero(&bytes[ALIGN + page_bytes..], "the page's end")?;
    let page = Page::within(file, ALIGN..ALIGN + page_bytes);
    match page.hash() == hash {
        true => Ok(page),
        false => Err(ImageError::Checksum { place: format!("page {hash:032x}") }),
    }
}

/// Makes the checksums of a changed file fit again: for tests that must get past them.
#[doc(hidden)]
pub fn reseal(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    let body = HEADER.saturating_add((u32_at(bytes, 24) as usize).saturating_mul(ENTRY));
    if body > bytes.len() {
        return;
    }
    for at in (HEADER..body).step_by(ENTRY) {
        let (start, length) = (u64_at(bytes, at + 8) as usize, u64_at(bytes, at + 16) as usize);
        let section = bytes.get(start..).and_then(|rest| rest.get(..length));
        if let Some(section) = section
            && u32_at(bytes, at) != Part::Pages as u32
        {
            let sum = checksum(section).to_le_bytes();
            bytes[at + 32..at + 48].copy_from_slice(&sum);
        }
    }
    bytes[CHECKSUM_AT..CHECKSUM_AT + 16].fill(0);
    let sum = checksum(&bytes[..body]).to_le_bytes();
    bytes[CHECKSUM_AT..CHECKSUM_AT + 16].copy_from_slice(&sum);
}
