//! Ids into text while they arrive.

use crate::tokenizer::Tokenizer;

/// Decodes ids one by one and hands out whole characters only: bytes that may still become a character wait for
/// the next id, bytes that cannot become one are given as U+FFFD.
///
/// The pieces, with [`DecodeStream::finish`] at the end, concatenate to what decoding all ids at once gives.
#[derive(Clone, Debug, Default)]
pub struct DecodeStream {
    special: bool,
    /// The beginning of one character, at most three bytes between calls.
    pending: Vec<u8>,
}

impl DecodeStream {
    /// A fresh stream; with `special`, control tokens are written by name.
    pub fn new(special: bool) -> Self {
        Self { special, pending: Vec::new() }
    }

    /// Takes one id and gives the text that is certain now, often empty. Ids outside the vocabulary print nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_control(id) && !self.special {
            return String::new();
        }
        self.push_bytes(tokenizer.token_bytes(id))
    }

    /// Ends the stream: what is left of an unfinished character becomes one U+FFFD.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    /// True if the ids so far ended inside a character.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.pending.len();
            if at_end && may_continue(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
        text
    }
}

/// True if more bytes could make `bytes` a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(chunks: &[Vec<u8>]) -> (String, bool) {
        let mut stream = DecodeStream::new(false);
        let mut text = String::new();
        let mut held = false;
        for chunk in chunks {
            text += &stream.push_bytes(chunk);
            held |= stream.is_pending();
        }
        text += &stream.finish();
        (text, held)
    }

    #[test]
    fn characters_are_never_cut() {
        let mut stream = DecodeStream::new(false);
        let bytes = "\u{1F642}".as_bytes();
        for &byte in &bytes[..3] {
            assert_eq!(stream.push_bytes(&[byte]), "");
        }
        assert_eq!(stream.push_bytes(&bytes[3..]), "\u{1F642}");
        assert_eq!(stream.finish(), "");
        assert_eq!(stream.push_bytes(b"ok \xE2\x82"), "ok ");
        assert_eq!(stream.push_bytes(b"x"), "\u{FFFD}x");
        assert_eq!(stream.push_bytes(b"\xE2\x82"), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    proptest! {
        #[test]
        fn pieces_concatenate_to_the_whole(
            chunks in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xE2), Just(0x82), Just(0xAC), Just(0xF0), Just(0x9F)], 0..5),
                0..12,
            )
        ) {
            let whole = chunks.concat();
            prop_assert_eq!(stream(&chunks).0, String::from_utf8_lossy(&whole).into_owned());
        }
    }
}
