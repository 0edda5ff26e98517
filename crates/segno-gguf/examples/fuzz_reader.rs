//! Mutates real and made-up files and reads them:
//!
//! ```text
//! cargo run --release -p segno-gguf --example fuzz_reader 1000000 [SEED] tests/fixtures/tokenizers/*.gguf
//! ```
//!
//! The same inputs go through the coverage-guided target in `fuzz/`; this one needs nothing but the
//! stable toolchain. Any panic is a finding; so is memory beyond 32 times the file's size, all live
//! allocations together, which the counting allocator turns into an abort. (A key of 14 bytes becomes a
//! name, a value and two positions, in lists that grow by doubling.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use segno_gguf::Gguf;

/// Bytes that may be live, and that are.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: hands everything to the system's allocator, or says that there is no memory left.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if live > LIMIT.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    const EDGES: [u64; 10] = [0, 1, 9, 255, 1 << 16, u32::MAX as u64, 1 << 40, 1 << 60, 1 << 63, u64::MAX];
    let n = bytes.len();
    // Most fields that matter are near the front.
    let near = [64, 1024, n][random.below(3)].min(n);
    let at = random.below(near);
    match random.below(7) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 | 3 => {
            let value = EDGES[random.below(EDGES.len())].wrapping_add(random.below(3) as u64).to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)].min(n - at);
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        4 => bytes.truncate(at),
        5 => {
            let (from, len) = (random.below(other.len()), random.below(64));
            let piece = &other[from..other.len().min(from + len)];
            bytes.splice(at..at, piece.iter().copied());
        }
        _ => drop(bytes.drain(at..(at + random.below(16)).min(n))),
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let executions: u64 = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let mut rest: Vec<String> = arguments.collect();
    let seed = rest.first().and_then(|s| s.parse().ok());
    if seed.is_some() {
        rest.remove(0);
    }
    let seed: u64 = seed.unwrap_or(1);
    // Headers are what is parsed: long files are cut after their tables, short ones taken whole.
    let read = |path: &String| {
        std::fs::read(path).map(|mut b| {
            b.truncate(24 * 1024);
            b
        })
    };
    let mut seeds: Vec<Vec<u8>> = rest.iter().map(|path| read(path).expect("a seed file")).collect();
    seeds.push(b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0k\x04\0\0\0\x07\0\0\0\x01\0\0\0\0\0\0\0t\x01\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec());
    let mut random = Random(seed | 1);
    let (mut accepted, mut corpus) = (0u64, seeds.clone());
    for _ in 0..executions {
        // Half of the time one of the seeds: what is kept tends to be small.
        let pick = if random.below(2) == 0 { random.below(seeds.len()) } else { random.below(corpus.len()) };
        let mut bytes = corpus[pick].clone();
        let other = random.below(seeds.len());
        for _ in 0..1 + random.below(4) {
            if bytes.is_empty() {
                break;
            }
            mutate(&mut random, &mut bytes, &seeds[other]);
        }
        let kept = (random.below(64) == 0).then(|| bytes.clone());
        let limit = LIVE.load(Ordering::Relaxed) + 32 * bytes.len() + 4096;
        LIMIT.store(limit, Ordering::Relaxed);
        let gguf = Gguf::from_bytes(bytes);
        if let Ok(gguf) = &gguf {
            for (_, value) in gguf.metadata() {
                if let Some(array) = value.as_array() {
                    assert_eq!(array.iter().count(), array.len());
                }
            }
            for tensor in gguf.tensors() {
                std::hint::black_box(gguf.tensor_bytes(tensor).iter().fold(0u8, |a, b| a ^ b));
            }
        }
        LIMIT.store(usize::MAX, Ordering::Relaxed);
        accepted += u64::from(gguf.is_ok());
        // Files that are still read are worth mutating further.
        if let (Ok(_), Some(kept)) = (gguf, kept) {
            if corpus.len() < 256 {
                corpus.push(kept)
            } else {
                corpus[seeds.len() + random.below(256 - seeds.len())] = kept
            }
        }
    }
    println!("{executions} executions from seed {seed}: {accepted} files read, the others refused, no finding");
}
