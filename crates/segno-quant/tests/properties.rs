//! What holds for every row, made up or hostile.

use proptest::prelude::*;
use segno_quant::{QuantError, TensorType, decode_row, encode_row, store_row};

fn any_type() -> impl Strategy<Value = TensorType> {
    prop::sample::select(TensorType::KNOWN.to_vec())
}

fn encodable_blocks() -> Vec<TensorType> {
    TensorType::KNOWN.iter().copied().filter(|ty| ty.is_quantised() && ty.can_encode()).collect()
}

/// Finite floats of every magnitude, subnormal and largest included.
fn finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -4f32..4f32,
        1 => any::<f32>().prop_map(|x| if x.is_finite() { x } else { 0.0 }),
        1 => prop::sample::select(vec![0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, 65504.0, 65536.0, 1e-7]),
    ]
}

fn encode(ty: TensorType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xaa; ty.row_bytes(values.len()).expect("whole blocks")];
    encode_row(ty, values, &mut bytes).expect("finite");
    bytes
}

fn decode(ty: TensorType, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n];
    decode_row(ty, bytes, &mut out).expect("whole blocks");
    out
}

/// The largest root mean square error that the plain formula (largest value to the last code, round) leaves
/// in a block, which the search may only improve on. `low` and `high` are the block's extremes; a stored
/// half is off by at most 2^-11 of itself.
fn bound(ty: TensorType, low: f32, high: f32) -> f32 {
    let half = 1.0 / 2048.0;
    let (largest, range) = (low.abs().max(high.abs()), high - low);
    // Of the formats without a minimum the side opposite to the largest value has one code less, so that
    // a value there may be off by a whole step.
    let symmetric = |codes: f32| largest / codes + largest * half;
    let affine = |codes: f32| range / codes / 2.0 + (range + low.abs()) * half;
    // Their minima are at most 0; scale and minimum are rounded to 63rds of the block's largest ones.
    let k = |codes: f32| {
        let range = high.max(0.0) - low.min(0.0);
        range / codes / 2.0 + (range + low.abs()) * (1.0 / 126.0 + half)
    };
    match ty {
        TensorType::Q4_0 => symmetric(8.0),
        TensorType::Q5_0 => symmetric(16.0),
        TensorType::Q8_0 => largest / 127.0 / 2.0 + largest * half,
        TensorType::Q4_1 => affine(15.0),
        TensorType::Q5_1 => affine(31.0),
        TensorType::Q4_K => k(15.0),
        TensorType::Q5_K => k(31.0),
        // As for 32 codes, and the scale is rounded to 127ths of the largest.
        TensorType::Q6_K => symmetric(32.0) + largest / 254.0,
        // Codes 4 and 6 are neighbours: a value between them is off by up to a quarter of the smaller,
        // one above 6 by up to a quarter of itself.
        TensorType::MXFP4 => largest / 4.0,
        _ => panic!("{} has no bound", ty.name()),
    }
}

