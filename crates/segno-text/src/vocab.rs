//! The vocabulary: what a file gives, and the form the tokenizers work on.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::error::TextError;

/// Ids above this are kept free for the BPE's own symbols.
const MAX_TOKENS: usize = 1 << 30;

/// Everything a model file says about its vocabulary, as plain data. The comments name the GGUF keys, all below
/// `tokenizer.ggml.` where no other prefix stands.
#[derive(Clone, Debug, Default)]
pub struct VocabSource {
    /// `model`: `gpt2`, `llama`, `gemma4`, `t5`, `rwkv` or `plamo2`.
    pub model: String,
    /// `pre`: the splitting rule of byte-level BPE; empty if the file has none.
    pub pre: String,
    /// `general.name`; some rules go by it, for lack of a key.
    pub name: String,
    /// `tokens`: one byte string for each id. They should be UTF-8, but need not be.
    pub tokens: Vec<Vec<u8>>,
    /// `scores`: as many as tokens, or empty (all 0).
    pub scores: Vec<f32>,
    /// `token_type`: as many as tokens, or empty (all normal). See [`TokenKind`] for the numbers.
    pub token_types: Vec<i32>,
    /// `merges`: `left right`, best first; empty for vocabularies without.
    pub merges: Vec<Vec<u8>>,
    /// The `*_token_id` keys.
    pub special: SpecialIds,
    /// `add_bos_token`; `None` takes the default of the model kind.
    pub add_bos: Option<bool>,
    /// `add_eos_token`; `None` takes the default of the model kind.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; `None` takes the default of the model kind.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces` (unigram only).
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap` (unigram only); empty if absent.
    pub precompiled_charsmap: Vec<u8>,
    /// `tokenizer.chat_template`: the Jinja source. Not used by [`crate::Tokenizer`]; see
    /// [`crate::ChatTemplate`].
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`: further templates by name.
    pub chat_templates: Vec<(String, String)>,
}

/// Ids with a meaning of their own. Absent ones are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of sequence (`bos_token_id`).
    pub bos: Option<u32>,
    /// End of sequence (`eos_token_id`).
    pub eos: Option<u32>,
    /// End of turn (`eot_token_id`).
    pub eot: Option<u32>,
    /// End of message (`eom_token_id`).
    pub eom: Option<u32>,
    /// Unknown (`unknown_token_id`).
    pub unk: Option<u32>,
    /// Separator (`seperator_token_id`, spelled so in files).
    pub sep: Option<u32>,
    /// Padding (`padding_token_id`).
    pub pad: Option<u32>,
    /// Classification (`cls_token_id`).
    pub cls: Option<u32>,
    /// Mask (`mask_token_id`).
    pub mask: Option<u32>,
    /// Fill in the middle: before the text in front of the gap (`fim_pre_token_id`).
    pub fim_pre: Option<u32>,
    /// Fill in the middle: before the text behind the gap (`fim_suf_token_id`).
    pub fim_suf: Option<u32>,
    /// Fill in the middle: before the text to be written (`fim_mid_token_id`).
    pub fim_mid: Option<u32>,
    /// Fill in the middle: padding (`fim_pad_token_id`).
    pub fim_pad: Option<u32>,
    /// Fill in the middle: repository name (`fim_rep_token_id`).
    pub fim_rep: Option<u32>,
    /// Fill in the middle: file separator (`fim_sep_token_id`).
    pub fim_sep: Option<u32>,
}

impl SpecialIds {
    /// Runs `change` over each id in place.
    pub(crate) fn for_each_mut(&mut self, mut change: impl FnMut(&mut Option<u32>)) {
        let Self { bos, eos, eot, eom, unk, sep, pad, cls, mask, fim_pre, fim_suf, fim_mid, fim_pad, fim_rep, fim_sep } =
            self;
        for id in [bos, eos, eot, eom, unk, sep, pad, cls, mask, fim_pre, fim_suf, fim_mid, fim_pad, fim_rep, fim_sep] {
            change(id);
        }
    }
}

/// What a token is for (`token_type` in files).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// 1: text.
    Normal,
    /// 2: stands for what no token covers.
    Unknown,
    /// 3: steers the model; never read out of plain text, prints nothing.
    Control,
    /// 4: always matched whole, also in plain text.
    UserDefined,
    /// 5: a place held free.
    Unused,
    /// 6: one byte, written `<0xXX>`.
    Byte,
}

