//! Typed metadata.

use segno_gguf::{Array, Gguf, GgufError, GgufWriter, Optional, Value, ValueType};

fn gguf() -> Gguf {
    let mut writer = GgufWriter::new();
    writer.set("u8", 7u8).set("i64", 7i64).set("negative", -1i32).set("large", u64::MAX).set("half", 0.5f32);
    writer.set("nan", f32::NAN).set("flag", true).set("text", "t\u{e9}xt");
    let array = |ty, values: &[Value]| Array::new(ty, values).expect("one type");
    writer.set("i32s", array(ValueType::I32, &[Value::I32(1), Value::I32(2), Value::I32(3)]));
    writer.set("flags", array(ValueType::Bool, &[Value::Bool(true), Value::Bool(false), Value::Bool(true)]));
    writer.set("minus", array(ValueType::I32, &[Value::I32(1), Value::I32(-2), Value::I32(3)]));
    writer.set("strings", Array::of_strings(["a", "bc"]));
    Gguf::from_bytes(writer.begin(Vec::new()).expect("writes").finish().expect("ends")).expect("reads")
}

#[test]
fn integers_have_any_width() {
    let gguf = gguf();
    assert_eq!(gguf.u32("u8").expect("fits"), 7);
    assert_eq!(gguf.u32("i64").expect("fits"), 7);
    assert_eq!(gguf.i64("negative").expect("fits"), -1);
    assert_eq!(gguf.u64("large").expect("fits"), u64::MAX);
    assert_eq!(gguf.f32("u8").expect("fits"), 7.0);
    assert_eq!(gguf.f32("half").expect("fits"), 0.5);
    assert!(gguf.bool("flag").expect("fits"));
    assert_eq!(gguf.str("text").expect("fits"), "t\u{e9}xt");
}

#[test]
fn errors_name_key_value_and_expectation() {
    let gguf = gguf();
    let message = |error: GgufError| error.to_string();
    assert_eq!(
        message(gguf.u32("negative").expect_err("refused")),
        "file in memory: metadata key negative is -1, expected an unsigned 32-bit integer"
    );
    assert_eq!(
        message(gguf.u32("absent").expect_err("refused")),
        "file in memory: metadata key absent is missing, expected an unsigned 32-bit integer"
    );
    assert!(message(gguf.u32("large").expect_err("refused")).contains("is 18446744073709551615, expected"));
    assert!(message(gguf.f32("nan").expect_err("refused")).contains("is NaN, expected a finite number"));
    assert!(message(gguf.str("u8").expect_err("refused")).contains("is 7, expected a string"));
    assert!(message(gguf.bool("u8").expect_err("refused")).contains("expected true or false"));
    assert!(
        message(gguf.strings("i32s").expect_err("refused"))
            .contains("is an array of 3 I32, expected an array of strings")
    );
    assert!(message(gguf.array("text").expect_err("refused")).contains("is \"t\u{e9}xt\", expected an array"));
}

#[test]
fn optional_is_for_missing_keys_only() {
    let gguf = gguf();
    assert_eq!(gguf.u32("absent").optional().expect("no error"), None);
    assert_eq!(gguf.u32("u8").optional().expect("no error"), Some(7));
    assert!(matches!(gguf.u32("text").optional(), Err(GgufError::Unfit { .. })));
}

#[test]
fn a_number_a_layer_is_a_scalar_or_exactly_so_many() {
    let gguf = gguf();
    assert_eq!(gguf.u32_per_layer("u8", 3).expect("fits"), [7, 7, 7]);
    assert_eq!(gguf.u32_per_layer("i32s", 3).expect("fits"), [1, 2, 3]);
    assert_eq!(gguf.u32_per_layer("flags", 3).expect("fits"), [1, 0, 1]);
    assert_eq!(gguf.u32_per_layer("flag", 2).expect("fits"), [1, 1]);
    let error = gguf.u32_per_layer("i32s", 4).expect_err("refused").to_string();
    assert!(error.ends_with("is an array of 3 I32, expected an unsigned 32-bit integer, or 4 of them"), "{error}");
    for key in ["minus", "strings", "text", "half"] {
        assert!(matches!(gguf.u32_per_layer(key, 3), Err(GgufError::Unfit { .. })), "{key}");
    }
}

#[test]
fn elements_are_reached_by_position() {
    let gguf = gguf();
    let array = gguf.array("i32s").expect("an array");
    assert_eq!((array.get(2), array.get(3), array.get(usize::MAX)), (Some(Value::I32(3)), None, None));
    assert_eq!(gguf.strings("strings").expect("strings").get(0), None);
}
