//! `segno logits` of every family's files on the CPU, against logits of transformers and llama.cpp.

mod common;

use std::process::Command;

use common::{FIXTURES, Fixture, long_fixtures, max_abs, min_cosine, rms};
use safetensors::SafeTensors;

/// What the program writes, `[tokens, vocabulary]` flat.
fn logits(fixture: &Fixture, file: &str, tokens: &[u32], extra: &[&str]) -> Vec<f32> {
    let name = format!("segno-{}-{}-{}-{file}.safetensors", std::process::id(), fixture.name, tokens.len());
    let out = std::env::temp_dir().join(name);
    let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
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

#[test]
fn plain_files_give_the_logits_of_transformers() {
    for fixture in FIXTURES {
        let expected = fixture.expected(fixture.plain);
        let found = logits(fixture, fixture.plain, &fixture.tokens(), &["--device", "cpu"]);
        let max = max_abs(&found, &expected);
        let cosine = min_cosine(&found, &expected, expected.len() / fixture.tokens().len());
        println!("{}: max abs error {max:.2e}, cosine {cosine:.9}", fixture.name);
        assert!(max <= 1e-3 && cosine >= 0.99999, "{}: max abs error {max}, cosine {cosine}", fixture.name);
    }
}

/// Far beyond a page of keys and values, a step of rows, and a window of attention.
#[test]
fn long_sequences_give_the_logits_of_transformers() {
    assert!(long_fixtures().count() >= 5);
    for fixture in long_fixtures() {
        let long = fixture.long();
        for way in [&["--device", "cpu"][..], &["--reference"]] {
            let (max, cosine) = long.compare(&logits(fixture, fixture.plain, &long.tokens, way));
            println!("{} {}: max abs error {max:.2e}, cosine {cosine:.9}", fixture.name, way.join(" "));
            assert!(max <= 1e-3 && cosine >= 0.99999, "{} {way:?}: max abs error {max}, cosine {cosine}", fixture.name);
        }
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
            let found = logits(fixture, &file, &fixture.tokens(), &["--device", "cpu"]);
            let (error, size) = (rms(&found, &expected), rms(&expected, &vec![0.0; expected.len()]));
            println!("{} {kind}: RMS error {error:.3e} of {size:.2}", fixture.name);
            assert!(error <= 0.25 * size, "{} {kind}: RMS error {error} of {size}", fixture.name);
            let max = max_abs(&logits(fixture, &file, &fixture.tokens(), &["--exact-activations"]), &expected);
            println!("{} {kind}: max abs error with exact activations {max:.2e}", fixture.name);
            assert!(max <= 1e-3, "{} {kind}: max abs error {max} with exact activations", fixture.name);
        }
    }
}
