//! Every format against the C library's own decoding, bit by bit, and encoders against its quantisers.

use std::path::Path;

use safetensors::SafeTensors;
use segno_quant::{TensorType, decode_row, encode_row};

struct Fixture(Vec<u8>);

impl Fixture {
    fn of(ty: TensorType) -> Fixture {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/quants"));
        let path = folder.join(format!("{}.safetensors", ty.name().to_lowercase()));
        Fixture(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let all = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        all.tensor(name).ok().map(|t| t.data().to_vec())
    }

    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let bytes = self.bytes(name)?;
        Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

/// The types with fixtures: all that files hold in blocks.
fn block_types() -> Vec<TensorType> {
    let activations = [TensorType::Q8_1, TensorType::Q8_K];
    TensorType::KNOWN.iter().copied().filter(|ty| ty.is_quantised() && !activations.contains(ty)).collect()
}

fn decode(ty: TensorType, bytes: &[u8], n: usize) -> Vec<f32> {
    // What decoding does not write stays visible.
    let mut out = vec![f32::from_bits(0x7fc0_dead); n];
    decode_row(ty, bytes, &mut out).expect("whole blocks");
    out
}

/// Equal bits; which of the values that are not numbers it is does not count.
fn assert_same(ty: TensorType, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (j, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() && a.to_bits() != 0x7fc0_dead;
        assert!(same, "{} element {j}: {a:e}, expected {b:e}", ty.name());
    }
}

#[test]
fn decoding_gives_the_bits_of_the_c_library() {
    assert_eq!(block_types().len(), 25);
    for ty in block_types() {
        let fixture = Fixture::of(ty);
        let expected = fixture.floats("dequantised_ggml").expect("in every fixture");
        let bytes = fixture.bytes("bytes").expect("in every fixture");
        assert_same(ty, &decode(ty, &bytes, expected.len()), &expected);
    }
}

#[test]
fn decoding_arbitrary_bytes_gives_the_bits_of_the_python_package() {
    let mut without = Vec::new();
    let mut not_finite = 0;
    for ty in block_types() {
        let fixture = Fixture::of(ty);
        let Some(bytes) = fixture.bytes("random_bytes") else {
            without.push(ty);
            continue;
        };
        let expected = fixture.floats("random_dequantised_python").expect("beside the bytes");
        not_finite += expected.iter().filter(|x| !x.is_finite()).count();
        assert_same(ty, &decode(ty, &bytes, expected.len()), &expected);
    }
    assert_eq!(without, [TensorType::Q1_0, TensorType::Q2_0], "the package does not know these two");
    assert!(not_finite > 1000, "the bytes should hold infinite scales: {not_finite}");
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn encoders_come_nearer_than_the_c_library() {
    for ty in block_types().into_iter().filter(|ty| ty.can_encode()) {
        let fixture = Fixture::of(ty);
        let source = fixture.floats("source").expect("in every fixture");
        let theirs = fixture.floats("dequantised_ggml").expect("in every fixture");
        for (row, (source, theirs)) in source.chunks(512).zip(theirs.chunks(512)).enumerate() {
            let mut bytes = vec![0xaa; ty.row_bytes(512).expect("whole blocks")];
            encode_row(ty, source, &mut bytes).expect("finite");
            let ours = squared_error(source, &decode(ty, &bytes, 512)).sqrt();
            let theirs = squared_error(source, theirs).sqrt();
            println!("{:<6} row {row}: {ours:9.3e} theirs {theirs:9.3e} ratio {:.3}", ty.name(), ours / theirs);
            assert!(ours <= theirs * 1.001, "{} row {row}: {ours:e}, the C library {theirs:e}", ty.name());
        }
    }
}
