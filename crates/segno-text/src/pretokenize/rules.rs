//! The rules by name, and how each is matched.

use super::PreTokenizer;
use super::scan::{next, peek, run, skip_space, some_run};
use crate::bytes::code_point_at;
use crate::class::{
    Class, DECIMAL, HAN, LETTER, LOWER, MARK, NEWLINE, NUMBER, PUNCTUATION, SPACE, SYMBOL, UPPER, WORD,
};

const ANY: usize = usize::MAX;

/// One regular expression of a rule.
#[derive(Debug)]
pub(super) enum Stage {
    /// GPT-2's expression: contractions in lower case, ` ?` in front of letters, numbers and the rest.
    Gpt2,
    /// The family that began with cl100k.
    Words(Words),
    /// `\p{N}{1,max}`.
    Digits { max: usize },
    /// `\d{1,3}(?=(?:\d{3})*\b)`: threes counted from the end of a run that ends a word.
    DigitsFromRight,
    /// `[0-9][0-9][0-9]`.
    ThreeAsciiDigits,
    /// `[\p{P}$+<=>^~|]+`, with the backtick if `backtick` (it is a symbol, not punctuation).
    Punctuation { backtick: bool },
    /// Runs of CJK ideographs and kana, in DeepSeek's ranges.
    Cjk,
    /// DeepSeek's last expression.
    DeepSeek,
}

/// What a stage finds at a position.
pub(super) enum Step {
    /// A match that ends here; never empty.
    Match(usize),
    /// No match before this position.
    Skip(usize),
}

/// The parts in which expressions of the cl100k family differ.
#[derive(Debug)]
pub(super) struct Words {
    /// `'s`, `'t`, `'re`, .. as the first branch.
    contractions: bool,
    /// The branch for words.
    word: Word,
    /// Most digits in a piece.
    digits: usize,
    /// What may follow punctuation.
    tail: Tail,
}

#[derive(Debug)]
enum Word {
    /// `[^\r\n\p{L}\p{N}]?\p{L}+`
    Letters,
    /// `[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+`, and marks are no punctuation.
    LettersMarks,
    /// Two branches that split where lower case is followed by upper case.
    Cased {
        /// A contraction belongs to the word before it.
        suffix: bool,
        /// Han characters are pieces of their own.
        han_apart: bool,
    },
}

#[derive(Debug)]
enum Tail {
    None,
    Newlines,
    NewlinesSlashes,
}

const CL100K: Words = Words { contractions: true, word: Word::Letters, digits: 3, tail: Tail::Newlines };
const QWEN2: Words = Words { digits: 1, ..CL100K };
const GPT_4O: Words = Words {
    contractions: false,
    word: Word::Cased { suffix: true, han_apart: false },
    tail: Tail::NewlinesSlashes,
    ..CL100K
};

