//! Files that lie: an error that says where, never a panic, an over-read or a large allocation.

use std::path::Path;

use proptest::prelude::*;
use segno_gguf::{Array, Gguf, GgufError, GgufWriter, Value, ValueType};
use segno_quant::TensorType;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name);
    std::fs::read(path).expect("a fixture")
}

/// A small file with every type of value.
fn small() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "test").set("u32", 7u32).set("i32", -7i32).set("f32", 0.5f32).set("bool", true);
    writer.set("u64", u64::MAX).set("strings", Array::of_strings(["a", "", "\u{e9}"]));
    for (i, value) in [Value::U8(1), Value::I8(-1), Value::U16(2), Value::I16(-2), Value::I64(-3), Value::F64(0.25)]
        .into_iter()
        .enumerate()
    {
        writer.set(format!("other.{i}"), value.clone());
        let array = Array::new(value.value_type(), &[value.clone(), value]).expect("one type");
        writer.set(format!("array.{i}"), array);
    }
    writer.set("flags", Array::new(ValueType::Bool, &[Value::Bool(true), Value::Bool(false)]).expect("one type"));
    writer.tensor("a", &[3, 2], TensorType::F32).expect("fits");
    writer.tensor("b", &[32, 3], TensorType::Q8_0).expect("fits");
    let mut sink = writer.begin(Vec::new()).expect("writes");
    sink.write(&[1; 24 + 50]).expect("writes");
    sink.write(&[2; 52]).expect("writes");
    sink.finish().expect("ends")
}

fn error(bytes: Vec<u8>) -> String {
    Gguf::from_bytes(bytes).expect_err("refused").to_string()
}

