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
    for version in [0, 1, 4, u32::MAX] {
        let message = error(patched(4, &version.to_le_bytes()));
        assert!(message.contains(&format!("at byte 4, version: is {version}, expected 2 or 3")), "{message}");
    }
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
    assert!(error(patched(a + 29, &99u32.to_le_bytes())).contains("type 99, which is not known"));
    assert!(error(patched(a + 29, &4u32.to_le_bytes())).contains("type 4, which the format has withdrawn"));
    assert!(error(patched(a + 29, &8u32.to_le_bytes())).contains("rows of 3 elements, expected a multiple of 32"));
    assert!(error(patched(a + 21, &(1u64 << 62).to_le_bytes())).contains("impossible size: [3], then"));
    assert!(error(patched(a + 33, &u64::MAX.to_le_bytes())).contains("has offset 18446744073709551615"));
    assert!(error(patched(a + 33, &1u64.to_le_bytes())).contains("offset 1, expected a multiple of 32"));
    assert!(error(patched(a + 33, &(1u64 << 40).to_le_bytes())).contains("but the file ends at"));
    assert!(error(patched(a + 33, &32u64.to_le_bytes())).contains(", inside tensor a, "));
    let b = find(b"\x01\0\0\0\0\0\0\0b\x02\0\0\0");
    assert!(error(patched(b + 8, b"a")).contains("tensor a: is there twice"));
    let (key, earlier) = (find(b"i32"), find(b"u32"));
    let message = error(patched(key, b"u32"));
    let expected = format!("at byte {}, u32: is there twice, first at byte {}", key - 8, earlier - 8);
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn an_alignment_that_lies_is_refused_where_it_stands() {
    let with = |value: Value| {
        let mut writer = GgufWriter::new();
        // The writer would refuse it under its own name.
        writer.set("general.alignmenX", value).set("later", 1u32);
        let mut bytes = writer.begin(Vec::new()).expect("writes").finish().expect("ends");
        let at = bytes.windows(17).position(|w| w == b"general.alignmenX").expect("it is there");
        bytes[at + 16] = b't';
        bytes
    };
    assert!(Gguf::from_bytes(with(Value::U32(64))).is_ok());
    assert!(Gguf::from_bytes(with(Value::U64(1))).is_ok());
    for bad in [Value::U32(0), Value::U32(48), Value::U32(1 << 31), Value::U64(1 << 63), Value::I32(-32), "32".into()] {
        let message = error(with(bad.clone()));
        let expected = format!("at byte 24, general.alignment: is {bad:?}, expected a power of two up to 1048576");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn version_2_is_read_like_version_3() {
    let gguf = Gguf::from_bytes(patched(4, &2u32.to_le_bytes())).expect("reads");
    assert_eq!((gguf.version(), gguf.metadata().count(), gguf.tensors().count()), (2, 20, 2));
}

#[test]
fn tables_beyond_belief_are_refused() {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(65_537u64.to_le_bytes());
    bytes.resize(bytes.len() + 65_537 * 14, 0);
    assert!(error(bytes).contains("at byte 16, metadata count: is 65537, expected at most 65536"));
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(131_073u64.to_le_bytes());
    bytes.resize(bytes.len() + 131_074 * 25, 0);
    assert!(error(bytes).contains("at byte 8, tensor count: is 131073, expected at most 131072"));
}

#[test]
fn what_is_not_a_file_is_refused() {
    let here = env!("CARGO_MANIFEST_DIR");
    assert!(Gguf::open(here).expect_err("refused").to_string().ends_with("is a folder, expected a GGUF file"));
    assert!(matches!(Gguf::open(format!("{here}/no such file")), Err(GgufError::Io { .. })));
    let empty = std::env::temp_dir().join(format!("segno-gguf-empty-{}", std::process::id()));
    std::fs::write(&empty, b"").expect("written");
    assert!(Gguf::open(&empty).expect_err("refused").to_string().ends_with("it has 0 bytes"));
    std::fs::remove_file(&empty).expect("removed");
    #[cfg(target_os = "linux")]
    assert!(Gguf::open("/dev/zero").expect_err("refused").to_string().contains("is not a regular file"));
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
    assert!(writer.tensor("", &[1], TensorType::F32).is_err());
    assert!(writer.tensor("n".repeat(64), &[1], TensorType::F32).is_err());
    assert!(writer.tensor("d", &[32, 1 << 40, 1 << 40], TensorType::Q8_0).is_err());
    assert!(writer.tensor("e", &[1; 5], TensorType::F32).is_err());
    assert!(matches!(writer.tensor("a", &[33], TensorType::Q8_0), Err(GgufError::Rows { .. })));
    assert!(writer.tensor("b", &[32, 0], TensorType::Q8_0).is_err());
    assert!(writer.tensor("c", &[32], TensorType::Q8_0).is_ok());
    assert!(writer.tensor("c", &[32], TensorType::Q8_0).is_err());
    let mut sink = writer.begin(Vec::new()).expect("writes");
    sink.write(&[0; 33]).expect("writes");
    assert!(sink.finish().expect_err("refused").to_string().contains("tensor c: 1 bytes are missing"));
    let mut sink = GgufWriter::new().begin(Vec::new()).expect("writes");
    assert!(sink.write(&[0; 1]).is_err());
    for (key, value) in [("", 1u32), ("general.alignment", 33)] {
        let mut writer = GgufWriter::new();
        writer.set(key, value);
        assert!(matches!(writer.begin(Vec::new()), Err(GgufError::Write { .. })));
    }
    let mut writer = GgufWriter::new();
    writer.tensor("a", &[1 << 59], TensorType::F32).expect("fits");
    writer.tensor("b", &[1 << 59], TensorType::F32).expect("fits");
    assert!(writer.begin(Vec::new()).expect_err("refused").to_string().contains("together are too large"));
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
        let rows = (tensor.n_elements() / tensor.row_len()) as usize;
        let row_bytes = tensor.ty.row_bytes(tensor.row_len() as usize).expect("whole blocks");
        assert_eq!((gguf.tensor_bytes(tensor).len(), tensor.n_bytes()), (rows * row_bytes, rows * row_bytes));
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
    }
}

const REAL: [&str; 4] =
    ["qwen35/model-q4_k_m.gguf", "tokenizers/qwen35.gguf", "tokenizers/spm-llama.gguf", "tokenizers/rwkv.gguf"];

#[test]
fn real_files_are_read() {
    for name in REAL {
        let gguf = Gguf::from_bytes(fixture(name)).expect("reads");
        assert!(gguf.str("general.architecture").is_ok() && gguf.metadata().count() > 5, "{name}");
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

    #[test]
    fn mutated_and_cut_real_files_never_panic(
        name in prop::sample::select(REAL.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 8]>(), 1usize..9), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = fixture(name);
        // Metadata and tables are in the first 20 kB of each.
        let header = bytes.len().min(20_000);
        for (at, new, width) in changes {
            let at = at.index(header - 8);
            bytes[at..at + width].copy_from_slice(&new[..width]);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(header));
        }
        walk(bytes);
    }
}
