//! What is written is what is read, whatever it is.

use proptest::prelude::*;
use segno_gguf::{Array, Gguf, GgufWriter, Value, ValueType};
use segno_quant::TensorType;

fn scalar(ty: ValueType) -> BoxedStrategy<Value> {
    match ty {
        ValueType::U8 => any::<u8>().prop_map(Value::U8).boxed(),
        ValueType::I8 => any::<i8>().prop_map(Value::I8).boxed(),
        ValueType::U16 => any::<u16>().prop_map(Value::U16).boxed(),
        ValueType::I16 => any::<i16>().prop_map(Value::I16).boxed(),
        ValueType::U32 => any::<u32>().prop_map(Value::U32).boxed(),
        ValueType::I32 => any::<i32>().prop_map(Value::I32).boxed(),
        ValueType::F32 => any::<f32>().prop_map(Value::F32).boxed(),
        ValueType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ValueType::U64 => any::<u64>().prop_map(Value::U64).boxed(),
        ValueType::I64 => any::<i64>().prop_map(Value::I64).boxed(),
        ValueType::F64 => any::<f64>().prop_map(Value::F64).boxed(),
        ValueType::String | ValueType::Array => any::<String>().prop_map(Value::String).boxed(),
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop::sample::select(ValueType::ALL.to_vec()).prop_flat_map(|ty| {
        let element = if ty == ValueType::Array { ValueType::String } else { ty };
        let array = prop::collection::vec(scalar(element), 0..5)
            .prop_map(move |values| Value::Array(Array::new(element, &values).expect("one type")));
        prop_oneof![scalar(element), array]
    })
}

/// Type and shape of a tensor of at most a few kB.
fn tensor() -> impl Strategy<Value = (TensorType, Vec<u64>)> {
    let types = prop::sample::select(TensorType::KNOWN.to_vec());
    (types, prop::collection::vec(1u64..4, 0..5)).prop_map(|(ty, mut shape)| {
        match shape.first_mut() {
            Some(row) => *row *= ty.block_len() as u64,
            None if ty.block_len() > 1 => shape.push(ty.block_len() as u64),
            None => {}
        }
        (ty, shape)
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        metadata in prop::collection::btree_map("[a-z.]{1,20}", value(), 0..8),
        tensors in prop::collection::btree_map("[a-z.]{1,20}", tensor(), 0..6),
        alignment in prop::option::of(0u32..10),
        piece in 1usize..300,
    ) {
        let mut writer = GgufWriter::new();
        let mut expected: Vec<(String, Value)> = metadata.into_iter().collect();
        if let Some(bits) = alignment {
            expected.push(("general.alignment".into(), Value::U32(1 << bits)));
        }
        for (key, value) in &expected {
            writer.set(key, value.clone());
        }
        let mut data = Vec::new();
        for (i, (name, (ty, shape))) in tensors.iter().enumerate() {
            writer.tensor(name, shape, *ty).expect("fits");
            let elements = shape.iter().product::<u64>() as usize;
            data.push(vec![i as u8 + 1; ty.row_bytes(elements).expect("whole blocks")]);
        }
        let mut sink = writer.begin(Vec::new()).expect("writes");
        for bytes in data.concat().chunks(piece) {
            sink.write(bytes).expect("writes");
        }
        prop_assert_eq!(sink.next(), None);
        let bytes = sink.finish().expect("ends");
        let gguf = Gguf::from_bytes(&bytes[..]).expect("reads");

        prop_assert_eq!(gguf.metadata().count(), expected.len());
        for ((key, value), (found_key, found)) in expected.iter().zip(gguf.metadata()) {
            prop_assert_eq!(key, found_key);
            // Not-a-number is not equal to itself; as text it is.
            let same = found == value || format!("{found:?}") == format!("{value:?}");
            prop_assert!(same, "{:?} became {:?}", value, found);
            if let (Some(found), Some(value)) = (found.as_array(), value.as_array()) {
                prop_assert_eq!(found, value);
            }
        }
        let start = bytes.as_ptr() as usize;
        let first = gguf.tensors().next().map_or(start, |t| gguf.tensor_bytes(t).as_ptr() as usize);
        for (((name, (ty, shape)), data), found) in tensors.iter().zip(&data).zip(gguf.tensors()) {
            prop_assert_eq!((name, ty, shape), (&found.name, &found.ty, &found.shape));
            prop_assert_eq!(gguf.tensor_bytes(found), &data[..]);
            let distance = gguf.tensor_bytes(found).as_ptr() as usize - first;
            prop_assert_eq!(distance % (1 << alignment.unwrap_or(5)), 0);
        }
    }
}

/// Counts bytes and forgets them.
struct Counter(u64);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_larger_than_memory_is_written_in_pieces() {
    let mut writer = GgufWriter::new();
    for i in 0..4 {
        writer.tensor(format!("t{i}"), &[1 << 20, 1 << 10], TensorType::F16).expect("fits");
    }
    let mut sink = writer.begin(Counter(0)).expect("writes");
    let piece = vec![0; 64 << 20];
    let mut pieces = 0;
    while sink.next().is_some() {
        sink.write(&piece).expect("writes");
        pieces += 1;
    }
    assert_eq!(pieces, 4 * 32);
    let total = sink.finish().expect("ends").0;
    assert!(total > 8 << 30 && total < (8 << 30) + 1024, "{total}");
}
