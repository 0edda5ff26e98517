//! Reads the vocabulary keys of a GGUF file: just enough for the fixtures, so that this crate stands alone in its
//! tests, too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use segno_text::{SpecialIds, VocabSource};

/// A value of a GGUF key. Numbers of all widths are one kind.
pub enum Value {
    Number(f64),
    Text(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    fn number(&self) -> f64 {
        match self {
            Value::Number(number) => *number,
            _ => panic!("a number was expected"),
        }
    }

    fn text(&self) -> &[u8] {
        match self {
            Value::Text(text) => text,
            _ => panic!("a string was expected"),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("file ends early");
        self.0 = rest;
        *head
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.u64() as usize;
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head.to_vec()
    }

    fn value(&mut self, kind: u32) -> Value {
        Value::Number(match kind {
            0 | 7 => f64::from(self.take::<1>()[0]),
            1 => f64::from(i8::from_le_bytes(self.take())),
            2 => f64::from(u16::from_le_bytes(self.take())),
            3 => f64::from(i16::from_le_bytes(self.take())),
            4 => f64::from(u32::from_le_bytes(self.take())),
            5 => f64::from(i32::from_le_bytes(self.take())),
            6 => f64::from(f32::from_le_bytes(self.take())),
            8 => return Value::Text(self.bytes()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let len = self.u64();
                return Value::List((0..len).map(|_| self.value(kind)).collect());
            }
            10 => self.u64() as f64,
            11 => self.u64() as i64 as f64,
            12 => f64::from_le_bytes(self.take()),
            _ => panic!("unknown value type {kind}"),
        })
    }
}

/// All keys of a GGUF file.
pub fn keys(path: &Path) -> HashMap<String, Value> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = Reader(&bytes);
    assert_eq!(&reader.take::<4>(), b"GGUF");
    let _version: [u8; 4] = reader.take();
    let _tensors = reader.u64();
    let count = reader.u64();
    (0..count)
        .map(|_| {
            let key = String::from_utf8(reader.bytes()).unwrap();
            let kind = u32::from_le_bytes(reader.take());
            (key, reader.value(kind))
        })
        .collect()
}

/// The vocabulary of a GGUF file.
pub fn vocab_source(path: &Path) -> VocabSource {
    let keys = keys(path);
    let get = |key: &str| keys.get(&format!("tokenizer.ggml.{key}"));
    let text = |key: &str| get(key).map(|value| String::from_utf8(value.text().to_vec()).unwrap()).unwrap_or_default();
    let list = |key: &str| match get(key) {
        Some(Value::List(list)) => list.as_slice(),
        _ => &[],
    };
    let id = |key: &str| get(&format!("{key}_token_id")).map(|value| value.number() as u32);
    let flag = |key: &str| get(key).map(|value| value.number() != 0.0);
    VocabSource {
        model: text("model"),
        pre: text("pre"),
        tokens: list("tokens").iter().map(|v| v.text().to_vec()).collect(),
        scores: list("scores").iter().map(|v| v.number() as f32).collect(),
        token_types: list("token_type").iter().map(|v| v.number() as i32).collect(),
        merges: list("merges").iter().map(|v| v.text().to_vec()).collect(),
        special: SpecialIds {
            bos: id("bos"),
            eos: id("eos"),
            unk: id("unknown"),
            pad: id("padding"),
            ..SpecialIds::default()
        },
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        remove_extra_whitespaces: flag("remove_extra_whitespaces"),
        precompiled_charsmap: list("precompiled_charsmap").iter().map(|v| v.number() as u8).collect(),
        chat_template: keys
            .get("tokenizer.chat_template")
            .map(|value| String::from_utf8(value.text().to_vec()).unwrap()),
        ..VocabSource::default()
    }
}

/// A file below the workspace's fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}
