//! Unigram vocabularies (T5 and relatives): normalise, then find the likeliest segmentation.

use crate::bytes::{lead_len, sanitize};
use crate::error::TextError;
use crate::trie::Trie;
use crate::vocab::{TokenKind, Vocab};

const SPACE: &[u8] = "\u{2581}".as_bytes();

/// How much worse than the worst token an unknown character is.
const UNKNOWN_PENALTY: f32 = 10.0;

#[derive(Debug)]
pub(crate) struct Ugm {
    tokens: Trie,
    user_defined: Trie,
    charsmap: Option<Charsmap>,
    unknown_score: f64,
    unk: Option<u32>,
    add_space_prefix: bool,
    remove_extra_spaces: bool,
}

/// The best way to a position.
#[derive(Clone, Copy)]
struct Step {
    score: f64,
    from: usize,
    /// `None`: a character no token covers.
    token: Option<u32>,
}

impl Ugm {
    pub(crate) fn new(
        vocab: &Vocab,
        charsmap: &[u8],
        unk: Option<u32>,
        add_space_prefix: bool,
        remove_extra_spaces: bool,
    ) -> Result<Self, TextError> {
        let of_kinds = |kinds: &[TokenKind]| {
            let entries = vocab.iter().filter(|(_, _, kind)| kinds.contains(kind));
            Trie::new(entries.map(|(id, text, _)| (text.to_vec(), id)).collect())
        };
        let worst = vocab
            .iter()
            .filter(|(_, _, kind)| *kind == TokenKind::Normal)
            .map(|(id, ..)| vocab.score(id))
            .reduce(f32::min)
            .unwrap_or(0.0);
        Ok(Self {
            tokens: of_kinds(&[TokenKind::Normal, TokenKind::UserDefined, TokenKind::Unused]),
            user_defined: of_kinds(&[TokenKind::UserDefined]),
            charsmap: if charsmap.is_empty() { None } else { Some(Charsmap::new(charsmap)?) },
            unknown_score: f64::from(worst - UNKNOWN_PENALTY),
            unk,
            add_space_prefix,
            remove_extra_spaces,
        })
    }

    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], ids: &mut Vec<u32>) {
        let text = self.normalise(text);
        let mut steps = vec![Step { score: f64::NEG_INFINITY, from: 0, token: None }; text.len() + 1];
        steps[0].score = 0.0;
        let mut at = 0;
        while at < text.len() {
            let so_far = steps[at].score;
            let character = lead_len(text[at]).min(text.len() - at);
            let mut covered = false;
            for (len, token) in self.tokens.prefixes(&text[at..]) {
                covered |= len == character;
                let own = match vocab.kind(token) {
                    Some(TokenKind::UserDefined) => 0.0,
                    _ => f64::from(vocab.score(token)),
                };
                steps[at + len].improve(Step { score: so_far + own, from: at, token: Some(token) });
            }
            if !covered {
                let unknown = Step { score: so_far + self.unknown_score, from: at, token: None };
                steps[at + character].improve(unknown);
            }
            at += character;
        }
        let first = ids.len();
        let mut at = text.len();
        let mut after_unknown = false;
        while at > 0 {
            let step = steps[at];
            match step.token {
                Some(token) => ids.push(token),
                // Neighbouring unknown characters are one unknown token.
                None if after_unknown => {}
                None => ids.extend(self.unk),
            }
            after_unknown = step.token.is_none();
            // Every step comes from before; the bound keeps a broken vocabulary from looping.
            at = step.from.min(at - 1);
        }
        ids[first..].reverse();
    }

    fn normalise(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + text.len() / 2);
        let mut begun = false;
        let mut in_word = false;
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, consumed) = self.normalise_prefix(rest);
            for &byte in &*piece {
                if byte == b' ' {
                    in_word = false;
                    if !self.remove_extra_spaces {
                        out.extend_from_slice(SPACE);
                    }
                    continue;
                }
                if !in_word {
                    in_word = true;
                    if self.remove_extra_spaces || self.add_space_prefix && !begun {
                        out.extend_from_slice(SPACE);
                        begun = true;
                    }
                }
                out.push(byte);
            }
            rest = &rest[consumed..];
        }
        out
    }

    /// What the beginning of `text`, never empty, becomes, and how much of it that was.
    fn normalise_prefix<'a>(&'a self, text: &'a [u8]) -> (std::borrow::Cow<'a, [u8]>, usize) {
        if let Some((len, _)) = self.user_defined.longest(text) {
            return (text[..len].into(), len);
        }
        if let Some((replacement, len)) = self.charsmap.as_ref().and_then(|map| map.longest(text)) {
            return (replacement.into(), len);
        }
        // One character; a byte that begins none stands alone and becomes U+FFFD.
        let len = lead_len(text[0]).min(text.len());
        let whole = text[1..len].iter().all(|byte| byte & 0xC0 == 0x80) && len == lead_len(text[0]);
        let len = if whole { len } else { 1 };
        (sanitize(&text[..len]), len)
    }
}

impl Step {
    fn improve(&mut self, other: Self) {
        if other.score > self.score {
            *self = other;
        }
    }
}

/// Sentencepiece's normaliser: a double array, XOR-linked, whose leaves point at replacement texts.
#[derive(Debug)]
struct Charsmap {
    nodes: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    fn new(bytes: &[u8]) -> Result<Self, TextError> {
        let wrong = |reason: String| TextError::Charsmap { reason };
        let (size, rest) = bytes
            .split_first_chunk()
            .ok_or_else(|| wrong(format!("{} bytes cannot hold the size of the table", bytes.len())))?;
        let size = u32::from_le_bytes(*size) as usize;
        if !size.is_multiple_of(4) || size >= rest.len() {
            return Err(wrong(format!(
                "the table is said to have {size} bytes; expected a multiple of 4 below the {} that follow",
                rest.len()
            )));
        }
        let (table, replacements) = rest.split_at(size);
        if replacements.last() != Some(&0) {
            return Err(wrong("the last replacement text has no end".into()));
        }
        let nodes = table.chunks_exact(4).map(|node| u32::from_le_bytes([node[0], node[1], node[2], node[3]]));
        Ok(Self { nodes: nodes.collect(), replacements: replacements.to_vec() })
    }

    /// The replacement for the longest known beginning of `text`, and the length of that.
    fn longest(&self, text: &[u8]) -> Option<(&[u8], usize)> {
        let base = |node: u32| (node >> 10) << ((node & 0x200) >> 6);
        let mut index = base(*self.nodes.first()?);
        let mut found = None;
        for (at, &byte) in text.iter().enumerate() {
            if byte == 0 {
                break;
            }
            index ^= u32::from(byte);
            // A link out of the table ends the search as a link to a stranger does.
            let Some(&node) = self.nodes.get(index as usize) else { break };
            if node & 0x8000_00FF != u32::from(byte) {
                break;
            }
            index ^= base(node);
            if node & 0x100 != 0 {
                found = self.nodes.get(index as usize).map(|&leaf| (leaf & 0x7FFF_FFFF, at + 1));
            }
        }
        let (offset, len) = found?;
        let replacement = self.replacements.get(offset as usize..)?;
        Some((replacement.split(|&byte| byte == 0).next()?, len))
    }
}
