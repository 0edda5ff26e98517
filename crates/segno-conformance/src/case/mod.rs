//! The cases: one file an op, one word an op in the table below.
//!
//! A case is a graph of one op: `embed` takes given rows, `slice` cuts the op's inputs out of them
//! (at odd offsets), the op, `select_rows`. Its step is ragged; see [`Batch`] for how it is written.

mod activate;
mod add;
mod attention;
mod batch;
mod build;
mod concat;
mod copy;
mod delta_rule;
mod embed;
mod expert_linear;
mod l2_norm;
mod layer_norm;
mod linear;
mod mul;
mod reduce;
mod rms_norm;
mod rope;
mod route;
mod sample;
mod scale;
mod scan;
mod select_rows;
mod selective_scan;
mod short_conv;
mod slice;
mod soft_cap;
mod softplus;
mod ssd;
mod token_shift;
mod wkv6;
mod wkv7;

use segno_ir::{Graph, GraphError, Input, KvType, SpanKind};
use segno_quant::TensorType;
use std::ops::Range;
use std::sync::Arc;

pub(crate) use batch::Batch;
pub(crate) use build::{Setup, elementwise};

use crate::bound;
use crate::random::{Random, Values};
use crate::suite::Direct;
use crate::weight::MemorySource;

macro_rules! table {
    ($($module:ident,)*) => {
        /// Every file's name and cases.
        const TABLE: &[(&str, fn(&mut Cases))] = &[$((stringify!($module), $module::cases),)*];
    };
}

table! {
    embed,
    linear,
    route,
    expert_linear,
    rms_norm,
    layer_norm,
    l2_norm,
    rope,
    attention,
    short_conv,
    delta_rule,
    selective_scan,
    ssd,
    wkv6,
    wkv7,
    token_shift,
    activate,
    reduce,
    softplus,
    add,
    mul,
    scale,
    soft_cap,
    slice,
    concat,
    select_rows,
    sample,
    copy,
}

/// Builds a case from its numbers.
pub(crate) type Build = dyn Fn(&mut Random) -> Result<Case, GraphError>;

/// What to do for a case.
pub(crate) enum Task {
    /// Runs a graph and compares its outputs and states.
    Graph(Box<Build>),
    /// Talks to the device itself.
    Direct(Box<Direct>),
}

/// A case that has not been built yet.
pub(crate) struct Spec {
    /// The op, or `sample`, `copy`.
    pub op: &'static str,
    /// The column of the matrix: weight or page type.
    pub ty: &'static str,
    /// Op, type and parameters: all that decides the case.
    pub name: String,
    /// What to do.
    pub task: Task,
}

/// Collects an op's cases.
pub(crate) struct Cases {
    op: &'static str,
    specs: Vec<Spec>,
}

impl Cases {
    /// Adds a graph to be compared.
    pub fn add(
        &mut self,
        ty: &'static str,
        params: String,
        build: impl Fn(&mut Random) -> Result<Case, GraphError> + 'static,
    ) {
        self.push(ty, params, Task::Graph(Box::new(build)));
    }

    /// Adds a case that talks to the device itself.
    pub fn direct(&mut self, ty: &'static str, params: String, direct: Box<Direct>) {
        self.push(ty, params, Task::Direct(direct));
    }

    fn push(&mut self, ty: &'static str, params: String, task: Task) {
        let name = format!("{}/{ty}/{params}", self.op);
        self.specs.push(Spec { op: self.op, ty, name, task });
    }
}

/// Every case there is, in table order.
pub(crate) fn all() -> Vec<Spec> {
    let specs = |&(op, fill): &(&'static str, fn(&mut Cases))| {
        let mut cases = Cases { op, specs: Vec::new() };
        fill(&mut cases);
        cases.specs
    };
    TABLE.iter().flat_map(specs).collect()
}

/// State of one sequence before its span, in the order of the graph's states.
#[derive(Clone, Debug)]
pub(crate) enum Before {
    /// Flat, in the declared shape.
    Recurrent(Vec<f32>),
    /// `[start, n_head_kv, d]` each, NaN where the window has passed.
    KeyValue {
        /// Keys, as the page type holds them.
        k: Vec<f32>,
        /// Values, as the page type holds them.
        v: Vec<f32>,
    },
}

/// A span of a case.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Position of its first row.
    pub start: u32,
    /// How it is computed.
    pub kind: SpanKind,
    /// Its states, or `None` for a new sequence (slot 0).
    pub before: Option<Vec<Before>>,
    /// Its rows.
    pub inputs: Vec<Input>,
    /// Rows whose outputs are compared.
    pub outputs: Vec<u32>,
    /// Rows after which the state is compared too.
    pub snapshots: Vec<u32>,
}

/// One of the ops under test: its node, its output tap is its index.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Index of the node.
    pub node: usize,
    /// Where each input lies in the given rows.
    pub parts: Vec<Range<usize>>,
}

/// A case, built.
pub(crate) struct Case {
    /// The graph, with one output `Hidden(i)` per probe.
    pub graph: Graph,
    /// The nodes under test.
    pub probes: Vec<Probe>,
    /// The weights.
    pub source: Arc<MemorySource>,
    /// Page types.
    pub kv: (KvType, KvType),
    /// The step's spans.
    pub sequences: Vec<Sequence>,
    /// The bound on every number.
    pub errors: Box<ErrorRule>,
}

/// Gives the bounds of one sequence's outputs and states.
pub(crate) type ErrorRule = dyn Fn(&Trial<'_>, Comparison) -> Errors;

/// What a bound is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The inputs are those that the device's own rounding gives.
    Tight,
    /// The inputs are unrounded: the bound includes what the formats may round away.
    Stated,
}

