//! BPE by merge ranks: over bytes (GPT-2 and after), and over characters with U+2581 for spaces (Gemma 4).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use crate::bytes::{byte_to_char, code_point_at, escape_spaces, map_bytes, sanitize};
use crate::pretokenize::PreTokenizer;
use crate::vocab::{Interner, Vocab};

/// No symbol: no token or merge has this text, or it was merged into its neighbour.
const NONE: u32 = u32::MAX;

/// Pieces are merged in parts of at most this many bytes, so that positions fit in 32 bits.
const MAX_PART: usize = 1 << 30;

/// A stretch of a piece that is one symbol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    pub(crate) id: u32,
    /// Length in bytes of the piece; 0 once it is merged into its left neighbour.
    pub(crate) len: u32,
    before: u32,
    next: u32,
}

impl Symbol {
    /// The symbol at `index` of a fresh list.
    pub(crate) fn new(id: Option<u32>, len: usize, index: usize) -> Self {
        Self { id: id.unwrap_or(NONE), len: len as u32, before: (index as u32).wrapping_sub(1), next: index as u32 + 1 }
    }
}

/// A pair that could be merged. Ordered by rank, then from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    left_id: u32,
    right_id: u32,
}

pub(crate) type MergeQueue = BinaryHeap<Reverse<Candidate>>;

/// Merge rules over symbols. A symbol is a token id, or, for texts that only appear inside merges, a number from
/// the vocabulary's size on.
#[derive(Debug)]
pub(crate) struct Merges {
    /// Rank and result of each pair.
    pairs: HashMap<(u32, u32), (u32, u32)>,
    /// Texts that are no tokens.
    extra: Interner,
    n_vocab: u32,
}

impl Merges {
    /// Reads `left right` lines. Lines without a space are left out; of equal pairs the first counts.
    pub(crate) fn new(vocab: &Vocab, lines: &[Vec<u8>]) -> Self {
        let mut merges = Self {
            pairs: HashMap::with_capacity(lines.len()),
            extra: Interner::default(),
            n_vocab: vocab.len() as u32,
        };
        let mut malformed = 0;
        let mut joined = Vec::new();
        for (rank, line) in lines.iter().enumerate() {
            // The left part is at least one byte, so that a space itself can be merged.
            let space = line.iter().skip(1).position(|&byte| byte == b' ');
            let Some(space) = space.map(|at| at + 1) else {
                malformed += 1;
                continue;
            };
            let (left, right) = (&line[..space], &line[space + 1..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let result = merges.symbol_or_insert(vocab, &joined);
            let pair = (merges.symbol_or_insert(vocab, left), merges.symbol_or_insert(vocab, right));
            merges.pairs.entry(pair).or_insert((rank as u32, result));
        }
        if malformed > 0 {
            log::warn!("{malformed} of {} BPE merges have no space and are ignored", lines.len());
        }
        merges
    }

    fn symbol_or_insert(&mut self, vocab: &Vocab, text: &[u8]) -> u32 {
        vocab.find(text).unwrap_or_else(|| self.n_vocab + self.extra.insert(text).unwrap_or_else(|known| known))
    }

    /// The symbol of a text, if it is a token or part of a merge.
    pub(crate) fn symbol(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        vocab.find(text).or_else(|| Some(self.n_vocab + self.extra.find(text)?))
    }

    /// Merges `symbols` in place: always the adjacent pair of lowest rank, leftmost first. Takes time about linear
    /// in their number, whatever they are.
    pub(crate) fn apply(&self, symbols: &mut Vec<Symbol>, queue: &mut MergeQueue) {
        for left in 1..symbols.len() {
            self.propose(symbols, left - 1, left, queue);
        }
        while let Some(Reverse(candidate)) = queue.pop() {
            let (left, right) = (candidate.left as usize, candidate.right as usize);
            // Either side may have been merged since; then another candidate stands for what is there now.
            if symbols[left].id != candidate.left_id || symbols[right].id != candidate.right_id {
                continue;
            }
            let Some(&(_, result)) = self.pairs.get(&(candidate.left_id, candidate.right_id)) else {
                continue;
            };
            symbols[left].id = result;
            symbols[left].len += symbols[right].len;
            symbols[right].id = NONE;
            symbols[right].len = 0;
            let after = symbols[right].next;
            symbols[left].next = after;
            if let Some(symbol) = symbols.get_mut(after as usize) {
                symbol.before = left as u32;
                self.propose(symbols, left, after as usize, queue);
            }
            let before = symbols[left].before as usize;
            if before < symbols.len() {
                self.propose(symbols, before, left, queue);
            }
        }
        symbols.retain(|symbol| symbol.len > 0);
    }

    fn propose(&self, symbols: &[Symbol], left: usize, right: usize, queue: &mut MergeQueue) {
        let (left_id, right_id) = (symbols[left].id, symbols[right].id);
        if let Some(&(rank, _)) = self.pairs.get(&(left_id, right_id)) {
            queue.push(Reverse(Candidate { rank, left: left as u32, right: right as u32, left_id, right_id }));
        }
    }
}

/// Byte-level BPE: each byte of a piece starts as one symbol.
#[derive(Debug)]
pub(crate) struct Bpe {
    merges: Merges,
    rule: PreTokenizer,
    /// The symbol of each byte, and its token for bytes that stay outside every token.
    bytes: Vec<(Option<u32>, Option<u32>)>,
}

#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: MergeQueue,
    mapped: Vec<u8>,
}

impl Bpe {
    pub(crate) fn byte_level(vocab: &Vocab, merges: &[Vec<u8>], rule: PreTokenizer) -> Self {
        let merges = Merges::new(vocab, merges);
        let bytes = (0..=255u8)
            .map(|byte| {
                let mut text = [0; 4];
                let text = byte_to_char(byte).encode_utf8(&mut text).as_bytes();
                (merges.symbol(vocab, text), vocab.find(text))
            })
            .collect();
        Self { merges, rule, bytes }
    }

    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], ids: &mut Vec<u32>) {
        let text = sanitize(text);
        let mut scratch = Scratch::default();
        self.rule.split(&text, |piece| {
            for part in piece.chunks(MAX_PART) {
                self.encode_part(vocab, part, &mut scratch, ids);
            }
        });
    }

    fn encode_part(&self, vocab: &Vocab, part: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if self.rule.ignore_merges {
            map_bytes(part, &mut scratch.mapped);
            if let Some(id) = vocab.find(&scratch.mapped) {
                ids.push(id);
                return;
            }
        }
        let symbols = &mut scratch.symbols;
        symbols.clear();
        symbols.extend(
            part.iter().enumerate().map(|(index, &byte)| Symbol::new(self.bytes[usize::from(byte)].0, 1, index)),
        );
        self.merges.apply(symbols, &mut scratch.queue);
        let mut rest = part;
        for symbol in symbols {
            let (own, after) = rest.split_at(symbol.len as usize);
            rest = after;
            if (symbol.id as usize) < vocab.len() {
                ids.push(symbol.id);
            } else {
                // A byte without a token vanishes; vocabularies in use have all 256.
                ids.extend(own.iter().filter_map(|&byte| self.bytes[usize::from(byte)].1));
            }
        }
    }
}

