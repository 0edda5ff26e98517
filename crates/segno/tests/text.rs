//! Texts without messages: edited anywhere, saved, refused where they are not this model's.

use std::path::Path;

use segno::{EncodeOptions, GenerateOptions, LoadOptions, Model, Session, open_tokenizer};

fn fixture(name: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name);
    path.to_str().expect("a path").to_string()
}

fn load(model: Model) -> Session {
    model.load(&LoadOptions { device: "cpu".into(), ..LoadOptions::default() }).expect("loads")
}

fn options(n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, ..GenerateOptions::greedy() }
}

#[test]
fn a_text_is_edited_anywhere_and_only_what_follows_is_read() {
    let session = load(Model::demo().expect("opens"));
    let mut text = session.text();
    text.append_tokens(&(300..400).collect::<Vec<_>>());
    text.append_tokens(&(500..550).collect::<Vec<_>>());
    let piece = text.generate(&options(20)).expect("a reply");
    assert_eq!(text.len(), 170);
    assert!(text.text().ends_with(&piece));
    let whole = text.tokens().to_vec();

    // Between two pieces stands a checkpoint; an insertion there reads what follows it.
    let mut other = text.branch();
    assert!(other.edit_tokens(100..100, &[7, 8, 9]));
    assert_eq!(other.tokens(), [&whole[..100], &[7, 8, 9], &whole[100..]].concat());
    other.generate(&options(1)).expect("a reply");
    let report = other.report().expect("a report");
    assert_eq!((report.reused_tokens, report.prompt_tokens), (100, 173));
    // So does the end of what was inserted.
    other.truncate(103);
    other.append_tokens(&[11]);
    other.generate(&options(1)).expect("a reply");
    assert_eq!(other.report().expect("a report").reused_tokens, 103);

    // The branch has changed nothing: the last token was not read, then nothing is left to read.
    for unread in [1, 0] {
        let mut again = text.branch();
        again.generate(&options(1)).expect("a reply");
        assert_eq!(again.report().expect("a report").reused_tokens, 170 - unread);
    }
    text.rewind(20);
    assert_eq!(text.tokens(), &whole[..150]);
    assert_eq!(text.generate(&options(20)).expect("a reply"), piece);
    assert_eq!((text.tokens(), text.report().expect("a report").reused_tokens), (&whole[..], 150));
    text.rewind(1000);
    assert!(text.is_empty() && text.generate(&options(1)).is_err());
    #[expect(clippy::reversed_empty_ranges, reason = "it is refused")]
    let ranges = [0..1, 5..2];
    assert!(ranges.into_iter().all(|range| !text.edit_tokens(range, &[1])));
}

#[test]
fn a_saved_text_is_taken_by_its_vocabulary_only() {
    let folder = std::env::temp_dir().join(format!("segno-text-{}", std::process::id()));
    let session = load(Model::demo().expect("opens"));
    let mut text = session.text();
    text.append("The fox has a red lantern. It walks to the old bridge.");
    // Nothing was read yet: the tokens are saved all the same.
    assert!(text.save(&folder).is_err());
    text.generate(&options(10)).expect("a reply");
    assert_eq!(text.save(&folder).expect("saves") as usize, text.len() - 1);

    let other = load(Model::demo().expect("opens"));
    let mut again = other.text();
    assert_eq!(again.load(&folder).expect("loads") as usize, text.len() - 1);
    assert_eq!(again.tokens(), text.tokens());
    again.generate(&options(1)).expect("a reply");
    assert_eq!(again.report().expect("a report").reused_tokens, text.len() - 1);

    let foreign = load(Model::open(fixture("qwen35/model-q8_0.gguf")).expect("opens"));
    let mut refused = foreign.text();
    let error = refused.load(&folder).expect_err("refused").to_string();
    assert!(error.contains("text.json: the tokens do not say its text") && refused.is_empty(), "{error}");
    for (file, expected) in [
        ("{", "EOF"),
        ("[]", "tokens: "),
        (r#"{"text": "", "tokens": [], "borders": [3, 1]}"#, "borders: [3, 1], expected ascending numbers up to 0"),
        (r#"{"text": "", "tokens": [4294967295], "borders": []}"#, "the tokens do not say its text"),
    ] {
        std::fs::write(folder.join("text.json"), file).expect("written");
        let error = again.load(&folder).expect_err("refused").to_string();
        assert!(error.contains(expected), "{file}: {error}");
    }
    std::fs::remove_dir_all(&folder).expect("removed");
    assert!(again.load(&folder).expect_err("refused").to_string().contains("text.json"));
}

#[test]
fn what_is_appended_joins_without_a_space() {
    for name in ["spm-llama", "qwen35", "llama-bpe"] {
        let tokenizer = open_tokenizer(fixture(&format!("tokenizers/{name}.gguf"))).expect("opens");
        let mut ids = tokenizer.encode("A lan", EncodeOptions { add_special: true, parse_special: false });
        ids.extend(tokenizer.encode_more("tern, <s> and more"));
        assert_eq!(tokenizer.decode(&ids, false), "A lantern, <s> and more", "{name}");
    }
}
