//! The ops: one file each, with the name it has in `segno-ir`, and one line each in the table below.

mod activate;
mod add;
mod attention;
mod concat;
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

use std::ops::Range;
use std::sync::Arc;

use segno_ir::{DeviceError, Domain, Graph, Node, Op, PoolPlan, ProgramLimits, StateId, ValueId, WeightDecl, WeightId};

use crate::context::Cx;
use crate::simd::Kernels;
use crate::simd::quant::Rounding;
use crate::weights::{CpuWeights, Matrix};

pub(crate) use linear::{rounding, scratch_floats as linear_scratch};
pub(crate) use rope::Turns;

/// An op that is ready to run: weights found, sizes known.
pub(crate) trait Run: Send {
    /// Computes the op for a step.
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError>;
}

/// What ops are prepared from.
pub(crate) struct Setup<'a> {
    pub graph: &'a Graph,
    pub weights: &'a CpuWeights,
    pub plan: &'a PoolPlan,
    pub limits: &'a ProgramLimits,
    pub kernels: &'static Kernels,
    /// Whether activations stay in f32 beside block weights.
    pub exact: bool,
    /// The value that each memory for rounded activations holds when the next op runs.
    pub rounded: [Option<ValueId>; 2],
    /// The rotations so far.
    pub turns: Vec<Turns>,
}

impl Setup<'_> {
    fn decl(&self, id: WeightId) -> &WeightDecl {
        &self.graph.weights[id.0 as usize]
    }

    fn matrix(&self, id: WeightId) -> Result<Matrix, DeviceError> {
        self.weights.matrix(self.decl(id))
    }

    fn vector(&self, id: WeightId) -> Result<Arc<[f32]>, DeviceError> {
        self.weights.vector(self.decl(id))
    }

    fn optional(&self, id: Option<WeightId>) -> Result<Option<Arc<[f32]>>, DeviceError> {
        id.map(|id| self.vector(id)).transpose()
    }

    /// Offset of a recurrent state in a slot.
    fn slot_offset(&self, id: StateId) -> Result<usize, DeviceError> {
        let missing = || DeviceError::Invalid(format!("the pool has no room for recurrent state {}", id.0));
        self.plan.layout.offset_of(id).ok_or_else(missing)
    }

    /// Whether rounding `value` for the next op is left to do; from now on it is done.
    fn round(&mut self, rounding: Rounding, value: ValueId) -> bool {
        let held = &mut self.rounded[rounding.index()];
        let fresh = *held == Some(value);
        *held = Some(value);
        !fresh
    }
}

fn unsupported(node: &Node, reason: &str) -> DeviceError {
    DeviceError::Unsupported { device: "CPU".into(), op: node.op.name().into(), reason: reason.into() }
}

/// The parts of some of `n` columns, counted from the first of them, that share a number of `b`, which has one for
/// each of equal groups of columns.
fn shared(n: usize, b: &[f32], columns: Range<usize>) -> impl Iterator<Item = (Range<usize>, f32)> {
    let width = n / b.len();
    let groups = columns.start / width..columns.end.div_ceil(width);
    groups.map(move |g| {
        let (from, to) = ((g * width).max(columns.start), ((g + 1) * width).min(columns.end));
        (from - columns.start..to - columns.start, b[g])
    })
}

/// Whether an op reads positions or states, which rows have in their step only.
fn needs_token_rows(op: &Op) -> bool {
    matches!(op, Op::Embed(_) | Op::Rope(_) | Op::SelectRows(_)) || op.state().is_some()
}

