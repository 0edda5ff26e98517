//! Sentencepiece BPE (Llama 1 and 2, Mistral, Gemma): merging by the score of the result.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::bytes::{escape_spaces, lead_len};
use crate::vocab::Vocab;

/// What the algorithm needs beside the vocabulary.
#[derive(Debug)]
pub(crate) struct Spm {
    /// The token of each byte.
    bytes: Vec<Option<u32>>,
}

/// A stretch of the text; `len` is 0 once it is merged into its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    before: Option<usize>,
    next: Option<usize>,
}

/// A pair whose text is a token. The best is that of the highest score, then the leftmost.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    pub(crate) fn new(vocab: &Vocab) -> Self {
        Self { bytes: (0..=255).map(|byte| vocab.byte_token(byte)).collect() }
    }

    /// Appends the ids of `text`, with a space in front if `space_prefix`.
    pub(crate) fn encode(&self, vocab: &Vocab, text: &[u8], space_prefix: bool, ids: &mut Vec<u32>) {
        let mut escaped = Vec::with_capacity(text.len() + 3);
        if space_prefix {
            escape_spaces(b" ", &mut escaped);
        }
        escape_spaces(text, &mut escaped);
        let mut symbols: Vec<Symbol> = Vec::with_capacity(escaped.len());
        let mut start = 0;
        while start < escaped.len() {
            // Bytes that are no UTF-8 count as characters of the length their lead announces, cut at the end.
            let len = lead_len(escaped[start]).min(escaped.len() - start);
            let index = symbols.len();
            symbols.push(Symbol { start, len, before: index.checked_sub(1), next: Some(index + 1) });
            start += len;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            propose(vocab, &escaped, &symbols, right - 1, right, &mut queue);
        }
        while let Some(candidate) = queue.pop() {
            let Candidate { left, right, len, .. } = candidate;
            let (left_len, right_len) = (symbols[left].len, symbols[right].len);
            if left_len == 0 || right_len == 0 || left_len + right_len != len {
                continue;
            }
            symbols[left].len = len;
            symbols[right].len = 0;
            let next = symbols[right].next;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].before = Some(left);
                propose(vocab, &escaped, &symbols, left, next, &mut queue);
            }
            if let Some(before) = symbols[left].before {
                propose(vocab, &escaped, &symbols, before, left, &mut queue);
            }
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let text = &escaped[symbol.start..symbol.start + symbol.len];
            match vocab.find(text) {
                Some(id) => ids.push(id),
                None => ids.extend(text.iter().filter_map(|&byte| self.bytes[usize::from(byte)])),
            }
        }
    }
}

fn propose(
    vocab: &Vocab,
    text: &[u8],
    symbols: &[Symbol],
    left: usize,
    right: usize,
    queue: &mut BinaryHeap<Candidate>,
) {
    let start = symbols[left].start;
    let len = symbols[left].len + symbols[right].len;
    if let Some(id) = vocab.find(&text[start..start + len]) {
        queue.push(Candidate { score: vocab.score(id), left, right, len });
    }
}
