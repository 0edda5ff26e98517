//! Mutates files of checkpoints, mostly with checksums that fit again, and reads them:
//!
//! ```text
//! cargo run --release -p segno-runtime --example fuzz_image 1000000 [SEED]
//! ```
//!
//! Any panic is a finding; so is memory beyond 32 times the file's size, all live allocations together, which the
//! counting allocator turns into an abort.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use segno_ir::sample::philox;
use segno_runtime::image::{
    Bytes, Fingerprint, Image, ImageError, ImageTable, Key, Made, Pages, Precision, decode_page, encode_page, reseal,
};

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

fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (n, slot, page_bytes) in [(1u32, 0, 1), (70, 130, 70), (130, 64, 64)] {
        let mut keys: Vec<Key> = (0..n).map(Key::from).collect();
        keys[0] = if n == 70 { Key::of_row(1) } else { keys[0] };
        let pages: Vec<_> = (0..n.div_ceil(64)).map(|i| Arc::<[u8]>::from(vec![i as u8; page_bytes]).into()).collect();
        let tables = vec![ImageTable { first: 0, pages }];
        let (slot, logits) = (vec![0.5; slot], (n > 1).then(|| vec![1.0; 9].into()));
        let fingerprint = Fingerprint::default();
        let image = Image { fingerprint, keys, made: Made::Prefill, precision: Precision::F32, slot, tables, logits };
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            for pages in [Pages::Inside, Pages::Elsewhere] {
                let mut bytes = Vec::new();
                image.encode(&mut bytes, precision, pages).expect("a vector takes it");
                all.push(bytes);
            }
        }
        let mut bytes = Vec::new();
        encode_page(&image.tables[0].pages[0], &mut bytes).expect("a vector takes it");
        all.push(bytes);
    }
    all
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let executions = arguments.next().unwrap_or(100_000);
    let seed = arguments.next().unwrap_or(1);
    let mut counter = 0u64;
    let mut below = |n: usize| {
        counter += 1;
        philox([counter as u32, (counter >> 32) as u32, seed as u32, 0], [1, 2])[0] as usize % n.max(1)
    };
    const EDGES: [u64; 10] = [0, 1, 9, 255, 1 << 16, u32::MAX as u64, 1 << 40, 1 << 60, 1 << 63, u64::MAX];
    let seeds = seeds();
    let mut accepted = 0u64;
    for _ in 0..executions {
        let mut bytes = seeds[below(seeds.len())].clone();
        for _ in 0..1 + below(4) {
            let n = bytes.len();
            // Most fields that matter are near the front.
            let near = [128, 448, n][below(3)].min(n);
            let at = below(near);
            match below(6) {
                _ if n == 0 => {}
                0 => bytes[at] = below(256) as u8,
                1 => bytes[at] ^= 1 << below(8),
                2 | 3 => {
                    let value = EDGES[below(EDGES.len())].wrapping_add(below(3) as u64).to_le_bytes();
                    let at = if below(2) == 0 { at / 8 * 8 } else { at };
                    let width = [1, 2, 4, 8][below(4)].min(n - at);
                    bytes[at..at + width].copy_from_slice(&value[..width]);
                }
                4 => bytes.truncate(at),
                _ => drop(bytes.drain(at..(at + 1 + below(64)).min(n))),
            }
        }
        if below(8) > 0 {
            reseal(&mut bytes);
        }
        let length = bytes.len();
        let file: Bytes = Arc::new(bytes);
        LIMIT.store(LIVE.load(Ordering::Relaxed) + 32 * length + 4096, Ordering::Relaxed);
        let read = Image::decode(&file, Fingerprint::default(), &mut |_, _| Err(ImageError::Version { found: 0 }));
        let page = decode_page(&file, 0, length.saturating_sub(64));
        if let Ok(image) = &read {
            let pages = image.tables.iter().flat_map(|t| &t.pages);
            std::hint::black_box(pages.flat_map(|p| p.iter()).fold(0u8, |a, b| a ^ b));
        }
        accepted += u64::from(read.is_ok());
        drop((read, page));
        LIMIT.store(usize::MAX, Ordering::Relaxed);
    }
    println!("{executions} executions from seed {seed}: {accepted} files read, the others refused, no finding");
}