impl TokenKind {
    /// The kind of a file's number. Numbers that no version of the format has count as normal.
    fn from_code(code: i32) -> Self {
        match code {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// Byte strings in one allocation.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    /// End of each string; it starts where the one before ends.
    ends: Vec<usize>,
}

impl Arena {
    pub(crate) fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

/// Distinct byte strings, numbered in the order they came, found by content.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    arena: Arena,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// With room for `n` strings.
    fn with_capacity(n: usize) -> Self {
        Self { index: HashTable::with_capacity(n), ..Self::default() }
    }

    pub(crate) fn get(&self, id: u32) -> Option<&[u8]> {
        self.arena.get(id as usize)
    }

    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        self.index.find(self.hasher.hash_one(text), |&id| self.get(id) == Some(text)).copied()
    }

    /// Adds `text` under the next number, or says which number has it already.
    pub(crate) fn insert(&mut self, text: &[u8]) -> Result<u32, u32> {
        if let Some(id) = self.find(text) {
            return Err(id);
        }
        let id = self.arena.len() as u32;
        self.arena.push(text);
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.index.insert_unique(hasher.hash_one(text), id, |&id| {
            hasher.hash_one(arena.get(id as usize).unwrap_or_default())
        });
        Ok(id)
    }
}

/// Token texts as the file has them, with kinds and scores.
#[derive(Debug)]
pub(crate) struct Vocab {
    texts: Interner,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    /// Length of the longest token in bytes.
    max_len: usize,
}

impl Vocab {
    pub(crate) fn new(tokens: &[Vec<u8>], token_types: &[i32], scores: Vec<f32>) -> Result<Self, TextError> {
        let n = tokens.len();
        if n == 0 {
            return Err(TextError::NoTokens);
        }
        if n > MAX_TOKENS {
            return Err(TextError::TooManyTokens { found: n, limit: MAX_TOKENS });
        }
        for (list, found) in [("tokenizer.ggml.scores", scores.len()), ("tokenizer.ggml.token_type", token_types.len())]
        {
            if found != 0 && found != n {
                return Err(TextError::LengthMismatch { list, found, tokens: n });
            }
        }
        let mut texts = Interner::with_capacity(n);
        let mut max_len = 0;
        let mut placeholder;
        for (id, text) in tokens.iter().enumerate() {
            let mut text = text.as_slice();
            if text.is_empty() {
                // Files pad with empty strings; each needs a text of its own.
                placeholder = format!("[EMPTY_{id}]");
                text = placeholder.as_bytes();
            }
            max_len = max_len.max(text.len());
            texts.insert(text).map_err(|first| TextError::DuplicateToken {
                text: String::from_utf8_lossy(text).into_owned(),
                first,
                second: id as u32,
            })?;
        }
        let kinds = if token_types.is_empty() {
            vec![TokenKind::Normal; n]
        } else {
            token_types.iter().map(|&code| TokenKind::from_code(code)).collect()
        };
        Ok(Self { texts, kinds, scores, max_len })
    }

    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(crate) fn text(&self, id: u32) -> Option<&[u8]> {
        self.texts.get(id)
    }

    pub(crate) fn find(&self, text: &[u8]) -> Option<u32> {
        // Hashing a long text only to find that no token is that long would make merging quadratic.
        if text.len() > self.max_len {
            return None;
        }
        self.texts.find(text)
    }

    pub(crate) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    pub(crate) fn set_kind(&mut self, id: u32, kind: TokenKind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    pub(crate) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// All ids with text and kind, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &[u8], TokenKind)> {
        (0..self.len() as u32).filter_map(|id| Some((id, self.text(id)?, self.kind(id)?)))
    }

    /// The token of one byte: `<0xXX>`, or the byte itself.
    pub(crate) fn byte_token(&self, byte: u8) -> Option<u32> {
        self.find(format!("<0x{byte:02X}>").as_bytes()).or_else(|| self.find(&[byte]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_tokens_get_names_and_duplicates_are_refused() {
        let vocab = Vocab::new(&[vec![], b"a".to_vec(), vec![]], &[], vec![]).unwrap();
        assert_eq!(vocab.text(0), Some(&b"[EMPTY_0]"[..]));
        assert_eq!(vocab.find(b"[EMPTY_2]"), Some(2));
        let error = Vocab::new(&[b"x".to_vec(), b"x".to_vec()], &[], vec![]).unwrap_err();
        assert_eq!(error, TextError::DuplicateToken { text: "x".into(), first: 0, second: 1 });
    }

    #[test]
    fn lists_of_another_length_are_refused() {
        let error = Vocab::new(&[b"x".to_vec()], &[1, 1], vec![]).unwrap_err();
        assert!(error.to_string().contains("token_type has 2 entries"));
    }
}
