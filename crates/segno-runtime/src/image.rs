//! What names a checkpoint: the rows that it has read, the model and the way in which they were computed.

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

/// How the rows that a state has read were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Made {
    /// All by prefill.
    Prefill,
    /// Some one by one while generating, on a device where that gives other bits.
    Mixed,
}
