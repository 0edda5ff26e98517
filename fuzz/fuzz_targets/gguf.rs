//! Coverage-guided fuzzing of the GGUF reader, and of the writer with what was read:
//!
//! ```text
//! cargo +nightly fuzz run gguf fuzz/corpus/gguf tests/fixtures/tokenizers -- -runs=1000000
//! ```
//!
//! On a stable toolchain with `RUSTC_BOOTSTRAP=1` and without `+nightly`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segno_gguf::{Gguf, GgufWriter};

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(data) else { return };
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len());
        }
        assert_eq!(gguf.get(key).map(|found| format!("{found:?}")), Some(format!("{value:?}")));
        let _ = gguf.u32_per_layer(key, 3);
        writer.set(key, value.clone());
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        std::hint::black_box(gguf.tensor_bytes(tensor).iter().fold(0u8, |a, b| a ^ b));
        // A name may be longer than the writer allows.
        if writer.tensor(&tensor.name, &tensor.shape, tensor.ty).is_err() {
            return;
        }
    }
    let mut sink = writer.begin(Vec::new()).expect("what was read can be written");
    gguf.tensors().for_each(|tensor| sink.write(gguf.tensor_bytes(tensor)).expect("as declared"));
    let again = Gguf::from_bytes(sink.finish().expect("all bytes are there")).expect("what was written can be read");
    assert_eq!(again.metadata().count(), gguf.metadata().count());
    for tensor in gguf.tensors() {
        let found = again.tensor(&tensor.name).expect("it was written");
        assert_eq!(again.tensor_bytes(found), gguf.tensor_bytes(tensor));
    }
});
