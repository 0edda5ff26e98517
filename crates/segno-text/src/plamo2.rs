//! PLaMo-2: the cheapest of all segmentations, with bytes for what no token covers.

use crate::bytes::{code_point_at, sanitize};
use crate::trie::Trie;
use crate::vocab::{TokenKind, Vocab};

/// Costs are whole numbers: ten thousandths of a token's negated score.
const SCALE: f32 = 1e4;

/// Cost of a character that is written in bytes.
const BYTES_COST: i64 = 10_000_000;

/// Tokens of this cost or more are never used.
const MAX_COST: i64 = 20_000_000;

#[derive(Debug)]
pub(crate) struct Plamo2 {
    trie: Trie,
    /// The token of each byte.
    bytes: Vec<Option<u32>>,
}

/// The best way on from a position: the first piece.
#[derive(Clone, Copy)]
struct Choice {
    len: usize,
    /// `None`: a character in bytes.
    token: Option<u32>,
}

impl Plamo2 {
    pub(crate) fn new(vocab: &Vocab) -> Self {
        // Control tokens are no text: read out of a document they would end a turn.
        let entries = vocab
            .iter()
            .filter(|(_, _, kind)| !matches!(kind, TokenKind::Byte | TokenKind::Control | TokenKind::Unknown))
            .map(|(id, text, _)| (text.to_vec(), id))
            .collect();
        let bytes = (0..=255u8).map(|byte| vocab.find(format!("<0x{byte:02X}>").as_bytes())).collect();
        Self { trie: Trie::new(entries), bytes }
    }

    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], ids: &mut Vec<u32>) {
        let text = sanitize(text);
        let text = text.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(&text);
        let mut costs = vec![0i64; text.len() + 1];
        let mut choices = vec![Choice { len: 1, token: None }; text.len()];
        for start in (0..text.len()).rev().filter(|&at| is_start(text, at)) {
            let after = code_point_at(text, start).map_or(start + 1, |(_, after)| after);
            let mut best = (costs[after] + BYTES_COST, Choice { len: after - start, token: None });
            // From the shortest to the longest, so a longer one that costs no more replaces it.
            for (len, token) in self.trie.prefixes(&text[start..]) {
                let cost = cost(vocab.score(token));
                if cost < MAX_COST && is_start(text, start + len) && costs[start + len] + cost <= best.0 {
                    best = (costs[start + len] + cost, Choice { len, token: Some(token) });
                }
            }
            (costs[start], choices[start]) = best;
        }
        let mut at = 0;
        while let Some(choice) = choices.get(at) {
            let end = (at + choice.len).min(text.len());
            match choice.token {
                Some(token) => ids.push(token),
                None => ids.extend(text[at..end].iter().filter_map(|&byte| self.bytes[usize::from(byte)])),
            }
            at = end;
        }
    }
}

fn cost(score: f32) -> i64 {
    if score.is_finite() { -((score * SCALE).round() as i32 as i64) } else { MAX_COST }
}

/// True at the first byte of a character, and at the end.
fn is_start(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| byte & 0xC0 != 0x80)
}
