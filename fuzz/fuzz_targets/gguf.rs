//! Coverage-guided fuzzing of the GGUF reader: `cargo +nightly fuzz run gguf tests/fixtures/tokenizers`
#![no_main]

use libfuzzer_sys::fuzz_target;
use segno_gguf::Gguf;

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(data.to_vec()) else { return };
    for (_, value) in gguf.metadata() {
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    for tensor in gguf.tensors() {
        std::hint::black_box(gguf.tensor_bytes(tensor).iter().fold(0u8, |a, b| a ^ b));
    }
});