/// BPE over characters, spaces written as U+2581, with byte tokens for what has no token.
#[derive(Debug)]
pub(crate) struct RawBpe {
    merges: Merges,
    bytes: Vec<Option<u32>>,
    /// Take a run of newlines that is a token whole. No merge has newlines, so it could not come about otherwise.
    whole_newlines: bool,
}

impl RawBpe {
    pub(crate) fn new(vocab: &Vocab, merges: &[Vec<u8>], whole_newlines: bool) -> Self {
        let bytes = (0..=255u8).map(|byte| vocab.find(format!("<0x{byte:02X}>").as_bytes())).collect();
        Self { merges: Merges::new(vocab, merges), bytes, whole_newlines }
    }

    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], ids: &mut Vec<u32>) {
        let mut escaped = Vec::with_capacity(text.len());
        escape_spaces(text, &mut escaped);
        let text = sanitize(&escaped);
        let mut scratch = Scratch::default();
        // `[^\n]+|[\n]+`
        for piece in text.chunk_by(|a, b| (*a == b'\n') == (*b == b'\n')) {
            if self.whole_newlines
                && piece.starts_with(b"\n")
                && let Some(id) = vocab.find(piece)
            {
                ids.push(id);
                continue;
            }
            for part in piece.chunks(MAX_PART) {
                self.encode_part(vocab, part, &mut scratch, ids);
            }
        }
    }

    fn encode_part(&self, vocab: &Vocab, part: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let symbols = &mut scratch.symbols;
        symbols.clear();
        let mut at = 0;
        while at < part.len() {
            let after = code_point_at(part, at).map_or(part.len(), |(_, after)| after);
            let id = self.merges.symbol(vocab, &part[at..after]);
            symbols.push(Symbol::new(id, after - at, symbols.len()));
            at = after;
        }
        self.merges.apply(symbols, &mut scratch.queue);
        let mut rest = part;
        for symbol in symbols {
            let (own, after) = rest.split_at(symbol.len as usize);
            rest = after;
            if (symbol.id as usize) < vocab.len() {
                ids.push(symbol.id);
            } else {
                ids.extend(own.iter().filter_map(|&byte| self.bytes[usize::from(byte)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bpe(tokens: &[&str], merges: &[&str], pre: &str) -> (Vocab, Bpe) {
        let tokens: Vec<Vec<u8>> = tokens.iter().map(|t| t.as_bytes().to_vec()).collect();
        let merges: Vec<Vec<u8>> = merges.iter().map(|m| m.as_bytes().to_vec()).collect();
        let vocab = Vocab::new(&tokens, &[], vec![]).unwrap();
        let rule = PreTokenizer::by_name(pre).unwrap();
        let bpe = Bpe::byte_level(&vocab, &merges, rule);
        (vocab, bpe)
    }

    fn ids(model: &(Vocab, Bpe), text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        model.1.encode(&model.0, text.as_bytes(), &mut ids);
        ids
    }

    #[test]
    fn lowest_rank_first_then_leftmost() {
        let model = bpe(&["a", "b", "c", "bc", "ab", "aa"], &["b c", "a b", "a a"], "qwen2");
        assert_eq!(ids(&model, "abc"), [0, 3]);
        assert_eq!(ids(&model, "abab"), [4, 4]);
        assert_eq!(ids(&model, "aaa"), [5, 0]);
    }

    #[test]
    fn merges_may_pass_through_texts_that_are_no_tokens() {
        let model = bpe(&["a", "b", "c", "abc"], &["a b", "ab c"], "qwen2");
        assert_eq!(ids(&model, "abc"), [3]);
        // `ab` itself falls back to its bytes.
        assert_eq!(ids(&model, "ab"), [0, 1]);
    }

    #[test]
    fn whole_pieces_skip_merging_where_the_rule_says_so() {
        let tokens = ["a", "b", "ab"];
        assert_eq!(ids(&bpe(&tokens, &[], "llama-bpe"), "ab"), [2]);
        assert_eq!(ids(&bpe(&tokens, &[], "qwen2"), "ab"), [0, 1]);
    }

    #[test]
    fn a_byte_without_a_token_vanishes() {
        assert_eq!(ids(&bpe(&["a"], &[], "qwen2"), "aXa"), [0, 0]);
    }
}
