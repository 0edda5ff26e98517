//! Metadata values.

use std::fmt;

use crate::array::Array;

/// Types of metadata values, by their numbers in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// 0.
    U8,
    /// 1.
    I8,
    /// 2.
    U16,
    /// 3.
    I16,
    /// 4.
    U32,
    /// 5.
    I32,
    /// 6.
    F32,
    /// 7: one byte, 0 or 1.
    Bool,
    /// 8: a u64 length and that many bytes.
    String,
    /// 9: an element type, a u64 count, the elements.
    Array,
    /// 10.
    U64,
    /// 11.
    I64,
    /// 12.
    F64,
}

impl ValueType {
    /// All types, at the index of their number.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The number in the file.
    pub fn id(self) -> u32 {
        Self::ALL.iter().position(|&t| t == self).unwrap_or_default() as u32
    }

    /// Bytes of a value, where all have the same.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }
}

/// A metadata value.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// 8 bits, unsigned.
    U8(u8),
    /// 8 bits, signed.
    I8(i8),
    /// 16 bits, unsigned.
    U16(u16),
    /// 16 bits, signed.
    I16(i16),
    /// 32 bits, unsigned.
    U32(u32),
    /// 32 bits, signed.
    I32(i32),
    /// 32 bits, floating.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// Text; what is not UTF-8 is replaced.
    String(String),
    /// Values of one type.
    Array(Array),
    /// 64 bits, unsigned.
    U64(u64),
    /// 64 bits, signed.
    I64(i64),
    /// 64 bits, floating.
    F64(f64),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(text) if text.len() > 200 => write!(f, "a string of {} bytes", text.len()),
            Value::String(text) => write!(f, "{text:?}"),
            Value::Array(array) => write!(f, "{array:?}"),
            Value::Bool(flag) => write!(f, "{flag}"),
            _ => match (self.as_u64(), self.as_i64(), self.as_f64()) {
                (Some(n), _, _) => write!(f, "{n}"),
                (_, Some(n), _) => write!(f, "{n}"),
                (_, _, n) => write!(f, "{}", n.unwrap_or(f64::NAN)),
            },
        }
    }
}

impl Value {
    /// The type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// An integer of any width that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            _ => self.as_i64().and_then(|n| u64::try_from(n).ok()),
        }
    }

    /// An integer of any width that fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::I8(n) => Some(n.into()),
            Value::I16(n) => Some(n.into()),
            Value::I32(n) => Some(n.into()),
            Value::I64(n) => Some(n),
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => i64::try_from(n).ok(),
            _ => None,
        }
    }

    /// A number of any kind.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => self.as_i64().map(|n| n as f64).or_else(|| self.as_u64().map(|n| n as f64)),
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Values of one type.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// A value of a fixed size, from its bytes.
    pub(crate) fn fixed(ty: ValueType, bytes: &[u8]) -> Option<Value> {
        fn read<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.get(..N)?.try_into().ok()
        }
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(read(bytes)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(read(bytes)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(read(bytes)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(read(bytes)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(read(bytes)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(read(bytes)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(read(bytes)?)),
            ValueType::Bool => Value::Bool(bytes.first()? != &0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(read(bytes)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(read(bytes)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(read(bytes)?)),
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// The bytes in the file, without the type's number.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(n) => out.push(*n),
            Value::I8(n) => out.extend(n.to_le_bytes()),
            Value::U16(n) => out.extend(n.to_le_bytes()),
            Value::I16(n) => out.extend(n.to_le_bytes()),
            Value::U32(n) => out.extend(n.to_le_bytes()),
            Value::I32(n) => out.extend(n.to_le_bytes()),
            Value::F32(x) => out.extend(x.to_le_bytes()),
            Value::Bool(flag) => out.push(u8::from(*flag)),
            Value::String(text) => encode_string(text.as_bytes(), out),
            Value::Array(array) => {
                out.extend(array.element_type().id().to_le_bytes());
                out.extend((array.len() as u64).to_le_bytes());
                out.extend_from_slice(array.bytes());
            }
            Value::U64(n) => out.extend(n.to_le_bytes()),
            Value::I64(n) => out.extend(n.to_le_bytes()),
            Value::F64(x) => out.extend(x.to_le_bytes()),
        }
    }
}

pub(crate) fn encode_string(text: &[u8], out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

macro_rules! from {
    ($($rust:ty => $variant:ident),*) => {
        $(impl From<$rust> for Value { fn from(value: $rust) -> Value { Value::$variant(value) } })*
    };
}
from!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64, f32 => F32,
    f64 => F64, bool => Bool, String => String, Array => Array
);

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}
