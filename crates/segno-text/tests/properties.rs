//! What must hold for every text and every vocabulary, however broken.

mod common;

use proptest::prelude::*;
use segno_text::{EncodeOptions, SpecialIds, Tokenizer, VocabSource};

const BYTE_LEVEL: [&str; 11] =
    ["qwen2", "qwen35", "llama-bpe", "gpt-4o", "tekken", "gpt-2", "refact", "command-r", "exaone4", "kimi-k2", "lfm2"];
const OTHERS: [&str; 6] = ["spm-llama", "spm-gemma", "gemma4", "rwkv", "plamo2", "unigram"];

const ALL_OPTIONS: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn tokenizers(names: &[&str]) -> Vec<Tokenizer> {
    names
        .iter()
        .map(|name| {
            let path = common::fixture(&format!("tokenizers/{name}.gguf"));
            Tokenizer::from_source(common::vocab_source(&path)).unwrap()
        })
        .collect()
}

/// Pieces that vocabularies treat in ways of their own.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[ a-zA-Z0-9'.,!\n\t]{0,12}",
        proptest::sample::select(vec![
            "<|im_end|>",
            "<|im_start|>",
            "</s>",
            "<s>",
            "<0x41>",
            "\u{2581}",
            "\u{120}",
            "\u{FEFF}",
            "\n\n\n",
            "\\n",
            "<unk>",
            "<pad>",
            "\u{301}",
            "<sep>",
        ])
        .prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn byte_level_text_comes_back(text in text()) {
        for tokenizer in tokenizers(&BYTE_LEVEL) {
            for parse_special in [false, true] {
                let ids = tokenizer.encode(&text, EncodeOptions { add_special: false, parse_special });
                prop_assert_eq!(tokenizer.decode(&ids, true), text.as_str());
            }
        }
    }

    #[test]
    fn any_bytes_give_ids_of_the_vocabulary(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        for tokenizer in tokenizers(&BYTE_LEVEL).iter().chain(&tokenizers(&OTHERS)) {
            let ids = tokenizer.encode(&bytes, ALL_OPTIONS);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
            let mut stream = tokenizer.decode_stream(true);
            let streamed: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
            let streamed = streamed + &stream.finish();
            let whole = tokenizer.decode(&ids, true);
            // A stream goes on from a prompt, so it keeps the space that the whole text loses in front.
            prop_assert!(streamed.len() - whole.len() <= 1, "{:?} {:?}", streamed, whole);
            prop_assert_eq!(streamed.replace(' ', ""), whole.replace(' ', ""));
        }
    }

    #[test]
    fn any_ids_can_be_decoded(ids in proptest::collection::vec(any::<u32>(), 0..20), near in proptest::collection::vec(0u32..1000, 0..20)) {
        for tokenizer in tokenizers(&["qwen2", "spm-llama", "rwkv"]) {
            for ids in [&ids, &near] {
                tokenizer.decode(ids, false);
                let mut stream = tokenizer.decode_stream(true);
                for &id in ids {
                    stream.push(&tokenizer, id);
                }
                stream.finish();
            }
        }
    }

    #[test]
    fn borders_divide_the_ids(text in text(), places in proptest::collection::vec(0usize..80, 0..6)) {
        let mut places = places;
        places.sort_unstable();
        for tokenizer in tokenizers(&["qwen2", "gemma4", "spm-gemma"]) {
            let encoded = tokenizer.encode_prompt(&text, &places);
            prop_assert!(encoded.borders.is_sorted());
            prop_assert!(encoded.borders.iter().all(|&border| border <= encoded.ids.len()));
            prop_assert!(encoded.borders.len() <= places.len());
        }
    }

    #[test]
    fn broken_vocabularies_are_refused_or_work(
        model in proptest::sample::select(vec!["gpt2", "llama", "gemma4", "t5", "rwkv", "plamo2", "none"]),
        pre in proptest::sample::select(vec!["", "qwen2", "tekken", "kimi-k2", "tiny_aya", "sarvam-moe"]),
        tokens in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..4),
            "[ab\u{2581}\u{120}]{1,3}".prop_map(String::into_bytes),
            (0u8..=255).prop_map(|byte| format!("<0x{byte:02X}>").into_bytes()),
        ], 0..30),
        kinds in proptest::collection::vec(-1i32..8, 0..30),
        scores in proptest::collection::vec(any::<f32>(), 0..30),
        merges in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..6),
            "[ab\u{2581}] [ab\u{2581}]".prop_map(String::into_bytes),
        ], 0..10),
        ids in proptest::collection::vec(proptest::option::of(0u32..40), 4),
        flags in proptest::collection::vec(proptest::option::of(any::<bool>()), 4),
        precompiled_charsmap in proptest::collection::vec(any::<u8>(), 0..40),
        fit in any::<bool>(),
        text in prop_oneof![text().prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..40)],
    ) {
        let (mut kinds, mut scores) = (kinds, scores);
        if fit {
            kinds.resize(tokens.len(), 1);
            scores.resize(tokens.len(), -1.0);
        }
        let source = VocabSource {
            model: model.into(),
            pre: pre.into(),
            tokens,
            scores,
            token_types: kinds,
            merges,
            special: SpecialIds { bos: ids[0], eos: ids[1], unk: ids[2], pad: ids[3], ..SpecialIds::default() },
            add_bos: flags[0],
            add_eos: flags[1],
            add_space_prefix: flags[2],
            remove_extra_whitespaces: flags[3],
            precompiled_charsmap,
            ..VocabSource::default()
        };
        if let Ok(tokenizer) = Tokenizer::from_source(source) {
            let ids = tokenizer.encode(&text, ALL_OPTIONS);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
            tokenizer.decode(&ids, true);
        }
    }
}
