//! The hand-written rules against the published expressions, run by a regex engine.

use fancy_regex::Regex;
use proptest::prelude::*;

use super::*;
use crate::class;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CI: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";

/// The expressions of a rule, in the order they are applied.
fn published(name: &str) -> Vec<String> {
    let end = r"\s*[\r\n]+|\s+(?!\S)|\s+";
    let words = |digits: &str, letters: &str, not: &str| {
        format!(r"(?:{CI})|[^\r\n\p{{L}}\p{{N}}]?{letters}|{digits}| ?[^\s{not}]+[\r\n]*|{end}")
    };
    let cased = |suffix: &str, digits: &str, tail: &str, upper: &str, lower: &str| {
        format!(
            r"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{suffix}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{suffix}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{tail}]*|{end}"
        )
    };
    let upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
    let lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
    let suffix = format!("(?:{CI})?");
    let ln = r"\p{L}\p{N}";
    match name {
        "gpt-2" => vec![GPT2.into()],
        "llama-bpe" => vec![words(r"\p{N}{1,3}", r"\p{L}+", ln)],
        "qwen2" => vec![words(r"\p{N}", r"\p{L}+", ln)],
        "qwen35" => vec![words(r"\p{N}", r"[\p{L}\p{M}]+", r"\p{L}\p{M}\p{N}")],
        "tekken" => vec![cased("", r"\p{N}", r"\r\n/", upper, lower)],
        "gpt-4o" => vec![cased(&suffix, r"\p{N}{1,3}", r"\r\n/", upper, lower)],
        "kimi-k2" => vec![format!(
            r"\p{{Han}}+|{}",
            cased(
                &suffix,
                r"\p{N}{1,3}",
                r"\r\n",
                r"(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])",
                r"(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])",
            )
        )],
        "command-r" => vec![r"\p{N}".into(), GPT2.into()],
        "deepseek-v3" => vec![
            r"\p{N}{1,3}".into(),
            r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+".into(),
            format!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{{|}}~][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{end}"##
            ),
        ],
        "falcon" => vec![r"[\p{P}$+<=>^~|`]+".into(), GPT2.into(), r"[0-9][0-9][0-9]".into()],
        "bailingmoe" => vec![words(r"\p{N}", r"\p{L}+", ln).replace(r"\s*[\r\n]+", r"\s*[\r\n]")],
        "seed-coder" => {
            vec![words(r"\p{N}", r"\p{L}+", ln).replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+")]
        }
        "tiny_aya" => vec![r"\d{1,3}(?=(?:\d{3})*\b)".into(), cased(&suffix, r"\p{N}{1,3}", r"\r\n/", upper, lower)],
        "minicpm5" => vec![r"\p{N}{1,3}".into(), words(r"\p{N}+", r"\p{L}+", ln)],
        "default" => vec![r"[\p{P}$+<=>^~|]+".into(), GPT2.into(), r"\p{N}+".into(), r"[0-9][0-9][0-9]".into()],
        _ => panic!("no expression for {name}"),
    }
}

const RULES: [&str; 15] = [
    "gpt-2",
    "llama-bpe",
    "qwen2",
    "qwen35",
    "tekken",
    "gpt-4o",
    "kimi-k2",
    "command-r",
    "deepseek-v3",
    "falcon",
    "bailingmoe",
    "seed-coder",
    "tiny_aya",
    "minicpm5",
    "default",
];

/// Splits with a regex engine: matches and what lies between them, stage by stage.
fn oracle<'t>(stages: &[Regex], text: &'t str) -> Vec<&'t str> {
    let mut pieces = vec![text];
    for stage in stages {
        let mut split = Vec::new();
        for piece in pieces {
            let mut gap = 0;
            for found in stage.find_iter(piece) {
                let found = found.unwrap();
                split.push(&piece[gap..found.start()]);
                split.push(found.as_str());
                gap = found.end();
            }
            split.push(&piece[gap..]);
        }
        split.retain(|piece| !piece.is_empty());
        pieces = split;
    }
    pieces
}

fn pieces<'t>(rule: &PreTokenizer, text: &'t str) -> Vec<&'t str> {
    let mut out = Vec::new();
    rule.split(text.as_bytes(), |piece| {
        out.push(std::str::from_utf8(piece).unwrap());
    });
    out
}

/// Text that hurts: every class, the characters the rules name, and their neighbours.
fn text() -> impl Strategy<Value = String> {
    let pool: Vec<char> =
        "abszSTdRrEeVvMmLlDAZ'''’   \t\n\n\r\r/.!?_-$+<=>^~|`\"\\({0123456789²½٣Ⅷéßſ\u{1C5}ǅʰªאक中国々のナ한\u{301}\u{93F}\u{E31}\u{903}\u{20E3}\u{A0}\u{85}\u{2028}\u{3000}\u{200B}\u{FEFF}\u{0}🙂𝕳𠀀€▁Ġ"
            .chars()
            .collect();
    let one = prop_oneof![
        12 => proptest::sample::select(pool),
        1 => any::<char>(),
    ];
    proptest::collection::vec(one, 0..40).prop_map(|chars| chars.into_iter().collect())
}

#[test]
fn rules_split_as_the_published_expressions() {
    use proptest::test_runner::{Config, TestRunner};
    for name in RULES {
        let rule = PreTokenizer::by_name(name).unwrap();
        let stages: Vec<Regex> = published(name).iter().map(|expression| Regex::new(expression).unwrap()).collect();
        let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
        runner
            .run(&text(), |text| {
                prop_assert_eq!(pieces(&rule, &text), oracle(&stages, &text), "{}", name);
                Ok(())
            })
            .unwrap();
    }
}

/// Every code point: a table of another Unicode version would show here.
#[test]
fn classes_are_those_of_the_regex_engine() {
    for (expression, class) in [
        (r"\p{L}", class::LETTER),
        (r"[\p{Lu}\p{Lt}]", class::UPPER),
        (r"\p{Ll}", class::LOWER),
        (r"\p{M}", class::MARK),
        (r"\p{N}", class::NUMBER),
        (r"\p{P}", class::PUNCTUATION),
        (r"\p{S}", class::SYMBOL),
        (r"\s", class::SPACE),
        (r"\p{Han}", class::HAN),
        (r"\d", class::DECIMAL),
        (r"\w", class::WORD),
    ] {
        let regex = Regex::new(expression).unwrap();
        let all: String = ('\0'..=char::MAX).collect();
        let mut want = regex.find_iter(&all).map(|found| found.unwrap().as_str());
        let mut next = want.next();
        for c in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let is_next = next == Some(&*c.encode_utf8(&mut buffer));
            assert_eq!(class::class_of(c as u32) & class != 0, is_next, "{expression} {:x}", c as u32);
            if is_next {
                next = want.next();
            }
        }
    }
}

#[test]
fn names_no_rule_has_are_refused() {
    let error = PreTokenizer::by_name("no-such-rule").unwrap_err();
    assert!(error.to_string().contains("no-such-rule"));
}

#[test]
fn qwen2_by_hand() {
    let rule = PreTokenizer::by_name("qwen2").unwrap();
    assert_eq!(pieces(&rule, "I'LL  go 12\n\n  x"), ["I", "'LL", " ", " go", " ", "1", "2", "\n\n", " ", " x"]);
}
