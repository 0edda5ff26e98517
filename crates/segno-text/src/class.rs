//! Character classes the pre-tokenizers ask for, one bit each.

use std::sync::LazyLock;

use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_script::{Script, UnicodeScript};

/// A set of classes of one code point.
pub(crate) type Class = u16;

/// `\p{L}`.
pub(crate) const LETTER: Class = 1;
/// `\p{Lu}` or `\p{Lt}`.
pub(crate) const UPPER: Class = 1 << 1;
/// `\p{Ll}`.
pub(crate) const LOWER: Class = 1 << 2;
/// `\p{M}`.
pub(crate) const MARK: Class = 1 << 3;
/// `\p{N}`.
pub(crate) const NUMBER: Class = 1 << 4;
/// `\p{P}`.
pub(crate) const PUNCTUATION: Class = 1 << 5;
/// `\p{S}`.
pub(crate) const SYMBOL: Class = 1 << 6;
/// `\s`, the Unicode property White_Space.
pub(crate) const SPACE: Class = 1 << 7;
/// Carriage return and line feed.
pub(crate) const NEWLINE: Class = 1 << 8;
/// `\p{Han}`.
pub(crate) const HAN: Class = 1 << 9;
/// `\p{Nd}`, which is `\d`.
pub(crate) const DECIMAL: Class = 1 << 10;
/// `\w`.
pub(crate) const WORD: Class = 1 << 11;

/// The basic plane is looked up; 65,536 category queries cost well under a millisecond, once.
static BASIC_PLANE: LazyLock<Vec<Class>> = LazyLock::new(|| (0..=0xFFFF).map(compute).collect());

/// The classes of a code point. Surrogates have none.
#[inline]
pub(crate) fn class_of(code_point: u32) -> Class {
    match BASIC_PLANE.get(code_point as usize) {
        Some(&class) => class,
        None => compute(code_point),
    }
}

fn compute(code_point: u32) -> Class {
    use GeneralCategory as C;
    let Some(c) = char::from_u32(code_point) else {
        return 0;
    };
    let mut class = match get_general_category(c) {
        C::UppercaseLetter | C::TitlecaseLetter => LETTER | UPPER,
        C::LowercaseLetter => LETTER | LOWER,
        C::ModifierLetter | C::OtherLetter => LETTER,
        C::NonspacingMark | C::SpacingMark | C::EnclosingMark => MARK,
        C::DecimalNumber => NUMBER | DECIMAL | WORD,
        C::LetterNumber | C::OtherNumber => NUMBER,
        C::ConnectorPunctuation => PUNCTUATION | WORD,
        C::DashPunctuation
        | C::OpenPunctuation
        | C::ClosePunctuation
        | C::InitialPunctuation
        | C::FinalPunctuation
        | C::OtherPunctuation => PUNCTUATION,
        // The other tables may be of a newer Unicode version; what has no category here has no class.
        C::Unassigned => return 0,
        C::MathSymbol | C::CurrencySymbol | C::ModifierSymbol | C::OtherSymbol => SYMBOL,
        _ => 0,
    };
    if c.is_alphabetic() || class & MARK != 0 || matches!(c, '\u{200C}' | '\u{200D}') {
        class |= WORD;
    }
    if c.is_whitespace() {
        class |= SPACE;
    }
    if matches!(c, '\r' | '\n') {
        class |= NEWLINE;
    }
    if c.script() == Script::Han {
        class |= HAN;
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_each_class() {
        for (c, want) in [
            ('a', LETTER | LOWER | WORD),
            ('A', LETTER | UPPER | WORD),
            ('\u{1C5}', LETTER | UPPER | WORD),
            ('\u{5D0}', LETTER | WORD),
            ('\u{301}', MARK | WORD),
            ('\u{903}', MARK | WORD),
            ('7', NUMBER | DECIMAL | WORD),
            ('\u{BD}', NUMBER),
            ('!', PUNCTUATION),
            ('_', PUNCTUATION | WORD),
            ('$', SYMBOL),
            ('\n', SPACE | NEWLINE),
            ('\u{85}', SPACE),
            ('\u{A0}', SPACE),
            ('\u{3000}', SPACE),
            ('\u{4E2D}', LETTER | HAN | WORD),
            ('\u{20000}', LETTER | HAN | WORD),
            ('\u{3005}', LETTER | HAN | WORD),
            ('\u{200B}', 0),
        ] {
            assert_eq!(class_of(c as u32), want, "{c:?}");
        }
        assert_eq!(class_of(0xD800), 0);
        assert_eq!(class_of(0x11_0000), 0);
    }
}
