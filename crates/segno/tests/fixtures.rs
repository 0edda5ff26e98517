//! `segno logits` of every family's files on the CPU, against logits of transformers and llama.cpp.

mod common;

use std::process::Command;

use common::{FIXTURES, Fixture, max_abs, rms};
use safetensors::SafeTensors;

/// What the program writes, `[tokens, vocabulary]` flat.
fn logits(fixture: &Fixture, file: &str, extra: &[&str]) -> Vec<f32> {
    let name = format!("segno-{}-{}-{file}.safetensors", std::process::id(), fixture.name);
    let out = std::env::temp_dir().join(name);
    let tokens: Vec<String> = fixture.tokens().iter().map(u32::to_string).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_segno"));
    command.arg("logits").arg(fixture.path(file)).args(["--tokens", &tokens.join(",")]).arg("--out").arg(&out);
    let output = command.args(extra).output().expect("runs");
    assert!(output.status.success(), "{} {file}: {}", fixture.name, String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&out).expect("written");
    std::fs::remove_file(out).expect("removed");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let data = tensors.tensor("logits").expect("logits").data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
}

/// The smallest cosine of a position's logits.
fn min_cosine(a: &[f32], b: &[f32], n_vocab: usize) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    a.chunks(n_vocab).zip(b.chunks(n_vocab)).map(cosine).fold(1.0, f64::min)
}

#[test]
fn plain_files_give_the_logits_of_transformers() {
    for fixture in FIXTURES {
        let expected = fixture.expected(fixture.plain);
        let found = logits(fixture, fixture.plain, &["--device", "cpu"]);
        let max = max_abs(&found, &expected);
        let cosine = min_cosine(&found, &expected, expected.len() / fixture.tokens().len());
        println!("{}: max abs error {max:.2e}, cosine {cosine:.9}", fixture.name);
        assert!(max <= 1e-3 && cosine >= 0.99999, "{}: max abs error {max}, cosine {cosine}", fixture.name);
    }
}

/// How far 8-bit activations move the logits. Random models amplify that, so there is no bound but that of
/// different logits; the program's comparison with llama.cpp's own run is made by hand.
#[test]
fn quantised_files_stay_near_their_decoded_weights() {
    for fixture in FIXTURES {
        for kind in fixture.quantised {
            let file = format!("model-{kind}.gguf");
            let expected = fixture.expected(&file);
            let found = logits(fixture, &file, &["--device", "cpu"]);
            let (error, size) = (rms(&found, &expected), rms(&expected, &vec![0.0; expected.len()]));
            println!("{} {kind}: RMS error {error:.3e} of {size:.2}", fixture.name);
            assert!(error <= 0.25 * size, "{} {kind}: RMS error {error} of {size}", fixture.name);
            let max = max_abs(&logits(fixture, &file, &["--exact-activations"]), &expected);
            println!("{} {kind}: max abs error with exact activations {max:.2e}", fixture.name);
            assert!(max <= 1e-3, "{} {kind}: max abs error {max} with exact activations", fixture.name);
        }
    }
}
