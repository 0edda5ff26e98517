//! A fixed pool of threads with a static partition of work.
//!
//! Work items of a decode step take tens of microseconds, so workers spin for a moment before they
//! sleep. The caller takes part as thread 0.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// How often a waiting thread looks before it sleeps or yields.
const SPINS: u32 = 2_000;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Raised once per job.
    generation: AtomicU64,
    /// The job of this generation; null between jobs.
    job: Mutex<Option<SendJob>>,
    left: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
}

#[derive(Clone, Copy)]
struct SendJob(Job);
// SAFETY: the pointee is Sync, and `run` keeps it alive until every worker is done with it.
unsafe impl Send for SendJob {}

/// The pool. Dropping it ends its threads.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<(JoinHandle<()>, Thread)>,
}

impl Threads {
    /// A pool of `n` threads, the caller included.
    pub fn new(n: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            job: Mutex::new(None),
            left: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let spawn = |index| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("segno-cpu-{index}"));
            let handle = thread.spawn(move || work(&shared, index)).ok()?;
            let thread = handle.thread().clone();
            Some((handle, thread))
        };
        let workers = (1..n.max(1)).map_while(spawn).collect();
        Threads { shared, workers }
    }

    /// Number of threads.
    pub fn n(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` once for each thread index, and returns when all calls have.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return job(0);
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed; the pointer is used before this function returns.
        let erased: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        shared.left.store(self.workers.len(), Ordering::Relaxed);
        *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(SendJob(erased));
        shared.generation.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(|(_, thread)| thread.unpark());
        /// Waits even if the caller's own part panics: the workers borrow from its stack.
        struct Wait<'a>(&'a Shared);
        impl Drop for Wait<'_> {
            fn drop(&mut self) {
                let mut spins = 0u32;
                while self.0.left.load(Ordering::Acquire) > 0 {
                    spins = spins.wrapping_add(1);
                    if spins > SPINS { std::thread::yield_now() } else { std::hint::spin_loop() }
                }
            }
        }
        let wait = Wait(shared);
        job(0);
        drop(wait);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a kernel failed on a worker thread");
    }

    /// Splits `0..n` evenly: thread `i` gets the i-th range, in units of `unit`.
    pub fn split(&self, n: usize, unit: usize, f: &(dyn Fn(std::ops::Range<usize>) + Sync)) {
        let units = n.div_ceil(unit);
        let threads = self.n().min(units.max(1));
        if threads <= 1 {
            return f(0..n);
        }
        self.run(&|i| {
            if i < threads {
                let (from, to) = (units * i / threads * unit, (units * (i + 1) / threads * unit).min(n));
                if from < to {
                    f(from..to);
                }
            }
        });
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.generation.load(Ordering::Acquire) == seen {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins > SPINS { std::thread::park() } else { std::hint::spin_loop() }
        }
        seen += 1;
        let job = *shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(SendJob(job)) = job {
            // SAFETY: `run` waits until `left` is 0 before the job's borrow ends.
            let call = || unsafe { (*job)(index) };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.left.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for (handle, thread) in self.workers.drain(..) {
            thread.unpark();
            let _ = handle.join();
        }
    }
}