/// The rule of a name in a file; names without one of their own are aliases. Empty: the file has no name.
pub(super) fn by_name(name: &str) -> Option<PreTokenizer> {
    let stages: &'static [Stage] = match name {
        "" | "default" => {
            &[Stage::Punctuation { backtick: false }, Stage::Gpt2, Stage::Digits { max: ANY }, Stage::ThreeAsciiDigits]
        }
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" | "exaone4" | "mellum"
        | "gigachat" | "a.x-4.0" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de" | "modern-bert" => {
            &[Stage::Gpt2]
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
        | "jina-v5-nano" | "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" => &[Stage::Words(CL100K)],
        // Bailing's has `\s*[\r\n]` instead of `\s*[\r\n]+`, which ends at the same place.
        "qwen2" | "deepseek-r1-qwen" | "kormo" | "f2llmv2" | "megrez" | "stablelm2" | "hunyuan" | "solar-open"
        | "grok-2" | "bailingmoe" | "bailingmoe2" | "llada-moe" => &[Stage::Words(QWEN2)],
        "qwen35" => &[Stage::Words(Words { word: Word::LettersMarks, ..QWEN2 })],
        "ufakzeka" => &[Stage::Words(Words { contractions: false, ..QWEN2 })],
        "seed-coder" => &[Stage::Words(Words { tail: Tail::None, ..QWEN2 })],
        "tekken" => {
            &[Stage::Words(Words { word: Word::Cased { suffix: false, han_apart: false }, digits: 1, ..GPT_4O })]
        }
        "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => &[Stage::Words(GPT_4O)],
        "kimi-k2" => &[Stage::Words(Words {
            word: Word::Cased { suffix: true, han_apart: true },
            tail: Tail::Newlines,
            ..GPT_4O
        })],
        "command-r" | "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" | "minerva-7b" | "mellum2" => {
            &[Stage::Digits { max: 1 }, Stage::Gpt2]
        }
        "deepseek-v3" | "hunyuan-dense" | "joyai-llm" | "hy_v4" => {
            &[Stage::Digits { max: 3 }, Stage::Cjk, Stage::DeepSeek]
        }
        "falcon" => &[Stage::Punctuation { backtick: true }, Stage::Gpt2, Stage::ThreeAsciiDigits],
        "tiny_aya" | "cohere2moe" => &[Stage::DigitsFromRight, Stage::Words(GPT_4O)],
        "minicpm5" => &[Stage::Digits { max: 3 }, Stage::Words(Words { digits: ANY, ..CL100K })],
        _ => return None,
    };
    // The vocabularies that grew out of Llama 3's.
    let llama3 = matches!(
        name,
        "llama-bpe"
            | "llama3"
            | "llama-v3"
            | "falcon3"
            | "falcon-h1"
            | "pixtral"
            | "midm-2.0"
            | "lfm2"
            | "jina-v5-nano"
    );
    let ignore_merges = llama3 || matches!(name, "tekken" | "glm4" | "minicpm5");
    let add_bos = llama3 || name == "tekken";
    Some(PreTokenizer { stages, ignore_merges, add_bos })
}