/// What a bound is computed from: one probe and one sequence.
pub(crate) struct Trial<'a> {
    /// Elements of the graph's weights.
    pub weights: &'a [Vec<f64>],
    /// Their types.
    pub types: &'a [TensorType],
    /// The span's rows, as given.
    pub given: &'a [Input],
    /// The op's inputs, `[rows, features]` flat.
    pub inputs: &'a [Vec<f64>],
    /// The op's state before the span (with the span's own entries, where the op only reads it).
    pub state: Option<&'a segno_ir::reference::RefState>,
    /// Position of the first row.
    pub start: u32,
    /// Number of rows.
    pub rows: usize,
    /// Features of the result.
    pub features: usize,
    /// Rows after which the recurrent state is compared.
    pub marks: &'a [usize],
}

impl Trial<'_> {
    /// A weight's elements.
    pub fn weight(&self, id: segno_ir::WeightId) -> &[f64] {
        &self.weights[id.0 as usize]
    }

    /// What each element of a weight may be off by once a device has decoded it. Types of one element
    /// a block are exact; a block's element is a sum of at most two products of three factors, none
    /// larger than four times the block's largest element (unless all its numbers are alike): four
    /// roundings of that.
    pub fn decode_errors(&self, id: segno_ir::WeightId) -> Vec<f64> {
        let (w, ty) = (self.weight(id), self.types[id.0 as usize]);
        if ty.block_len() == 1 {
            return vec![0.0; w.len()];
        }
        let error = |block: &[f64]| {
            let largest = block.iter().fold(0f64, |m, v| m.max(v.abs()));
            vec![4.0 * bound::U * largest; block.len()]
        };
        w.chunks(ty.block_len()).flat_map(error).collect()
    }
}

/// Bounds of one probe and one sequence.
#[derive(Default)]
pub(crate) struct Errors {
    /// `[rows, features]`.
    pub y: Vec<f64>,
    /// The recurrent state at each mark; empty: it must be exact.
    pub states: Vec<Vec<f64>>,
}

/// A type's name as the matrix has it.
pub(crate) fn kv_name(kv: (KvType, KvType)) -> &'static str {
    const NAMES: [[&str; 4]; 4] = [
        ["kv F32", "kv F32/F16", "kv F32/Q8_0", "kv F32/Q4_0"],
        ["kv F16/F32", "kv F16", "kv F16/Q8_0", "kv F16/Q4_0"],
        ["kv Q8_0/F32", "kv Q8_0/F16", "kv Q8_0", "kv Q8_0/Q4_0"],
        ["kv Q4_0/F32", "kv Q4_0/F16", "kv Q4_0/Q8_0", "kv Q4_0"],
    ];
    NAMES[kv.0 as usize][kv.1 as usize]
}

/// Adds the cases of an op of one or more inputs that works feature by feature: odd sizes, every kind
/// of values, several batches.
pub(crate) fn each_elementwise(out: &mut Cases, what: &str, add: impl Fn(&mut Cases, String, usize, Batch, Values)) {
    let sep = if what.is_empty() { "" } else { "," };
    for (n, batch, values) in [
        (1, "d1", Values::Normal),
        (3, "p1+d1@5+p3@64", Values::Mixed),
        (31, "p33?odd+d1@7+d1", Values::Sparse),
        (65, "p65+d2@64", Values::Scaled(1e4)),
        (127, "d1+d1@1+p7@60", Values::Scaled(1e-6)),
        (257, "p5+d1@9", Values::Outlier),
        (1024, "p3+d1@2", Values::Normal),
        (33, "p257?last+d1@257", Values::Scaled(10.0)),
    ] {
        add(out, format!("{what}{sep}n={n},x={values},batch={batch}"), n, Batch::parse(batch), values);
    }
}

/// Adds the cases of a binary op whose second input has one number for each of equal groups of features;
/// `rule` gives the bound from both numbers.
pub(crate) fn each_grouped(out: &mut Cases, op: impl Into<segno_ir::Op>, rule: fn(f64, f64) -> f64) {
    let op = op.into();
    for (n, groups, batch) in
        [(65, 1, "p33?odd+d1@7+d1"), (1024, 1, "p3+d1@2"), (96, 3, "p5+d1@9"), (512, 64, "p33+d1@1+d1")]
    {
        let op = op.clone();
        out.add("F32", format!("groups={groups},n={n},batch={batch}"), move |rng| {
            let setup = Setup::new(rng, &[n, groups], &Batch::parse(batch)).values(Values::Mixed);
            let op = op.clone();
            setup.finish(
                move |_, _| Ok(op.clone()),
                move |trial, _| {
                    let b = |i: usize| trial.inputs[1][i / (n / groups)];
                    let y = trial.inputs[0].iter().enumerate().map(|(i, a)| rule(*a, b(i)));
                    Errors { y: y.collect(), states: Vec::new() }
                },
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_op_of_the_ir_has_cases() {
        let ops: BTreeSet<&str> = all().iter().map(|s| s.op).collect();
        let missing: Vec<&str> =
            segno_ir::OpKind::ALL.iter().map(|k| k.name()).filter(|name| !ops.contains(name)).collect();
        assert!(missing.is_empty(), "ops without cases: {missing:?}");
    }

    #[test]
    fn names_are_unique() {
        let specs = all();
        let names: BTreeSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), specs.len());
    }

    #[test]
    fn every_case_builds() {
        for spec in all() {
            let Task::Graph(build) = &spec.task else { continue };
            if let Err(error) = build(&mut Random::of(&spec.name)) {
                panic!("{}: {error}", spec.name);
            }
        }
    }
}