/// Readies the op of a node.
pub(crate) fn prepare(setup: &mut Setup<'_>, node: &Node) -> Result<Box<dyn Run>, DeviceError> {
    let domain = node.inputs.first().map_or(Domain::Token, |v| setup.graph.nodes[v.0 as usize].domain);
    if needs_token_rows(&node.op) && domain == Domain::Output {
        return Err(unsupported(node, "it stands behind select_rows"));
    }
    Ok(match &node.op {
        Op::Embed(op) => Box::new(embed::prepare(setup, op)?),
        Op::Linear(op) => Box::new(linear::prepare(setup, op, node)?),
        Op::Route(op) => Box::new(route::prepare(setup, op)?),
        Op::ExpertLinear(op) => Box::new(expert_linear::prepare(setup, op, node)?),
        Op::RmsNorm(op) => Box::new(rms_norm::prepare(setup, op)?),
        Op::LayerNorm(op) => Box::new(layer_norm::prepare(setup, op)?),
        Op::L2Norm(op) => Box::new(l2_norm::L2Norm { group: op.group, eps: op.eps }),
        Op::Rope(op) => Box::new(rope::prepare(setup, op)?),
        Op::Attention(op) => Box::new(attention::prepare(setup, op, node)?),
        Op::ShortConv(op) => Box::new(short_conv::prepare(setup, op)?),
        Op::DeltaRule(op) => Box::new(delta_rule::prepare(setup, op)?),
        Op::SelectiveScan(op) => Box::new(selective_scan::prepare(setup, op)?),
        Op::Ssd(op) => Box::new(ssd::prepare(setup, op)?),
        Op::Wkv6(op) => Box::new(wkv6::prepare(setup, op)?),
        Op::Wkv7(op) => Box::new(wkv7::prepare(setup, op)?),
        Op::TokenShift(op) => Box::new(token_shift::prepare(setup, op)?),
        Op::Activate(op) => Box::new(activate::Activate { function: op.function }),
        Op::Reduce(op) => Box::new(reduce::Reduce { op: op.clone() }),
        Op::Softplus(op) => Box::new(softplus::prepare(setup, op)?),
        Op::Add(_) => Box::new(add::Add),
        Op::Mul(op) => Box::new(mul::prepare(setup, op)?),
        Op::Scale(op) => Box::new(scale::Scale { factor: op.factor }),
        Op::SoftCap(op) => Box::new(soft_cap::SoftCap { cap: op.cap }),
        Op::Slice(op) => Box::new(slice::prepare(op)),
        Op::Concat(op) => Box::new(concat::Concat { count: op.count }),
        Op::SelectRows(_) => Box::new(select_rows::SelectRows),
        _ => return Err(unsupported(node, "the CPU backend does not have it")),
    })
}

/// Whether [`prepare`] knows an op.
pub(crate) fn is_known(op: &Op) -> bool {
    matches!(
        op,
        Op::Embed(_)
            | Op::Linear(_)
            | Op::Route(_)
            | Op::ExpertLinear(_)
            | Op::RmsNorm(_)
            | Op::LayerNorm(_)
            | Op::L2Norm(_)
            | Op::Rope(_)
            | Op::Attention(_)
            | Op::ShortConv(_)
            | Op::DeltaRule(_)
            | Op::SelectiveScan(_)
            | Op::Ssd(_)
            | Op::Wkv6(_)
            | Op::Wkv7(_)
            | Op::TokenShift(_)
            | Op::Activate(_)
            | Op::Reduce(_)
            | Op::Softplus(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Scale(_)
            | Op::SoftCap(_)
            | Op::Slice(_)
            | Op::Concat(_)
            | Op::SelectRows(_)
    )
}

/// Floats of scratch that a thread needs for an op, in steps of up to `rows` rows.
pub(crate) fn scratch_floats(graph: &Graph, node: &Node, kernels: &'static Kernels, exact: bool, rows: usize) -> usize {
    match &node.op {
        Op::Linear(op) => linear_scratch(&graph.weights[op.weight.0 as usize], kernels, exact),
        Op::Route(_) => route::scratch_floats(graph.nodes[node.inputs[0].0 as usize].features),
        Op::ExpertLinear(op) => {
            expert_linear::scratch_floats(&graph.weights[op.weight.0 as usize], op, kernels, exact, rows)
        }
        Op::Attention(op) => attention::scratch_floats(graph, op),
        Op::DeltaRule(op) => op.d_k,
        Op::SelectiveScan(op) => 2 * op.d_state,
        Op::Wkv6(op) => op.d,
        Op::Wkv7(op) => op.d,
        Op::ShortConv(op) => short_conv::scratch_floats(&graph.weights[op.weight.0 as usize]),
        _ => 0,
    }
}