impl Stage {
    /// What is at `pos`.
    pub(super) fn step(&self, text: &[u8], pos: usize) -> Step {
        let end = match self {
            Self::Gpt2 => gpt2(text, pos),
            Self::Words(words) => words.match_end(text, pos),
            Self::Digits { max } => some_run(text, pos, *max, |c| c & NUMBER != 0),
            Self::DigitsFromRight => return digits_from_right(text, pos),
            Self::ThreeAsciiDigits => {
                let digits = text.get(pos..pos + 3).unwrap_or_default();
                (digits.len() == 3 && digits.iter().all(u8::is_ascii_digit)).then_some(pos + 3)
            }
            Self::Punctuation { backtick } => punctuation(text, pos, *backtick),
            Self::Cjk => cjk(text, pos),
            Self::DeepSeek => deepseek(text, pos),
        };
        end.map_or_else(|| Step::Skip(next(text, pos)), Step::Match)
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, in lower case only or in any.
fn contraction(text: &[u8], pos: usize, any_case: bool) -> Option<usize> {
    if text.get(pos) != Some(&b'\'') {
        return None;
    }
    let fold = |byte: u8| {
        if any_case { byte.to_ascii_lowercase() } else { byte }
    };
    let first = fold(*text.get(pos + 1)?);
    if matches!(first, b's' | b't' | b'm' | b'd') {
        return Some(pos + 2);
    }
    let second = fold(*text.get(pos + 2)?);
    matches!((first, second), (b'r', b'e') | (b'v', b'e') | (b'l', b'l')).then_some(pos + 3)
}

/// `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word that follows, if one follows.
fn spaces(text: &[u8], pos: usize) -> Option<usize> {
    let mut last = pos;
    let mut end = pos;
    while let Some((class, after)) = peek(text, end) {
        if class & SPACE == 0 {
            // A single space cannot be shortened; the second branch takes it.
            return match (end > pos, last > pos) {
                (_, true) => Some(last),
                (true, false) => Some(end),
                (false, false) => None,
            };
        }
        last = end;
        end = after;
    }
    (end > pos).then_some(end)
}

/// `\s*[\r\n]+`: up to the last newline of a run of spaces.
fn to_newline(text: &[u8], pos: usize) -> Option<usize> {
    let mut end = None;
    let mut at = pos;
    while let Some((class, after)) = peek(text, at) {
        if class & SPACE == 0 {
            break;
        }
        if class & NEWLINE != 0 {
            end = Some(after);
        }
        at = after;
    }
    end
}

fn gpt2(text: &[u8], pos: usize) -> Option<usize> {
    let rest = |c: Class| c & (SPACE | LETTER | NUMBER) == 0;
    if let Some(end) = contraction(text, pos, false) {
        return Some(end);
    }
    let start = skip_space(text, pos);
    some_run(text, start, ANY, |c| c & LETTER != 0)
        .or_else(|| some_run(text, start, ANY, |c| c & NUMBER != 0))
        .or_else(|| some_run(text, start, ANY, rest))
        .or_else(|| spaces(text, pos))
}

impl Words {
    fn match_end(&self, text: &[u8], pos: usize) -> Option<usize> {
        if self.contractions
            && let Some(end) = contraction(text, pos, true)
        {
            return Some(end);
        }
        self.word(text, pos)
            .or_else(|| some_run(text, pos, self.digits, |c| c & NUMBER != 0))
            .or_else(|| self.punctuation(text, pos))
            .or_else(|| to_newline(text, pos))
            .or_else(|| spaces(text, pos))
    }

    fn word(&self, text: &[u8], pos: usize) -> Option<usize> {
        match self.word {
            Word::Letters => prefixed(text, pos, |at| some_run(text, at, ANY, |c| c & LETTER != 0)),
            Word::LettersMarks => prefixed(text, pos, |at| some_run(text, at, ANY, |c| c & (LETTER | MARK) != 0)),
            Word::Cased { suffix, han_apart } => {
                if han_apart && let Some(end) = some_run(text, pos, ANY, |c| c & HAN != 0) {
                    return Some(end);
                }
                let barred = if han_apart { HAN } else { 0 };
                let end = prefixed(text, pos, |at| ends_lower(text, at, barred))
                    .or_else(|| prefixed(text, pos, |at| begins_upper(text, at, barred)))?;
                Some(if suffix { contraction(text, end, true).unwrap_or(end) } else { end })
            }
        }
    }

    fn punctuation(&self, text: &[u8], pos: usize) -> Option<usize> {
        let not = match self.word {
            Word::LettersMarks => SPACE | LETTER | NUMBER | MARK,
            _ => SPACE | LETTER | NUMBER,
        };
        let mut end = some_run(text, skip_space(text, pos), ANY, |c| c & not == 0)?;
        let slashes = match self.tail {
            Tail::None => return Some(end),
            Tail::Newlines => false,
            Tail::NewlinesSlashes => true,
        };
        while let Some(&byte) = text.get(end)
            && (matches!(byte, b'\r' | b'\n') || slashes && byte == b'/')
        {
            end += 1;
        }
        Some(end)
    }
}

/// `[^\r\n\p{L}\p{N}]?` and then `word`: with that character if it can be, else without.
fn prefixed(text: &[u8], pos: usize, word: impl Fn(usize) -> Option<usize>) -> Option<usize> {
    let (class, after) = peek(text, pos)?;
    if class & (NEWLINE | LETTER | NUMBER) == 0
        && let Some(end) = word(after)
    {
        return Some(end);
    }
    word(pos)
}

/// In the upper-case half of a word: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, less what is barred.
fn upper_half(class: Class, barred: Class) -> bool {
    class & (LETTER | MARK) != 0 && class & (LOWER | barred) == 0
}

/// In the lower-case half: `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`, less what is barred.
fn lower_half(class: Class, barred: Class) -> bool {
    class & (LETTER | MARK) != 0 && class & (UPPER | barred) == 0
}

/// `upper*lower+`. Letters without case are in both halves; if nothing of the lower half follows the upper run,
/// the run gives back characters until its last one can be the lower half.
fn ends_lower(text: &[u8], pos: usize, barred: Class) -> Option<usize> {
    let mut at = pos;
    let mut after_both = None;
    while let Some((class, after)) = peek(text, at)
        && upper_half(class, barred)
    {
        if lower_half(class, barred) {
            after_both = Some(after);
        }
        at = after;
    }
    some_run(text, at, ANY, |c| lower_half(c, barred)).or(after_both)
}

/// `upper+lower*`.
fn begins_upper(text: &[u8], pos: usize, barred: Class) -> Option<usize> {
    let end = some_run(text, pos, ANY, |c| upper_half(c, barred))?;
    Some(run(text, end, ANY, |c| lower_half(c, barred)))
}

/// One group of a digit run: what is left over of three first, then threes.
fn digits_from_right(text: &[u8], pos: usize) -> Step {
    let digit = |c: Class| c & DECIMAL != 0;
    // Runs are taken whole or skipped whole, so a digit in front says that threes are left. Counting again would
    // make long runs quadratic.
    if ends_with_digit(&text[..pos]) && peek(text, pos).is_some_and(|(c, _)| digit(c)) {
        return Step::Match(run(text, pos, 3, digit));
    }
    let mut count = 0usize;
    let mut end = pos;
    while let Some((class, after)) = peek(text, end)
        && digit(class)
    {
        count += 1;
        end = after;
    }
    if count == 0 {
        return Step::Skip(next(text, pos));
    }
    if peek(text, end).is_some_and(|(class, _)| class & WORD != 0) {
        return Step::Skip(end);
    }
    let first = match count % 3 {
        0 => 3,
        rest => rest,
    };
    Step::Match(run(text, pos, first, digit))
}

fn ends_with_digit(text: &[u8]) -> bool {
    let start = (1..=text.len().min(4)).map(|len| text.len() - len).find(|&start| text[start] & 0xC0 != 0x80);
    start.and_then(|start| peek(text, start)).is_some_and(|(class, _)| class & DECIMAL != 0)
}

fn punctuation(text: &[u8], pos: usize, backtick: bool) -> Option<usize> {
    let mut end = pos;
    while let Some((code_point, after)) = code_point_at(text, end) {
        let ascii = matches!(char::from_u32(code_point), Some('$' | '+' | '<' | '=' | '>' | '^' | '~' | '|'));
        let listed = ascii || backtick && code_point == u32::from(b'`');
        if !listed && crate::class::class_of(code_point) & PUNCTUATION == 0 {
            break;
        }
        end = after;
    }
    (end > pos).then_some(end)
}

fn cjk(text: &[u8], pos: usize) -> Option<usize> {
    let mut end = pos;
    while let Some((code_point, after)) = code_point_at(text, end)
        && matches!(code_point, 0x4E00..=0x9FA5 | 0x3040..=0x30FF)
    {
        end = after;
    }
    (end > pos).then_some(end)
}

fn deepseek(text: &[u8], pos: usize) -> Option<usize> {
    if text.get(pos).is_some_and(u8::is_ascii_punctuation) && text.get(pos + 1).is_some_and(u8::is_ascii_alphabetic) {
        let rest = &text[pos + 1..];
        let letters = rest.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        return Some(pos + 1 + letters);
    }
    let word = |at| some_run(text, at, ANY, |c| c & (LETTER | MARK) != 0);
    let (class, after) = peek(text, pos)?;
    let prefixed = (class & (NEWLINE | LETTER | PUNCTUATION | SYMBOL) == 0).then(|| word(after)).flatten();
    prefixed
        .or_else(|| word(pos))
        .or_else(|| {
            let end = some_run(text, skip_space(text, pos), ANY, |c| c & (PUNCTUATION | SYMBOL) != 0)?;
            Some(run(text, end, ANY, |c| c & NEWLINE != 0))
        })
        .or_else(|| to_newline(text, pos))
        .or_else(|| spaces(text, pos))
}
