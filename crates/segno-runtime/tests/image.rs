//! Files of checkpoints: what is written is read; whatever was changed is refused, with its reason.

use std::sync::Arc;

use proptest::prelude::*;
use segno_runtime::image::{
    Bytes, Fingerprint, Image, ImageError, ImageTable, Key, Made, Page, Pages, Precision, VERSION, decode_page,
    encode_page, reseal,
};

const FINGERPRINT: Fingerprint = Fingerprint { content: 0x1234_5678_9abc_def0 << 64, numerics: 77 };

fn page(size: usize, seed: usize) -> Page {
    let bytes: Arc<[u8]> = (0..size).map(|i| (i * 31 + seed * 7) as u8).collect();
    bytes.into()
}

/// A state with a full and a windowed group.
fn image(n: usize, slot: usize, page_bytes: usize) -> Image {
    let mut keys: Vec<Key> = (0..n as u32).map(|i| Key::from(i * 3)).collect();
    if n > 100 {
        keys[50] = Key::of_row(5);
    }
    let end = n.div_ceil(64);
    let table = |first: usize| ImageTable {
        first: first as u32,
        pages: (first..end).map(|i| page(page_bytes, i + first)).collect(),
    };
    Image {
        fingerprint: FINGERPRINT,
        keys,
        made: Made::Mixed,
        precision: Precision::F32,
        slot: (0..slot).map(|i| (i as f32 - 20.0) * 0.37).collect(),
        tables: vec![table(0), table(end - 1)],
        logits: n.is_multiple_of(2).then(|| (0..10).map(|i| i as f32).collect()),
    }
}

fn encode(image: &Image, precision: Precision, pages: Pages) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.encode(&mut bytes, precision, pages).expect("a vector takes it");
    bytes
}

fn decode(bytes: &[u8]) -> Result<Image, ImageError> {
    let bytes: Bytes = Arc::new(bytes.to_vec());
    Image::decode(&bytes, FINGERPRINT, &mut |hash, _| {
        Err(ImageError::Malformed { place: format!("page {hash:x}"), reason: "is elsewhere".into() })
    })
}

#[test]
fn what_is_written_is_read() {
    for (n, slot, page_bytes) in [(1, 0, 1), (64, 64, 63), (65, 100, 64), (200, 1, 200)] {
        let image = image(n, slot, page_bytes);
        let bytes = encode(&image, Precision::F32, Pages::Inside);
        assert_eq!(bytes.len() % 64, 0);
        assert_eq!(decode(&bytes).expect("reads"), image);

        let names = encode(&image, Precision::F32, Pages::Elsewhere);
        assert!(decode(&names).expect_err("pages are elsewhere").to_string().contains("elsewhere"));
        let all: Vec<&Page> = image.tables.iter().flat_map(|t| &t.pages).collect();
        let file: Bytes = Arc::new(names);
        let read = Image::decode(&file, FINGERPRINT, &mut |hash, size| {
            let page = all.iter().find(|p| p.hash() == hash).expect("one of them");
            assert_eq!(page.len(), size);
            let mut bytes = Vec::new();
            encode_page(page, &mut bytes).expect("a vector takes it");
            decode_page(&(Arc::new(bytes) as Bytes), hash, size)
        });
        assert_eq!(read.expect("reads"), image);
    }
}

#[test]
fn rounded_states_are_within_their_bound_and_say_so() {
    let mut image = image(70, 1000, 64);
    for (i, v) in image.slot.iter_mut().enumerate() {
        *v = (i as f32 * 0.7).sin() * 10f32.powi(i as i32 / 64 % 9 - 4);
    }
    image.slot[700..764].fill(0.0);
    for (precision, bytes_per_value) in [(Precision::Bf16, 2.0), (Precision::Int8, 1.0625)] {
        let bytes = encode(&image, precision, Pages::Inside);
        let more = encode(&image, Precision::F32, Pages::Inside).len() - bytes.len();
        assert!((more as f64 - 1000.0 * (4.0 - bytes_per_value)).abs() < 64.0);
        let read = decode(&bytes).expect("reads");
        assert_eq!((read.precision, &read.tables, &read.logits), (precision, &image.tables, &image.logits));
        for (i, (got, want)) in read.slot.iter().zip(&image.slot).enumerate() {
            let block = &image.slot[i / 64 * 64..(i / 64 * 64 + 64).min(1000)];
            let most = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let bound = if precision == Precision::Bf16 { want.abs() / 256.0 } else { most / 254.0 * 1.00001 };
            assert!((got - want).abs() <= bound, "{precision:?} {i}: {got} for {want}");
        }
    }
    // What is not a number stays none.
    image.slot[3] = f32::INFINITY;
    image.slot[70] = f32::NAN;
    let read = decode(&encode(&image, Precision::Int8, Pages::Inside)).expect("reads");
    assert!(read.slot[..128].iter().all(|v| v.is_nan()) && read.slot[128..].iter().all(|v| v.is_finite()));
}