#[test]
fn stored_blocks_keep_nan_and_take_any_value() {
    for ty in [TensorType::Q8_0, TensorType::Q4_0] {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 64];
            values[40] = special;
            let mut bytes = vec![0; ty.row_bytes(64).expect("whole blocks")];
            store_row(ty, &values, &mut bytes).expect("stores");
            let back = decode(ty, &bytes, 64);
            assert!(back[..32].iter().all(|x| (x - 1.0).abs() < 1e-3), "{back:?}");
            assert_eq!(back[32..].iter().all(|x| x.is_nan()), special.is_nan(), "{back:?}");
        }
    }
    assert!(store_row(TensorType::Q4_K, &[0.0; 256], &mut [0; 144]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn rows_are_stored_by_the_plain_formula(values in prop::collection::vec(finite(), 64)) {
        for ty in [TensorType::Q8_0, TensorType::Q4_0] {
            let mut bytes = vec![0xaa; ty.row_bytes(64).expect("whole blocks")];
            store_row(ty, &values, &mut bytes).expect("stores");
            let back = decode(ty, &bytes, 64);
            prop_assert!(ty != TensorType::Q8_0 || bytes == encode(ty, &values));
            for (row, back) in values.chunks(32).zip(back.chunks(32)) {
                let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
                if largest < 1e5 {
                    let codes = if ty == TensorType::Q8_0 { 127.0 } else { 8.0 };
                    // A step on the side that has a code less, and a half's rounding of each step.
                    let step = largest / codes;
                    let bound = step + codes * (step / 2048.0 + 6e-8);
                    prop_assert!(row.iter().zip(back).all(|(x, y)| (x - y).abs() <= bound), "{row:?} {back:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_its_blocks_at_any_address(
        ty in any_type(),
        blocks in 1usize..4,
        shift in 0usize..8,
        bytes in prop::collection::vec(any::<u8>(), 8 + 3 * 292),
    ) {
        let (len, size) = (ty.block_len(), ty.block_bytes());
        let bytes = &bytes[shift..shift + blocks * size];
        let row = decode(ty, bytes, blocks * len);
        for (block, values) in bytes.chunks(size).zip(row.chunks(len)) {
            // One byte on, so that neither address nor neighbours are the same.
            let alone = decode(ty, &[&[0], block].concat()[1..], len);
            prop_assert!(alone.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
        }
    }

    #[test]
    fn wrong_lengths_are_errors(ty in any_type(), n in 0usize..700, bytes in 0usize..700) {
        let (given, mut out) = (vec![0; bytes], vec![0.0; n]);
        let found = decode_row(ty, &given, &mut out);
        prop_assert_eq!(found.is_ok(), ty.row_bytes(n) == Ok(bytes));
    }

    #[test]
    fn any_finite_row_is_encoded_as_finite(values in prop::collection::vec(finite(), 512)) {
        for ty in encodable_blocks() {
            let bytes = encode(ty, &values);
            prop_assert!(decode(ty, &bytes, 512).iter().all(|x| x.is_finite()), "{}", ty.name());
            prop_assert_eq!(encode(ty, &values), bytes);
        }
    }

    #[test]
    fn what_is_not_finite_is_named(at in 0usize..512, bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY])) {
        let mut values = vec![1.0; 512];
        values[at] = bad;
        for ty in encodable_blocks() {
            let mut bytes = vec![0; ty.row_bytes(512).expect("whole blocks")];
            prop_assert_eq!(encode_row(ty, &values, &mut bytes), Err(QuantError::NotFinite { ty, index: at }));
        }
    }

    #[test]
    fn errors_stay_below_the_plain_formulas(
        values in prop::collection::vec(-1f32..1f32, 256),
        scale in 0.01f32..100.0,
        offset in -1f32..1f32,
    ) {
        let values: Vec<f32> = values.iter().map(|x| (x + offset) * scale).collect();
        for ty in encodable_blocks() {
            let back = decode(ty, &encode(ty, &values), 256);
            for (values, back) in values.chunks(ty.block_len()).zip(back.chunks(ty.block_len())) {
                let low = values.iter().copied().fold(f32::INFINITY, f32::min);
                let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let squares: f32 = values.iter().zip(back).map(|(a, b)| (a - b).powi(2)).sum();
                let error = (squares / values.len() as f32).sqrt();
                prop_assert!(error <= bound(ty, low, high), "{} {error} {}", ty.name(), bound(ty, low, high));
            }
        }
    }

    #[test]
    fn floats_come_back(bits in prop::collection::vec(any::<u32>(), 16)) {
        let values: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        let back = decode(TensorType::F32, &encode(TensorType::F32, &values), 16);
        prop_assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
        // What a 16-bit type decodes to, it can hold.
        for ty in [TensorType::F16, TensorType::BF16] {
            let once = decode(ty, &encode(ty, &values), 16);
            let twice = decode(ty, &encode(ty, &once), 16);
            prop_assert!(once.iter().zip(&twice).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
        }
    }
}

#[test]
fn integers_and_f64_are_numbers() {
    assert_eq!(decode(TensorType::I8, &[0xff, 0x7f], 2), [-1.0, 127.0]);
    assert_eq!(decode(TensorType::I16, &(-300i16).to_le_bytes(), 1), [-300.0]);
    assert_eq!(decode(TensorType::I32, &70_000i32.to_le_bytes(), 1), [70_000.0]);
    assert_eq!(decode(TensorType::I64, &(-5i64).to_le_bytes(), 1), [-5.0]);
    assert_eq!(decode(TensorType::F64, &0.1f64.to_le_bytes(), 1), [0.1]);
}

#[test]
fn activation_blocks_are_scaled_bytes() {
    // d = 0.5, a sum that decoding ignores, then -16 to 15.
    let mut bytes = vec![0x00, 0x38, 0xff, 0xff];
    bytes.extend((-16i8..16).map(|q| q as u8));
    let expected: Vec<f32> = (-16i8..16).map(|q| f32::from(q) * 0.5).collect();
    assert_eq!(decode(TensorType::Q8_1, &bytes, 32), expected);
    let mut bytes = 0.25f32.to_le_bytes().to_vec();
    bytes.extend((-128i16..128).map(|q| q as u8));
    bytes.extend([0xff; 32]);
    let expected: Vec<f32> = (-128i16..128).map(|q| f32::from(q) * 0.25).collect();
    assert_eq!(decode(TensorType::Q8_K, &bytes, 256), expected);
}

#[test]
fn a_type_without_an_encoder_says_which_have_one() {
    let error = encode_row(TensorType::IQ2_XS, &[0.0; 256], &mut [0; 74]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "IQ2_XS can be decoded, but not encoded; types that can be encoded: \
         F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16, MXFP4"
    );
}

#[test]
fn zeros_stay_zeros() {
    for ty in encodable_blocks() {
        assert!(decode(ty, &encode(ty, &[0.0; 256]), 256).iter().all(|&x| x == 0.0), "{}", ty.name());
    }
}