/// The small file with `new` in the place of the bytes at `at`.
fn patched(at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

fn find(needle: &[u8]) -> usize {
    small().windows(needle.len()).position(|w| w == needle).expect("it is there")
}

#[test]
fn what_was_written_is_read() {
    let gguf = Gguf::from_bytes(small()).expect("reads");
    assert_eq!(gguf.get("general.architecture").and_then(Value::as_str), Some("test"));
    assert_eq!(gguf.get("i32").and_then(Value::as_i64), Some(-7));
    assert_eq!(gguf.get("u64").and_then(Value::as_u64), Some(u64::MAX));
    assert_eq!(gguf.get("other.5").and_then(Value::as_f64), Some(0.25));
    let strings = gguf.get("strings").and_then(Value::as_array).expect("an array");
    assert_eq!(strings.strings().collect::<Vec<_>>(), ["a".as_bytes(), b"", "\u{e9}".as_bytes()]);
    let array = gguf.get("array.3").and_then(Value::as_array).expect("an array");
    assert_eq!(array.iter().map(|v| v.as_i64()).collect::<Vec<_>>(), [Some(-2), Some(-2)]);
    let a = gguf.tensor("a").expect("a tensor");
    assert_eq!((&a.shape[..], a.ty, gguf.tensor_bytes(a)), (&[3, 2][..], TensorType::F32, &[1; 24][..]));
    let b = gguf.tensor("b").expect("a tensor");
    assert_eq!(gguf.tensor_bytes(b), [&[1; 50][..], &[2; 52]].concat());
    assert_eq!(gguf.metadata().count(), 20);
}

#[test]
fn errors_say_what_and_where() {
    assert!(error(b"GGML\x03\0\0\0".to_vec()).contains("begins with 'GGML', expected 'GGUF'"));
    assert!(error(b"GG".to_vec()).contains("has 2 bytes"));
    assert!(error(patched(4, &3u32.to_be_bytes())).contains("is big-endian (version 3)"));
    assert!(error(patched(4, &1u32.to_le_bytes())).contains("version: is 1, expected 2 or 3"));
    assert!(error(patched(8, &u64::MAX.to_le_bytes())).contains("tensor count: is 18446744073709551615"));
    assert!(error(patched(16, &(1u64 << 40).to_le_bytes())).contains("metadata count"));
    // A string of 2^60 bytes: the length before the architecture's value.
    let value = find(b"test") - 8;
    let message = error(patched(value, &(1u64 << 60).to_le_bytes()));
    assert!(message.contains(&format!("at byte {value}, general.architecture")), "{message}");
    // An array of arrays.
    let ty = find(b"array.0") + 7 + 4;
    assert!(error(patched(ty, &9u32.to_le_bytes())).contains("array of arrays"));
    assert!(error(patched(ty, &13u32.to_le_bytes())).contains("value type 13, expected 0 to 12"));
    // Tensor `a`: name length, name, dimensions, sizes, type, offset.
    let a = find(b"\x01\0\0\0\0\0\0\0a\x02\0\0\0");
    assert!(error(patched(a + 9, &5u32.to_le_bytes())).contains("tensor a: has 5 dimensions"));
    assert!(error(patched(a + 13, &(1u64 << 63).to_le_bytes())).contains("impossible size"));
    assert!(error(patched(a + 13, &0u64.to_le_bytes())).contains("impossible size"));
    assert!(error(patched(a + 29, &99u32.to_le_bytes())).contains("type 99"));
    assert!(error(patched(a + 29, &8u32.to_le_bytes())).contains("rows of 3 elements, expected a multiple of 32"));
    assert!(error(patched(a + 33, &1u64.to_le_bytes())).contains("offset 1, expected a multiple of 32"));
    assert!(error(patched(a + 33, &(1u64 << 40).to_le_bytes())).contains("but the file ends at"));
    assert!(error(patched(a + 33, &32u64.to_le_bytes())).contains("overlaps tensor"));
    let b = find(b"\x01\0\0\0\0\0\0\0b\x02\0\0\0");
    assert!(error(patched(b + 8, b"a")).contains("tensor a: is there twice"));
    let key = find(b"i32");
    assert!(error(patched(key, b"u32")).contains("u32: is there twice"));
}

#[test]
fn a_cut_anywhere_is_refused() {
    let whole = small();
    for n in 0..whole.len() {
        // The padding after the last tensor may be missing.
        let padding = 102usize.next_multiple_of(32) - 102;
        assert_eq!(Gguf::from_bytes(whole[..n].to_vec()).is_ok(), n >= whole.len() - padding, "cut at {n}");
    }
}

#[test]
fn the_writer_refuses_what_does_not_fit() {
    let mut writer = GgufWriter::new();
    assert!(matches!(writer.tensor("a", &[33], TensorType::Q8_0), Err(GgufError::Rows { .. })));
    assert!(writer.tensor("b", &[32, 0], TensorType::Q8_0).is_err());
    assert!(writer.tensor("c", &[32], TensorType::Q8_0).is_ok());
    assert!(writer.tensor("c", &[32], TensorType::Q8_0).is_err());
    let mut sink = writer.begin(Vec::new()).expect("writes");
    sink.write(&[0; 33]).expect("writes");
    assert!(sink.finish().expect_err("refused").to_string().contains("tensor c: 1 bytes are missing"));
    let mut sink = GgufWriter::new().begin(Vec::new()).expect("writes");
    assert!(sink.write(&[0; 1]).is_err());
}

#[test]
fn parts_are_opened_through_the_first() {
    let folder = std::env::temp_dir().join(format!("segno-gguf-parts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |no: u32, total: i32, name: &str| {
        let mut writer = GgufWriter::new();
        writer.set("split.no", no).set("split.count", 2u32).set("split.tensors.count", total);
        writer.tensor(name, &[4], TensorType::F32).expect("fits");
        let mut sink = writer.begin(Vec::new()).expect("writes");
        sink.write(&[no as u8; 16]).expect("writes");
        let path = folder.join(format!("m-{:05}-of-00002.gguf", no + 1));
        std::fs::write(&path, sink.finish().expect("ends")).expect("written");
        path
    };
    let (first, second) = (write(0, 2, "a"), write(1, 2, "b"));
    let gguf = Gguf::open(&first).expect("opens");
    let b = gguf.tensor("b").expect("of the second part");
    assert_eq!(gguf.tensor_bytes(b), [1; 16]);
    assert!(Gguf::open(&second).expect_err("refused").to_string().contains("open the first part"));
    write(1, 2, "a");
    assert!(Gguf::open(&first).expect_err("refused").to_string().contains("which another part has too"));
    write(1, 2, "b");
    write(0, 3, "a");
    assert!(Gguf::open(&first).expect_err("refused").to_string().contains("2 tensors, expected 3"));
    std::fs::remove_file(&second).expect("removed");
    assert!(matches!(Gguf::open(&first), Err(GgufError::Io { .. })));
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// Reads all that a file offers.
fn walk(bytes: Vec<u8>) {
    let Ok(gguf) = Gguf::from_bytes(bytes) else { return };
    for (_, value) in gguf.metadata() {
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    for tensor in gguf.tensors() {
        let rows: u64 = tensor.shape.iter().skip(1).product();
        let row = tensor.shape.first().copied().unwrap_or(1) as usize;
        assert_eq!(gguf.tensor_bytes(tensor).len(), tensor.ty.row_bytes(row).expect("whole blocks") * rows as usize);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0u8), Just(255u8)]), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = small();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        walk(bytes);
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        walk([b"GGUF\x03\0\0\0", &tail[..]].concat());
    }
}

#[test]
fn a_real_file_with_mutated_header_never_panics() {
    let file = fixture("qwen35/model-q4_k_m.gguf");
    for seed in 0..200usize {
        let mut bytes = file.clone();
        // The header and tables are in the first 20 kB.
        for i in 0..4 {
            let at = (seed * 7919 + i * 104_729) % 20_000;
            bytes[at] = bytes[at].wrapping_add((seed * 31 + i) as u8);
        }
        walk(bytes);
    }
}
