//! The proof that a device's kernels are right: cases for every op, type and device.
//!
//! A case is a graph of one op over random weights, states and rows. It runs on a device through the
//! same traits as a model, with guard bands on, and is compared with the op's f64 reference:
//!
//! - **tight**: with the reference given the device's own rounding of inputs (its
//!   [`round_input`](segno_ir::Device::round_input), and keys and values as the pages hold them).
//!   What is left is the error of f32 arithmetic, and its bound is derived from the length of the
//!   reductions and from the magnitudes that the reference meets.
//! - **stated**: with the reference given the inputs as they were. The bound adds what the formats
//!   may round away (8-bit activations beside block weights, f16 pages), whatever the device says
//!   of itself.
//!
//! What must not differ at all is compared bit for bit ([`Check`]): a sequence beside others and
//! alone, a span cut at multiples of 64 and uncut, a snapshot in mid-scan and the final state of a
//! span that ends there; and everything that a step may not write is what it was.
//!
//! ```no_run
//! # fn demo(device: &dyn segno_ir::Device) -> Result<(), segno_conformance::FilterError> {
//! let filter = segno_conformance::Filter::new("^(linear|attention)/")?;
//! let report = segno_conformance::run(device, &filter, &mut |p| eprintln!("{}/{} {}", p.done, p.total, p.case));
//! println!("{}", report.text());
//! assert!(!report.failed());
//! # Ok(()) }
//! ```
//!
//! # Invariants
//! - A case's name says everything about it: its numbers are drawn from a generator keyed by the name.
//! - Bounds are derived beside the case, in `case/<op>.rs`, and never tuned until green.
//! - NaN in an output fails; an error of the device fails the case and never the suite.

mod bound;
mod case;
mod compare;
mod exact;
mod random;
mod report;
mod rig;
mod suite;
mod weight;

pub use report::{Check, DeviceFacts, Failure, Note, Report, Row, Tally};
pub use suite::{Filter, FilterError, Progress, names, run};
