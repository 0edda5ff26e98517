//! Bytes and characters: reading text that need not be UTF-8, and the byte alphabet of byte-level BPE.

use std::borrow::Cow;

/// Turns any bytes into well-formed "generalised" UTF-8, the input of the code-point based tokenizers.
///
/// Valid text stays as it is. Elsewhere the rule is that of llama.cpp, so that ids agree: a sequence with the
/// right lead and continuation bits counts even if it is overlong or a surrogate (overlong forms are shortened);
/// any other byte becomes U+FFFD by itself. Code points beyond U+10FFFF, on which llama.cpp throws, become U+FFFD
/// byte by byte as well.
pub(crate) fn sanitize(text: &[u8]) -> Cow<'_, [u8]> {
    let Err(error) = std::str::from_utf8(text) else {
        return Cow::Borrowed(text);
    };
    let mut pos = error.valid_up_to();
    let mut out = Vec::with_capacity(text.len() + 8);
    out.extend_from_slice(&text[..pos]);
    while pos < text.len() {
        match decode_lenient(&text[pos..]) {
            Some((code_point, len)) => {
                encode(code_point, &mut out);
                pos += len;
            }
            None => {
                encode(0xFFFD, &mut out);
                pos += 1;
            }
        }
    }
    Cow::Owned(out)
}

/// The first code point of `text` and its length, if the bits of lead and continuation bytes fit.
fn decode_lenient(text: &[u8]) -> Option<(u32, usize)> {
    let lead = *text.first()?;
    let (len, bits) = match lead {
        0x00..=0x7F => return Some((u32::from(lead), 1)),
        0x80..=0xBF => return None,
        0xC0..=0xDF => (2, lead & 0x1F),
        0xE0..=0xEF => (3, lead & 0x0F),
        0xF0..=0xF7 => (4, lead & 0x07),
        0xF8..=0xFF => return None,
    };
    let mut code_point = u32::from(bits);
    for &byte in text.get(1..len)? {
        if byte & 0xC0 != 0x80 {
            return None;
        }
        code_point = code_point << 6 | u32::from(byte & 0x3F);
    }
    (code_point <= 0x10_FFFF).then_some((code_point, len))
}

/// Appends a code point, surrogates included.
fn encode(code_point: u32, out: &mut Vec<u8>) {
    match char::from_u32(code_point) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.extend_from_slice(&[
            0xE0 | (code_point >> 12) as u8,
            0x80 | (code_point >> 6 & 0x3F) as u8,
            0x80 | (code_point & 0x3F) as u8,
        ]),
    }
}

/// The code point at `pos` of sanitised text and the position after it; `None` at the end.
#[inline]
pub(crate) fn code_point_at(text: &[u8], pos: usize) -> Option<(u32, usize)> {
    let lead = *text.get(pos)?;
    if lead < 0x80 {
        return Some((u32::from(lead), pos + 1));
    }
    let len = lead_len(lead);
    let mut code_point = u32::from(lead & (0x7F >> len));
    for &byte in text.get(pos + 1..pos + len)? {
        code_point = code_point << 6 | u32::from(byte & 0x3F);
    }
    Some((code_point, pos + len))
}

/// Length of the sequence a lead byte announces; 1 for continuation bytes.
#[inline]
pub(crate) fn lead_len(lead: u8) -> usize {
    match lead {
        0x00..=0xBF => 1,
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xFF => 4,
    }
}

/// The character that byte-level BPE writes for a byte: printable Latin-1 stands for itself, the other 68 bytes,
/// ascending, are U+0100 onwards.
pub(crate) const fn byte_to_char(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte as u32,
        0x00..=0x20 => 0x100 + byte as u32,
        0x7F..=0xA0 => 0x121 + (byte as u32 - 0x7F),
        0xAD => 0x143,
    };
    match char::from_u32(code) {
        Some(c) => c,
        // No code above is a surrogate.
        None => char::REPLACEMENT_CHARACTER,
    }
}

/// Inverse of [`byte_to_char`]; `None` for characters outside the alphabet.
pub(crate) const fn char_to_byte(c: char) -> Option<u8> {
    Some(match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => code as u8,
        code @ 0x100..=0x120 => (code - 0x100) as u8,
        code @ 0x121..=0x142 => (code - 0x121 + 0x7F) as u8,
        0x143 => 0xAD,
        _ => return None,
    })
}

/// Writes `bytes` in the byte alphabet, replacing what `out` held.
pub(crate) fn map_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for &byte in bytes {
        encode(byte_to_char(byte) as u32, out);
    }
}

/// The bytes that text in the byte alphabet stands for; characters outside the alphabet are meant literally.
pub(crate) fn unmap_bytes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut pos = 0;
    while let Some((code_point, next)) = code_point_at(text, pos) {
        match char::from_u32(code_point).and_then(char_to_byte) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(&text[pos..next]),
        }
        pos = next;
    }
    out
}

/// What sentencepiece vocabularies write for a space.
const ESCAPED_SPACE: &[u8] = "\u{2581}".as_bytes();

/// Appends `text` with U+2581 for each space.
pub(crate) fn escape_spaces(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b' ' => out.extend_from_slice(ESCAPED_SPACE),
            _ => out.push(byte),
        }
    }
}

/// The inverse of [`escape_spaces`].
pub(crate) fn unescape_spaces(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&byte) = rest.first() {
        if let Some(after) = rest.strip_prefix(ESCAPED_SPACE) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(byte);
            rest = &rest[1..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_alphabet_is_a_bijection() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            let c = byte_to_char(byte);
            assert!(seen.insert(c), "{byte:#x} shares {c:?}");
            assert_eq!(char_to_byte(c), Some(byte));
        }
        assert_eq!(byte_to_char(b' '), '\u{120}');
        assert_eq!(byte_to_char(b'\n'), '\u{10A}');
        assert_eq!(char_to_byte(' '), None);
        assert_eq!(char_to_byte('\u{144}'), None);
    }

    #[test]
    fn invalid_bytes_become_replacement_characters_one_by_one() {
        let fffd = "\u{FFFD}".as_bytes();
        assert_eq!(*sanitize(b"\xFF\xFE"), [fffd, fffd].concat());
        assert_eq!(*sanitize(b"\xF0\x9F\x99 x"), [fffd, fffd, fffd, b" x"].concat());
        assert_eq!(*sanitize(b"\xC0\xAF"), *b"/");
        assert_eq!(*sanitize(b"\xED\xA0\x80"), *b"\xED\xA0\x80");
        assert_eq!(*sanitize(b"\xF4\x90\x80\x80"), [fffd, fffd, fffd, fffd].concat());
    }

    #[test]
    fn code_points_are_read_with_their_length() {
        let text = "a\u{E9}\u{4E2D}\u{1F642}".as_bytes();
        let mut pos = 0;
        let mut seen = Vec::new();
        while let Some((code_point, next)) = code_point_at(text, pos) {
            seen.push(code_point);
            pos = next;
        }
        assert_eq!(seen, [0x61, 0xE9, 0x4E2D, 0x1F642]);
    }
}
