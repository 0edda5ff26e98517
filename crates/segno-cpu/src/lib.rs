//! The CPU backend: SIMD kernels chosen at run time, a fixed pool of threads, a static partition.
//!
//! # Exactness
//! Every result depends on its row's sequence alone: reductions have one order, attention goes over
//! keys in pages at absolute multiples of 64, scans are sequential, and a value is computed by one
//! thread from start to end. So batches, cuts, thread counts and span kinds change no bit.

mod device;
mod kernel;
mod op;
mod pool;
mod program;
mod threads;

pub use device::{CpuDevice, CpuOptions};
