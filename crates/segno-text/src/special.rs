//! Special tokens: which end a reply, and finding them in text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use memchr::memmem::Finder;

use crate::error::TextError;
use crate::vocab::{SpecialIds, TokenKind, Vocab};

/// Ends of a turn, first found first: a file without `eot_token_id` gets its eot here.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>",
    "<end_of_utterance>",
];

/// Further texts that end a reply in whatever vocabulary has them.
const END_OF_GENERATION: &[&str] = &[
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "</s>",
    "<|eom_id|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "[e~[",
];

const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<\u{FF5C}fim\u{2581}begin\u{FF5C}>",
    "<PRE>",
    "\u{2581}<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];

const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<\u{FF5C}fim\u{2581}hole\u{FF5C}>",
    "<SUF>",
    "\u{2581}<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];

const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<\u{FF5C}fim\u{2581}end\u{FF5C}>",
    "<MID>",
    "\u{2581}<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];

const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];

/// Fills in special ids by the names of tokens, corrects kinds that files have wrong, and returns the ids that end
/// a reply, ascending.
pub(crate) fn settle(vocab: &mut Vocab, special: &mut SpecialIds) -> Vec<u32> {
    let find = |vocab: &Vocab, names: &[&str]| names.iter().find_map(|name| vocab.find(name.as_bytes()));
    special.eot = special.eot.or_else(|| find(vocab, END_OF_TURN));
    special.eom = special.eom.or_else(|| find(vocab, &["<|eom_id|>"]));
    for (slot, names) in [
        (&mut special.fim_pre, FIM_PREFIX),
        (&mut special.fim_suf, FIM_SUFFIX),
        (&mut special.fim_mid, FIM_MIDDLE),
        (&mut special.fim_pad, FIM_PAD),
        (&mut special.fim_rep, FIM_REPOSITORY),
        (&mut special.fim_sep, &["<|file_sep|>"]),
    ] {
        if slot.is_none() {
            *slot = find(vocab, names);
            if let Some(id) = *slot {
                vocab.set_kind(id, TokenKind::Control);
            }
        }
    }

    let mut ends: Vec<u32> = [special.eos, special.eot, special.eom, special.fim_pad, special.fim_rep, special.fim_sep]
        .into_iter()
        .flatten()
        .collect();
    for name in END_OF_TURN.iter().chain(END_OF_GENERATION) {
        if let Some(id) = vocab.find(name.as_bytes()) {
            ends.push(id);
            // Some files mark them as text or user-defined; read out of plain text they would let a document
            // end a turn.
            vocab.set_kind(id, TokenKind::Control);
        }
    }

    // gpt-oss and Solar Open end channels with `<|end|>` in the middle of a reply.
    let has = |vocab: &Vocab, names: &[&str]| names.iter().all(|name| vocab.find(name.as_bytes()).is_some());
    if has(vocab, &["<|return|>", "<|call|>"]) || has(vocab, &["<|calls|>", "<|flush|>"]) {
        for name in ["<|end|>", "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
            if let Some(id) = vocab.find(name.as_bytes()) {
                vocab.set_kind(id, TokenKind::UserDefined);
            }
        }
        if let Some(end) = vocab.find(b"<|end|>") {
            ends.retain(|&id| id != end);
            if special.eot == Some(end) {
                special.eot = find(vocab, &["<|return|>", "<|flush|>"]);
            }
        }
    }
    // Vocabularies with other ends of their own use `</s>` as a word.
    let own_end = ["<|tool_response>", "<|plamo:eos|>"]
        .iter()
        .filter_map(|name| vocab.find(name.as_bytes()))
        .any(|id| ends.contains(&id));
    if own_end && let Some(id) = vocab.find(b"</s>") {
        ends.retain(|&end| end != id);
        vocab.set_kind(id, TokenKind::Normal);
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// A part of a text: one special token, or what lies between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// A special token; `range` is where it was found.
    Token { id: u32, range: Range<usize> },
    /// Ordinary text, never empty.
    Raw(Range<usize>),
}

impl Fragment {
    pub(crate) fn range(&self) -> &Range<usize> {
        match self {
            Self::Token { range, .. } | Self::Raw(range) => range,
        }
    }
}

#[derive(Debug)]
struct Special {
    id: u32,
    /// Only read when special tokens are asked for.
    guarded: bool,
    /// Eats white space in front.
    lstrip: bool,
    /// Eats white space behind.
    rstrip: bool,
}

/// Finds special tokens.
#[derive(Debug)]
pub(crate) struct SpecialIndex {
    /// Longest text first, the order in which they are looked for.
    tokens: Vec<Special>,
    texts: Vec<Vec<u8>>,
    /// Says in one pass which of them occur at all.
    automaton: Option<AhoCorasick>,
}

impl SpecialIndex {
    /// `name` and `pre` are the model's and the splitting rule's: white-space rules are not in the file.
    pub(crate) fn new(vocab: &Vocab, name: &str, pre: &str) -> Result<Self, TextError> {
        let name = name.to_lowercase();
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let jina = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre);
        let mut found: Vec<(u32, &[u8], TokenKind)> = vocab
            .iter()
            .filter(|(_, _, kind)| matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown))
            .collect();
        found.sort_by_key(|&(id, text, _)| (usize::MAX - text.len(), id));
        let tokens = found
            .iter()
            .map(|&(id, text, kind)| Special {
                id,
                guarded: kind != TokenKind::UserDefined,
                lstrip: jina && text == b"<mask>",
                rstrip: phi3 && ![&b"<unk>"[..], b"<s>", b"<|endoftext|>"].contains(&text),
            })
            .collect();
        let texts: Vec<Vec<u8>> = found.iter().map(|(_, text, _)| text.to_vec()).collect();
        let automaton = if texts.is_empty() {
            None
        } else {
            Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::Standard)
                    .kind(Some(AhoCorasickKind::ContiguousNFA))
                    .build(&texts)
                    .map_err(|error| TextError::SpecialTokens { reason: error.to_string() })?,
            )
        };
        Ok(Self { tokens, texts, automaton })
    }

    /// Splits a text at its special tokens. The longest token is looked for first in the whole text, then the next
    /// in what is left: where two overlap, length decides, not which comes first.
    pub(crate) fn partition(&self, text: &[u8], parse_special: bool) -> Vec<Fragment> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut fragments = vec![Fragment::Raw(0..text.len())];
        let Some(automaton) = &self.automaton else {
            return fragments;
        };
        let mut present = vec![false; self.tokens.len()];
        for found in automaton.find_overlapping_iter(text) {
            present[found.pattern().as_usize()] = true;
        }
        for (index, token) in self.tokens.iter().enumerate() {
            if !present[index] || token.guarded && !parse_special {
                continue;
            }
            let finder = Finder::new(&self.texts[index]);
            let mut split = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                match fragment {
                    Fragment::Raw(range) => token.split(text, range, &finder, &mut split),
                    token => split.push(token),
                }
            }
            fragments = split;
        }
        fragments
    }
}