#[test]
fn every_flipped_bit_is_refused() {
    let page = page(100, 1);
    let mut file = Vec::new();
    encode_page(&page, &mut file).expect("a vector takes it");
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_page(&(Arc::new(file.clone()) as Bytes), page.hash(), 100).is_err(), "bit {bit} of a page");
        file[bit / 8] ^= 1 << (bit % 8);
    }
    for precision in [Precision::F32, Precision::Int8] {
        let mut bytes = encode(&image(70, 70, 70), precision, Pages::Inside);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {} of byte {}", bit % 8, bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        decode(&bytes).expect("as it was");
    }
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    let mut bytes = encode(&image(70, 70, 70), Precision::F32, Pages::Inside);
    for n in 0..bytes.len() {
        let error = decode(&bytes[..n]).expect_err("too short");
        let known = n < 192 || matches!(error, ImageError::Truncated { .. } | ImageError::Checksum { .. });
        assert!(known, "{n} bytes: {error}");
    }
    for _ in 0..130 {
        bytes.push(0);
        assert!(matches!(decode(&bytes), Err(ImageError::Malformed { .. })), "{} bytes", bytes.len());
    }
}

#[test]
fn refusals_say_why() {
    let bytes = encode(&image(70, 70, 70), Precision::F32, Pages::Inside);
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        decode(&bytes).expect_err("refused")
    };
    assert!(matches!(with(0, b"GGUF"), ImageError::Magic { .. }));
    assert!(matches!(with(8, &[1, 2, 3, 4]), ImageError::ByteOrder { .. }));
    assert!(matches!(with(12, &[9]), ImageError::Version { found: 9 }));
    assert!(with(12, &[9]).to_string().contains(&format!("reads version {VERSION}")));
    let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        reseal(&mut bytes);
        decode(&bytes).expect_err("refused")
    };
    assert!(matches!(sealed(&|b| b[32] ^= 1), ImageError::Content { .. }));
    assert!(matches!(sealed(&|b| b[48] ^= 1), ImageError::Numerics { .. }));
    assert!(with(32, &[1]).to_string().contains("checksum of the header"));
    // Sections begin after the header and five entries.
    let keys = 128 + 5 * 64;
    assert!(with(keys, &[1]).to_string().contains("checksum of section keys"));
    assert!(with(bytes.len() - 128, &[1]).to_string().contains("page 0 of group 1"));
    assert!(sealed(&|b| b[keys + 70 * 4] = 1).to_string().contains("padding"));
    // A length that is beyond the file, and one that wraps.
    for length in [1 << 40, u64::MAX] {
        let error = sealed(&|b| b[128 + 16..128 + 24].copy_from_slice(&length.to_le_bytes()));
        assert!(matches!(error, ImageError::Truncated { .. }), "{error}");
    }
    let error = sealed(&|b| b[128 + 24..128 + 32].copy_from_slice(&(1u64 << 62).to_le_bytes()));
    assert!(error.to_string().contains("section keys"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Past the checksums, too: whatever is read can be written and read again.
    #[test]
    fn random_damage_does_no_harm(
        n in 1usize..150,
        slot in 0usize..130,
        page_bytes in 1usize..130,
        precision in prop_oneof![Just(Precision::F32), Just(Precision::Bf16), Just(Precision::Int8)],
        pages in prop_oneof![Just(Pages::Inside), Just(Pages::Elsewhere)],
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(&image(n, slot, page_bytes), precision, pages);
        for (at, near, value) in damage {
            let range = if near { bytes.len().min(512) } else { bytes.len() };
            bytes[at.index(range)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = decode(&bytes);
        reseal(&mut bytes);
        if let Ok(image) = decode(&bytes) {
            let again = encode(&image, Precision::F32, Pages::Inside);
            let read = decode(&again).expect("what was written");
            prop_assert_eq!(read.precision, image.precision);
            // Rounding again may move a scale by its last bit.
            prop_assert!(read.precision == Precision::Int8 || encode(&read, Precision::F32, Pages::Inside) == again);
        }
    }
}
