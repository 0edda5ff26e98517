//! What the reader allocates, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use segno_gguf::{Array, Gguf, GgufWriter, Value};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: hands everything to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that were live at most, and calls, while `bytes` was read.
fn measured(bytes: Vec<u8>) -> (usize, usize, Result<Gguf, String>) {
    let (live, calls) = (LIVE.load(Relaxed), CALLS.load(Relaxed));
    PEAK.store(live, Relaxed);
    let gguf = Gguf::from_bytes(bytes).map_err(|e| e.to_string());
    (PEAK.load(Relaxed) - live, CALLS.load(Relaxed) - calls, gguf)
}

// One test: the counters belong to the process.
#[test]
fn memory_is_bounded_by_the_file() {
    // A vocabulary of 250 000 tokens takes no allocation a token.
    let mut writer = GgufWriter::new();
    writer.set("tokens", Array::of_strings((0..250_000).map(|i| format!("token {i}"))));
    let bytes = writer.begin(Vec::new()).expect("writes").finish().expect("ends");
    let (peak, calls, gguf) = measured(bytes);
    assert!(calls < 30 && peak < 4096, "{calls} allocations, {peak} bytes");
    let gguf = gguf.expect("reads");
    assert_eq!(gguf.get("tokens").and_then(Value::as_array).map(|a| a.strings().count()), Some(250_000));

    // As many of the smallest keys as are believed: three bytes of name, a byte of value. What a key takes
    // in memory, twice for a list that grows: a name, a value, two positions.
    let n = 46_656u64;
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &n.to_le_bytes()].concat();
    for i in 0..n {
        bytes.extend(3u64.to_le_bytes());
        bytes.extend(
            [i / 1296, i / 36 % 36, i % 36].map(|digit| b"abcdefghijklmnopqrstuvwxyz0123456789"[digit as usize]),
        );
        bytes.extend([0, 0, 0, 0, 1]);
    }
    let (peak, _, gguf) = measured(bytes);
    assert!(gguf.is_ok() && peak < 16 << 20, "{peak} bytes");

    // As many of the smallest tensors, then a lie, so that all were parsed before.
    let n = 131_071u64;
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &(n + 1).to_le_bytes(), &0u64.to_le_bytes()].concat();
    for i in 0..n {
        bytes.extend(4u64.to_le_bytes());
        bytes.extend([i >> 12, i >> 6, i, i >> 18].map(|digit| b'0' + (digit & 63) as u8));
        bytes.extend([0; 4 + 4 + 8]);
    }
    bytes.extend([0; 25]);
    let (peak, _, gguf) = measured(bytes);
    assert!(gguf.expect_err("refused").contains("name of tensor 131071: has 0 bytes"));
    assert!(peak < 64 << 20, "{peak} bytes");
}