impl Special {
    /// Cuts `range` of `text` at each occurrence of this token, leftmost first.
    fn split(&self, text: &[u8], range: Range<usize>, finder: &Finder<'_>, out: &mut Vec<Fragment>) {
        let len = finder.needle().len();
        let mut start = range.start;
        while let Some(offset) = finder.find(&text[start..range.end]) {
            let at = start + offset;
            let mut before = start..at;
            if self.lstrip {
                while !before.is_empty() && is_space(text[before.end - 1]) {
                    before.end -= 1;
                }
            }
            if !before.is_empty() {
                out.push(Fragment::Raw(before));
            }
            out.push(Fragment::Token { id: self.id, range: at..at + len });
            start = at + len;
            if self.rstrip {
                while start < range.end && is_space(text[start]) {
                    start += 1;
                }
            }
        }
        if start < range.end {
            out.push(Fragment::Raw(start..range.end));
        }
    }
}

/// White space in C's sense, which is what the strip rules mean.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0B
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[(&str, i32)]) -> Vocab {
        let texts: Vec<Vec<u8>> = tokens.iter().map(|(t, _)| t.as_bytes().to_vec()).collect();
        let kinds: Vec<i32> = tokens.iter().map(|(_, kind)| *kind).collect();
        Vocab::new(&texts, &kinds, vec![]).unwrap()
    }

    fn show(index: &SpecialIndex, text: &str, parse_special: bool) -> Vec<String> {
        index
            .partition(text.as_bytes(), parse_special)
            .into_iter()
            .map(|fragment| match fragment {
                Fragment::Token { id, .. } => format!("#{id}"),
                Fragment::Raw(range) => text[range].to_string(),
            })
            .collect()
    }

    #[test]
    fn longest_token_wins_even_if_it_begins_later() {
        let vocab = vocab(&[("abc", 4), ("bcde", 4), ("c", 3)]);
        let index = SpecialIndex::new(&vocab, "", "").unwrap();
        assert_eq!(show(&index, "abcde abc c", true), ["a", "#1", " ", "#0", " ", "#2"]);
        assert_eq!(show(&index, "abcde abc c", false), ["a", "#1", " ", "#0", " c"]);
        assert!(show(&index, "", true).is_empty());
    }

    #[test]
    fn phi3_tokens_eat_the_space_behind_them() {
        let vocab = vocab(&[("<|end|>", 3), ("<s>", 3)]);
        let index = SpecialIndex::new(&vocab, "Phi-3-mini", "").unwrap();
        assert_eq!(show(&index, "a <|end|> \n b<s> c", true), ["a ", "#0", "b", "#1", " c"]);
        let other = SpecialIndex::new(&vocab, "Qwen", "").unwrap();
        assert_eq!(show(&other, "<|end|> b", true), ["#0", " b"]);
    }

    #[test]
    fn mask_of_jina_eats_the_space_before_it() {
        let vocab = vocab(&[("<mask>", 3)]);
        let index = SpecialIndex::new(&vocab, "", "jina-v2-de").unwrap();
        assert_eq!(show(&index, "a  <mask> b", true), ["a", "#0", " b"]);
        assert_eq!(show(&index, "  <mask>", true), ["#0"]);
    }

    #[test]
    fn ends_of_generation_come_from_names_and_ids() {
        let mut vocab = vocab(&[("x", 1), ("<|im_end|>", 4), ("<|endoftext|>", 3), ("</s>", 1)]);
        let mut special = SpecialIds { eos: Some(0), ..SpecialIds::default() };
        assert_eq!(settle(&mut vocab, &mut special), [0, 1, 2, 3]);
        assert_eq!(special.eot, Some(1));
        assert_eq!(vocab.kind(1), Some(TokenKind::Control));
    }

    #[test]
    fn harmony_replies_go_on_after_end() {
        let mut vocab = vocab(&[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3), ("<|start|>", 3)]);
        let mut special = SpecialIds::default();
        assert_eq!(settle(&mut vocab, &mut special), [1, 2]);
        assert_eq!(vocab.kind(0), Some(TokenKind::UserDefined));
        assert_eq!(vocab.kind(3), Some(TokenKind::UserDefined));
        assert_eq!(special.eot, Some(1));
    }
}
