//! Models in several files.

use segno_gguf::{Gguf, GgufError, GgufWriter};
use segno_quant::TensorType;

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
    assert_eq!(gguf.n_parts(), 2);
    // A part that belongs to another model.
    let others = |key: &str, value: u32, name: &str| {
        let mut writer = GgufWriter::new();
        writer.set("split.no", 1u32).set("split.count", 2u32).set(key, value);
        writer.tensor(name, &[4], TensorType::F32).expect("fits");
        let mut sink = writer.begin(Vec::new()).expect("writes");
        sink.write(&[0; 16]).expect("writes");
        std::fs::write(&second, sink.finish().expect("ends")).expect("written");
        Gguf::open(&first).expect_err("refused").to_string()
    };
    assert!(others("split.no", 2, "b").contains("has split.no 2, expected 1"));
    assert!(others("split.count", 3, "b").contains("has split.count 3, expected 2"));
    // The first part under a name that says nothing about the others.
    let lone = folder.join("m.gguf");
    std::fs::copy(&first, &lone).expect("copied");
    assert!(Gguf::open(&lone).expect_err("refused").to_string().contains("does not end in -00001-of-00002.gguf"));
    write(1, 2, "a");
    assert!(Gguf::open(&first).expect_err("refused").to_string().contains("part 2 has tensor a, which part 1 has too"));
    write(1, 2, "b");
    write(0, 3, "a");
    assert!(Gguf::open(&first).expect_err("refused").to_string().contains("2 tensors, expected 3"));
    std::fs::remove_file(&second).expect("removed");
    assert!(matches!(Gguf::open(&first), Err(GgufError::Io { .. })));
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn a_first_part_may_be_without_tensors_and_alone() {
    let mut writer = GgufWriter::new();
    writer.set("split.no", 0u32).set("split.count", 1u32).set("split.tensors.count", 0i32);
    let bytes = writer.begin(Vec::new()).expect("writes").finish().expect("ends");
    assert_eq!(Gguf::from_bytes(bytes).expect("reads").n_parts(), 1);
}

#[test]
fn a_count_of_parts_beyond_belief_opens_no_file() {
    let path = std::env::temp_dir().join(format!("segno-gguf-{}-00001-of-99999.gguf", std::process::id()));
    let mut writer = GgufWriter::new();
    writer.set("split.no", 0u32).set("split.count", u64::MAX);
    let bytes = writer.begin(Vec::new()).expect("writes").finish().expect("ends");
    std::fs::write(&path, bytes).expect("written");
    assert!(Gguf::open(&path).expect_err("refused").to_string().contains("parts, expected at most 1024"));
    std::fs::remove_file(&path).expect("removed");
}
