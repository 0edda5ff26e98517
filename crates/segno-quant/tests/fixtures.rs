//! Every format against what the C library and the Python package of the format make of the same bytes.

use std::path::Path;

use safetensors::SafeTensors;
use segno_quant::{QuantError, TensorType, decode_row};

fn check(ty: TensorType, bytes: &[u8], expected: &[u8], what: &str) {
    let expected: Vec<f32> =
        expected.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    let mut found = vec![0.0; expected.len()];
    decode_row(ty, bytes, &mut found).expect("decodes");
    for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!(
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
            "{} {what}, element {i}: {a}, expected {b}",
            ty.name()
        );
    }
}

#[test]
fn blocks_decode_to_the_last_bit() {
    let quantised = TensorType::ALL.iter().filter(|ty| ty.block_len() > 1);
    for &ty in quantised {
        let name = format!("../../tests/fixtures/quants/{}.safetensors", ty.name().to_lowercase());
        let file = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a fixture");
        let tensors = SafeTensors::deserialize(&file).expect("safetensors");
        let data = |name: &str| tensors.tensor(name).expect("a tensor").data();
        check(ty, data("bytes"), data("dequantised_ggml"), "quantised");
        check(ty, data("random_bytes"), data("random_dequantised_python"), "random bytes");
    }
}

#[test]
fn floats_decode_to_the_last_bit() {
    let mut out = [0.0; 3];
    decode_row(TensorType::F16, &[0x00, 0x3c, 0x01, 0x00, 0x00, 0xfc], &mut out).expect("decodes");
    assert_eq!(out, [1.0, 2f32.powi(-24), f32::NEG_INFINITY]);
    decode_row(TensorType::BF16, &[0x80, 0x3f, 0x01, 0x00, 0x80, 0xff], &mut out).expect("decodes");
    assert_eq!(out, [1.0, f32::from_bits(1 << 16), f32::NEG_INFINITY]);
}

#[test]
fn wrong_lengths_are_told() {
    let mut out = [0.0; 33];
    let blocks = decode_row(TensorType::Q8_0, &[0; 34], &mut out).expect_err("not whole blocks");
    assert_eq!(blocks.to_string(), "33 elements are not whole blocks of Q8_0, which have 32");
    let bytes = decode_row(TensorType::Q8_0, &[0; 33], &mut out[..32]).expect_err("a byte is missing");
    assert_eq!(bytes.to_string(), "32 elements of Q8_0 take 34 bytes, got 33");
    assert!(matches!(TensorType::F32.row_bytes(usize::MAX), Err(QuantError::Overflow { .. })));
    for &ty in TensorType::ALL {
        assert_eq!(TensorType::from_id(ty.id()), Some(ty));
    }
}
