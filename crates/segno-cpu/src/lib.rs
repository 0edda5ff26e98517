//! The CPU backend: SIMD kernels chosen at run time, a fixed pool of threads, a static partition.
//!
//! ```
//! use segno_cpu::{CpuDevice, CpuOptions};
//! use segno_ir::Device;
//!
//! let device = CpuDevice::new(CpuOptions { threads: Some(2), ..CpuOptions::default() });
//! println!("{} ({})", device.describe().name, device.describe().driver);
//! ```
//!
//! # Exactness
//! A row's bits depend on its sequence alone; neither on the batch around it, nor on where a step
//! was cut, nor on the number of threads, nor on the kind of its span:
//!
//! - Every product of a row with an output has one order of additions, whatever tile computes it.
//!   Float weights: eight lanes by index modulo 8, then a fixed tree. Block weights: integers
//!   within a block (exact in any order), then one chain of f32 multiply-adds over the blocks.
//! - Attention writes keys and values to their pages first and then reads them as stored. Each row
//!   and head goes over blocks of 64 absolute positions, in order, with an online softmax; what a
//!   row does not see is never touched.
//! - Scans are sequential, their state in f32.
//! - A number is computed by one thread from start to end.
//!
//! # Invariants
//! - `unsafe` lives in `simd`, `memory`, `threads` and the ops that split their output over threads.
//! - Weights stay in the source's bytes; only small vectors are copied.
//! - A step allocates nothing but small lists.

mod context;
mod device;
mod memory;
mod op;
mod plan;
mod pool;
mod program;
mod simd;
mod threads;
mod topology;
mod weights;

pub use device::{CpuDevice, CpuOptions, free_memory};
