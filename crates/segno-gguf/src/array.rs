//! Arrays of metadata: they stay in the file and are decoded on the way.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::parse::Bytes;
use crate::value::{Value, ValueType, encode_string};

/// An array in the file: decoded as it is walked, never as a whole.
#[derive(Clone)]
pub struct Array {
    pub(crate) source: Arc<Bytes>,
    pub(crate) ty: ValueType,
    pub(crate) len: usize,
    /// The elements, checked when the file was opened.
    pub(crate) range: Range<usize>,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {} {:?}", self.len, self.ty)
    }
}

impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        (self.ty, self.len, self.bytes()) == (other.ty, other.len, other.bytes())
    }
}

impl Array {
    /// An array of values, which must be of one type; `None` if they are not, or are arrays.
    pub fn new(ty: ValueType, values: &[Value]) -> Option<Array> {
        if ty == ValueType::Array || values.iter().any(|v| v.value_type() != ty) {
            return None;
        }
        let mut bytes = Vec::new();
        values.iter().for_each(|v| v.encode(&mut bytes));
        let range = 0..bytes.len();
        Some(Array { source: Arc::new(Bytes::Owned(bytes)), ty, len: values.len(), range })
    }

    /// An array of byte strings.
    pub fn of_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Array {
        let mut bytes = Vec::new();
        let mut len = 0;
        for text in strings {
            encode_string(text.as_ref(), &mut bytes);
            len += 1;
        }
        let range = 0..bytes.len();
        Array { source: Arc::new(Bytes::Owned(bytes)), ty: ValueType::String, len, range }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.ty
    }

    /// The elements as they lie in the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.source.as_slice()[self.range.clone()]
    }

    /// Element `i`, without a walk over those before; `None` beyond the end and for strings, which have no
    /// fixed place.
    pub fn get(&self, i: usize) -> Option<Value> {
        let n = self.ty.fixed_bytes()?;
        Value::fixed(self.ty, self.bytes().get(i.checked_mul(n)?..)?)
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        let numbers = self.ty.fixed_bytes().into_iter().flat_map(|n| self.bytes().chunks_exact(n));
        let numbers = numbers.filter_map(|bytes| Value::fixed(self.ty, bytes));
        numbers.chain(self.strings().map(|text| Value::String(String::from_utf8_lossy(text).into_owned())))
    }

    /// The elements of an array of strings as bytes, in order; nothing for other types.
    pub fn strings(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let mut rest = if self.ty == ValueType::String { self.bytes() } else { &[] };
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk::<8>()?;
            let (text, tail) = tail.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            rest = tail;
            Some(text)
        })
    }
}
