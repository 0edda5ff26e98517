//! Ids of the fixtures' strings, compared with llama.cpp's in four ways.

mod common;

use segno_text::{EncodeOptions, Tokenizer};
use serde_json::Value;

/// The four ways a string is encoded, by their names in the fixtures.
const WAYS: [(&str, EncodeOptions); 4] = [
    ("ids", EncodeOptions { add_special: false, parse_special: false }),
    ("ids_parse_special", EncodeOptions { add_special: false, parse_special: true }),
    ("ids_add_special", EncodeOptions { add_special: true, parse_special: false }),
    ("ids_add_and_parse_special", EncodeOptions { add_special: true, parse_special: true }),
];

/// The tokenizer of `tokenizers/<name>.gguf`.
fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_source(common::vocab_source(&common::fixture(&format!("tokenizers/{name}.gguf")))).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Compares every case of a vocabulary. In `by_reference` are the texts whose right ids are those of the published
/// tokenizer, because llama.cpp approximates the splitting rule; they must all differ from llama.cpp's.
fn check(name: &str, by_reference: &[&str]) {
    let tokenizer = tokenizer(name);
    let path = common::fixture(&format!("tokenizers/{name}.cases.json"));
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    let mut differing = Vec::new();
    for case in fixture["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let named = by_reference.contains(&text);
        if named {
            differing.push(text);
            assert_ne!(case["ids"], case["ids_reference"], "{name}: {text:?} need not be named");
        }
        for (way, options) in WAYS {
            seen += 1;
            let mut want = ids(&case[way]);
            if named {
                // What is added in front stays; the text itself has no special tokens.
                want.truncate(want.len() - ids(&case["ids"]).len());
                want.extend(ids(&case["ids_reference"]));
            }
            let got = tokenizer.encode(text, options);
            if got != want {
                wrong.push(format!("{text:?} {way}: {got:?}, not {want:?}"));
            }
        }
        check_decoding(name, &tokenizer, text);
    }
    for case in fixture["invalid_utf8"].as_array().unwrap() {
        seen += 1;
        let bytes = hex(case["hex"].as_str().unwrap());
        let got = tokenizer.encode(&bytes, EncodeOptions::default());
        if got != ids(&case["ids"]) {
            wrong.push(format!("{bytes:x?}: {got:?}, not {}", case["ids"]));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 400, "{name}: only {seen} comparisons");
    assert_eq!(differing.len(), by_reference.len(), "{name}: texts named but not in the fixture");
}

/// Ids give the text back, whole and streamed.
fn check_decoding(name: &str, tokenizer: &Tokenizer, text: &str) {
    let parsed = EncodeOptions { add_special: false, parse_special: true };
    for options in [EncodeOptions::default(), parsed] {
        let ids = tokenizer.encode(text, options);
        let want = match name {
            // Sentencepiece puts a space of its own behind each special token, and only the first is taken off.
            "spm-llama" if ids.iter().any(|&id| id < 5) => continue,
            // U+2581 in a text cannot be told from a space.
            "spm-llama" | "spm-gemma" | "gemma4" => text.replace('\u{2581}', " "),
            // A byte-order mark in front is dropped.
            "plamo2" => text.trim_start_matches('\u{FEFF}').to_string(),
            _ => text.to_string(),
        };
        assert_eq!(tokenizer.decode(&ids, true), want, "{name}: {ids:?}");
        let mut stream = tokenizer.decode_stream(true);
        let mut streamed = String::new();
        for &id in &ids {
            streamed += &stream.push(tokenizer, id);
        }
        streamed += &stream.finish();
        let streamed = match name {
            "spm-llama" => streamed.strip_prefix(' ').unwrap_or(&streamed),
            _ => &streamed,
        };
        assert_eq!(streamed, want, "{name}: {ids:?}");
    }
}

#[test]
fn qwen2() {
    check("qwen2", &[]);
}

#[test]
fn qwen35() {
    check("qwen35", &[]);
}

#[test]
fn other_byte_level_vocabularies() {
    for name in ["llama-bpe", "gpt-2", "refact", "command-r", "exaone4", "lfm2"] {
        check(name, &[]);
    }
}

/// Words with combining vowel signs. The published expressions put marks with letters, llama.cpp's stand-in for them
/// does not; here the published ones count.
#[test]
fn vocabularies_where_llama_cpp_splits_at_marks() {
    let words = ["नमस्ते दुनिया", "สวัสดีชาวโลก", "กำลัง ที่นี่", "क्षित्"];
    for name in ["gpt-4o", "tekken", "kimi-k2"] {
        check(name, &words);
    }
}

#[test]
fn sentencepiece_vocabularies() {
    check("spm-llama", &[]);
    check("spm-gemma", &[]);
}

#[test]
fn gemma4() {
    check("gemma4", &[]);
}

#[test]
fn rwkv() {
    check("rwkv", &[]);
}

#[test]
fn plamo2() {
    check("plamo2", &[]);
}

/// Unigram with sentencepiece's own normaliser; the ids are sentencepiece's.
#[test]
fn unigram() {
    let tokenizer = tokenizer("unigram");
    let path = common::fixture("tokenizers/unigram.cases.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 120);
    let mut wrong = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode(text, EncodeOptions::default());
        // Text around a user-defined token is encoded by itself here, as in llama.cpp; sentencepiece carries the
        // state of its white space across.
        let want = match text {
            "a<sep>b" => vec![24, 3, 4, 26],
            " <sep> " => vec![3],
            "<sep><sep>north" => vec![3, 3, 60, 36],
            _ => ids(&case["ids"]),
        };
        if got != want {
            wrong.push(format!("{text:?}: {got:?}, not {want:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Time per byte must not grow with the length of a text without spaces. The bound is far above noise: quadratic
/// growth would be a factor of 8 here.
#[test]
fn long_texts_without_spaces_are_near_linear() {
    for name in ["qwen2", "gpt-4o", "kimi-k2", "command-r", "spm-llama", "gemma4", "rwkv", "plamo2", "unigram"] {
        let tokenizer = tokenizer(name);
        for unit in ["a", "the", "1", " ", "\n", "'s", "!", "\u{4E2D}", "\u{301}", "aB", "</s>"] {
            let time = |bytes: usize| {
                let text = unit.repeat(bytes / unit.len());
                let parse_special = EncodeOptions { add_special: false, parse_special: true };
                (0..2)
                    .map(|_| {
                        let start = std::time::Instant::now();
                        tokenizer.encode(&text, parse_special);
                        start.elapsed()
                    })
                    .min()
                    .unwrap()
                    .as_secs_f64()
            };
            let (short, long) = (time(1 << 16), time(1 << 19));
            assert!(long < short * 8.0 * 5.0 + 0.05, "{name} {unit:?}: {short} s, then {long} s");
        }
    }
}

#[test]
fn borders_are_found_among_the_ids() {
    let tokenizer = tokenizer("qwen2");
    let text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>hello world";
    let options = EncodeOptions { add_special: false, parse_special: true };
    let borders = [0, 12, 13, 19, 29, 30, 31, 42, 47, 50, text.len(), text.len() + 1];
    let encoded = tokenizer.encode_with_borders(text.as_bytes(), options, &borders);
    assert_eq!(encoded.ids, tokenizer.encode(text, options));
    for &border in &encoded.borders {
        let head = tokenizer.decode(&encoded.ids[..border], true);
        assert!(borders.contains(&head.len()), "{head:?}");
    }
    // Special tokens have borders before and behind; 31 lies inside one, and 50 perhaps inside a word's token.
    let heads: Vec<usize> =
        encoded.borders.iter().map(|&border| tokenizer.decode(&encoded.ids[..border], true).len()).collect();
    for want in [0, 12, 19, 29, 30, 42, text.len()] {
        assert!(heads.contains(&want), "{want} not in {heads:?}");
    }
    assert!(!heads.contains(&31));
}

#[test]
fn prompts_get_no_second_bos() {
    let tokenizer = tokenizer("llama-bpe");
    let bos = tokenizer.special().bos.unwrap();
    let plain = tokenizer.encode_prompt("hi", &[]).ids;
    assert_eq!(plain[0], bos);
    assert_eq!(tokenizer.encode_prompt("<|endoftext|>hi", &[]).ids, plain);
}
