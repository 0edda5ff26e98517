//! RWKV "world" vocabularies: the longest token at each place, over bytes.

use crate::trie::Trie;
use crate::vocab::Vocab;

/// Tokens by the bytes they stand for.
#[derive(Debug)]
pub(crate) struct Rwkv {
    trie: Trie,
    unk: Option<u32>,
}

impl Rwkv {
    pub(crate) fn new(vocab: &Vocab, unk: Option<u32>) -> Self {
        let entries = vocab.iter().map(|(id, text, _)| (unescape(text), id)).collect();
        Self { trie: Trie::new(entries), unk }
    }

    pub(crate) fn encode(&self, text: &[u8], ids: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            match self.trie.longest(rest) {
                Some((len, id)) => {
                    ids.push(id);
                    rest = &rest[len..];
                }
                None => {
                    ids.extend(self.unk);
                    rest = &rest[1..];
                }
            }
        }
    }
}

/// The bytes of a token's text in the file: `\n`, `\t`, `\r`, `\xHH`; a backslash before anything else stands for
/// that character.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escaped, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        let digit = |at: usize| after.get(at).and_then(|&digit| (digit as char).to_digit(16));
        match (escaped, digit(0), digit(1)) {
            (b'n', ..) => out.push(b'\n'),
            (b't', ..) => out.push(b'\t'),
            (b'r', ..) => out.push(b'\r'),
            (b'x', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => out.push(escaped),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, want) in [
            (r"\n\t\r\\\'", &b"\n\t\r\\'"[..]),
            (r"\x00\xfFz", b"\x00\xFFz"),
            (r"\x0", b"x0"),
            (r"a\", b"a"),
            (r"\xg1", b"xg1"),
        ] {
            assert_eq!(unescape(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn a_byte_that_only_begins_a_token_does_not_stall() {
        let vocab = Vocab::new(&[b"?".to_vec(), b"ab".to_vec()], &[], vec![]).unwrap();
        let mut ids = Vec::new();
        Rwkv::new(&vocab, Some(0)).encode(b"aabx", &mut ids);
        assert_eq!(ids, [0, 1, 0]);
    }
}
