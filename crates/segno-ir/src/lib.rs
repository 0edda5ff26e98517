//! The language that models are written in and backends understand.
//!
//! A model is a [`Graph`]: a straight line of ops, each assigned once. Every value is a matrix
//! `[rows, features]`, where the rows are the tokens of a [`Step`] or those of them whose outputs
//! are wanted. An op has one meaning, its f64 [`reference`](op::OpRule::reference); every backend is
//! compared with it.
//!
//! What a sequence carries from step to step is *declared* here ([`StateDecl`]) and owned by the
//! runtime, which hands numbered slots and pages to a backend ([`device`]).
//!
//! # Invariants
//! - No I/O, no threads, no clock: everything here is a function of its arguments.
//! - [`mod@reference`] is slow, obvious and right; it is never optimised.
//! - A graph that was built has been checked: shapes, states and weights fit together.

pub mod device;
pub mod graph;
pub mod op;
pub mod recurrence;
pub mod reference;
pub mod sample;
pub mod state;
pub mod weight;

pub use device::{
    Cancel, Capabilities, Device, DeviceError, DeviceKind, Input, Needs, PageId, PageTable, Pending, Pool, Program,
    ProgramLimits, Rows, SlotId, Span, SpanKind, Step, Support, Ticket, Weights,
};
pub use graph::{Builder, Domain, Graph, GraphError, Node, Output, ValueId};
pub use op::{Op, OpKind};
pub use sample::{SampleParams, SampleRow};
pub use state::{KvGroup, KvType, PAGE_TOKENS, PoolPlan, StateDecl, StateId, StateLayout};
pub use weight::{Tensor, WeightDecl, WeightId, WeightSource};

/// The version of the numerics of the ops: part of every state's key, raised when an op's meaning changes, or the order in
/// which a kernel adds.
pub const NUMERICS_VERSION: u32 = 3;
