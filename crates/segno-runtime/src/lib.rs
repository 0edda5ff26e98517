//! The executor: sequences over a device's slots and pages, batched into steps.
//!
//! ```text
//! Engine (its own thread)   requests in, tokens out; decides what goes into the next step
//!   Executor                sequences: which slot and pages are whose; builds steps, commits them
//!     Pages, Slots          free lists and reference counts
//!     Ledger                every byte, planned at load
//!       segno_ir::Device    reads some slots and pages, writes others
//! ```
//!
//! # Invariants
//! - No device detail here: everything goes through the traits of [`segno_ir::device`].
//! - A step reads a sequence's slot and writes another; committing it is a swap on the host, so a
//!   failed or cancelled step leaves every sequence as it was.
//! - Only the [`Ledger`] approves memory, before it is allocated, at load.

pub mod adversary;
mod checkpoints;
mod engine;
mod executor;
mod hybrid;
pub mod image;
mod ledger;
mod pages;
mod ram;
mod sampler;
pub mod store;
mod tree;

pub use checkpoints::{CheckpointMode, CheckpointOptions, CheckpointStats, Place, Reuse, Why};
pub use engine::{EmbeddedRow, Engine, EngineOptions, Event, Finish, Generation, Hold, Report, Request, RequestError};
pub use executor::{Executor, ExecutorError, ExecutorOptions, Export, Frozen, Issued, SequenceId, Work};
pub use ledger::{Entry, Ledger, LedgerError, Tier};
pub use sampler::{Chain, Sampler, Sampling, SamplingError};
