//! A fixed pool of threads with a static partition of the work.
//!
//! The ops of a decode step take microseconds, so a thread without work spins for a moment before
//! it sleeps. The caller takes part as thread 0. Which thread computes what depends on sizes only.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How often a worker looks for work before it sleeps: about 50 microseconds.
const WORKER_SPINS: u32 = 2_000;
/// How often the caller looks for the workers' end before it yields its core.
const CALLER_SPINS: u32 = 20_000;

type Job = *const (dyn Fn(usize) + Sync);

struct State {
    /// Raised once per job, after `job` was set.
    generation: AtomicU64,
    /// Written only while `left` is 0.
    job: UnsafeCell<Option<Job>>,
    /// Workers that are not done with the job.
    left: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: `job` is written by `run` alone, under its lock, while no worker reads it: workers read
// between the raise of `generation` (release) and their decrement of `left`.
unsafe impl Sync for State {}
// SAFETY: the pointer is to a `Sync` closure that `run` keeps alive.
unsafe impl Send for State {}

/// The pool. Dropping it ends its threads.
pub(crate) struct Threads {
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl Threads {
    /// A pool of `n` threads, the caller included; fewer if the system refuses some.
    pub fn new(n: usize) -> Self {
        let state = Arc::new(State {
            generation: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            left: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let spawn = |index| {
            let state = state.clone();
            std::thread::Builder::new().name(format!("segno-cpu-{index}")).spawn(move || work(&state, index)).ok()
        };
        let workers = (1..n.max(1)).map_while(spawn).collect();
        Threads { state, workers, turn: Mutex::new(()) }
    }

    /// Number of threads.
    pub fn n(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether a job panicked since the last call.
    pub fn take_panic(&self) -> bool {
        self.state.panicked.swap(false, Ordering::Relaxed)
    }

    /// Calls `job` once for each thread index, and returns when all calls have. A panic is caught
    /// and told by [`take_panic`](Self::take_panic).
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let state = &*self.state;
        let guarded = |index: usize| {
            if catch_unwind(AssertUnwindSafe(|| job(index))).is_err() {
                state.panicked.store(true, Ordering::Relaxed);
            }
        };
        if self.workers.is_empty() {
            return guarded(0);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let guarded: &(dyn Fn(usize) + Sync) = &guarded;
        // SAFETY: only the lifetime is changed; no worker uses the pointer after this function's wait.
        let erased: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(guarded) };
        // SAFETY: all workers are done with the last job, and the lock keeps other callers away.
        unsafe { *state.job.get() = Some(erased) };
        state.left.store(self.workers.len(), Ordering::Relaxed);
        state.generation.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        guarded(0);
        let mut spins = 0;
        while state.left.load(Ordering::Acquire) > 0 {
            if spins < CALLER_SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Splits `0..n` into one contiguous range a thread, in multiples of `unit`, and calls
    /// `f(thread, range)`. At most `most` threads take part; with one, the caller alone does.
    pub fn split(&self, n: usize, unit: usize, most: usize, f: &(dyn Fn(usize, Range<usize>) + Sync)) {
        let units = n.div_ceil(unit.max(1));
        let threads = self.n().min(units).min(most);
        if threads <= 1 {
            let whole = |_: usize| {
                if n > 0 {
                    f(0, 0..n);
                }
            };
            return self.alone(&whole);
        }
        self.run(&|i| {
            if i < threads {
                let (from, to) = (units * i / threads * unit, (units * (i + 1) / threads * unit).min(n));
                f(i, from..to);
            }
        });
    }

    /// Calls `f(thread, i)` for every `i` of `0..n`, thread `t` taking `t`, `t + threads`, and so on:
    /// for items of growing cost.
    pub fn deal(&self, n: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        let threads = self.n().min(n);
        if threads <= 1 {
            return self.alone(&|_| (0..n).for_each(|i| f(0, i)));
        }
        self.run(&|t| (t..n).step_by(self.n()).for_each(|i| f(t, i)));
    }

    fn alone(&self, job: &(dyn Fn(usize) + Sync)) {
        if catch_unwind(AssertUnwindSafe(|| job(0))).is_err() {
            self.state.panicked.store(true, Ordering::Relaxed);
        }
    }
}

fn work(state: &State, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while state.generation.load(Ordering::Acquire) == seen {
            if state.stop.load(Ordering::Relaxed) {
                return;
            }
            if spins < WORKER_SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
        seen += 1;
        // SAFETY: the generation was raised after the job was set, and `run` does not return, nor
        // set another, before `left` is 0.
        if let Some(job) = unsafe { *state.job.get() } {
            // SAFETY: as above; the job catches its panics.
            unsafe { (*job)(index) };
        }
        state.left.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_by_any_number_of_threads() {
        for n_threads in [1, 2, 5] {
            let threads = Threads::new(n_threads);
            for n in [0, 1, 7, 100] {
                let split: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                let dealt: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                threads.split(n, 8, usize::MAX, &|_, range| {
                    range.for_each(|i| _ = split[i].fetch_add(1, Ordering::Relaxed))
                });
                threads.deal(n, &|_, i| _ = dealt[i].fetch_add(1, Ordering::Relaxed));
                assert!(split.iter().chain(&dealt).all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_is_told_and_harms_nothing() {
        let threads = Threads::new(3);
        threads.deal(9, &|_, i| assert!(i != 4, "as asked"));
        assert!(threads.take_panic());
        threads.deal(9, &|_, _| ());
        assert!(!threads.take_panic());
    }
}
