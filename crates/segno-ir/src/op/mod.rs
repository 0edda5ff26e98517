//! The ops: one file each, one line each in the table below.
//!
//! An op's file holds its attributes, its shape rule, its cost and its f64 reference. The enum
//! [`Op`], the names and every visitor come from the table.

use crate::graph::{Domain, ValueId};
use crate::state::StateId;
use crate::weight::{WeightDecl, WeightId};

pub use crate::reference::OpContext;

/// What an op's shape rule may look at.
pub struct Shapes<'a> {
    /// Features of each input.
    pub inputs: &'a [usize],
    /// Row domain of each input.
    pub domains: &'a [Domain],
    /// The graph's weights.
    pub weights: &'a [WeightDecl],
    /// The graph's states.
    pub states: &'a [crate::state::StateDecl],
}

impl Shapes<'_> {
    /// Fails unless there are `n` inputs.
    pub fn expect_inputs(&self, n: usize) -> Result<(), String> {
        if self.inputs.len() == n { Ok(()) } else { Err(format!("takes {n} inputs, got {}", self.inputs.len())) }
    }

    /// Fails unless input `i` has `features` features.
    pub fn expect_features(&self, i: usize, what: &str, features: usize) -> Result<(), String> {
        match self.inputs.get(i) {
            Some(&n) if n == features => Ok(()),
            Some(&n) => Err(format!("{what} has {n} features, expected {features}")),
            None => Err(format!("{what} is missing")),
        }
    }

    /// The declaration of a weight.
    pub fn weight(&self, id: WeightId) -> Result<&WeightDecl, String> {
        self.weights.get(id.0 as usize).ok_or_else(|| format!("weight {} is not declared", id.0))
    }

    /// Fails unless the weight is a vector or tensor of the given sizes.
    pub fn expect_weight(&self, id: WeightId, shape: &[usize]) -> Result<(), String> {
        let decl = self.weight(id)?;
        let same = decl.shape.iter().map(|&n| n as usize).eq(shape.iter().copied());
        if same { Ok(()) } else { Err(format!("{} has shape {:?}, expected {shape:?}", decl.name, decl.shape)) }
    }

    /// Fails unless the weight has as many elements, in any shape.
    pub fn expect_elements(&self, id: WeightId, n: usize) -> Result<(), String> {
        let decl = self.weight(id)?;
        if decl.n_elements() == n {
            return Ok(());
        }
        Err(format!("{} has shape {:?}, expected {n} elements", decl.name, decl.shape))
    }

    /// Fails unless `n` numbers are one for each of equal groups of `features` features.
    pub fn expect_groups(&self, n: usize, features: usize, what: &str) -> Result<(), String> {
        if n > 0 && features.is_multiple_of(n) {
            return Ok(());
        }
        Err(format!("{what} has {n} numbers, expected {features}, or one for each of equal groups of them"))
    }

    /// As [`expect_groups`](Self::expect_groups), of a weight's elements.
    pub fn expect_weight_groups(&self, id: WeightId, features: usize) -> Result<(), String> {
        let decl = self.weight(id)?;
        self.expect_groups(decl.n_elements(), features, &format!("{} of shape {:?}", decl.name, decl.shape))
    }

    /// Fails unless the state is recurrent with this shape.
    pub fn expect_recurrent(&self, id: StateId, expected: &[u32]) -> Result<(), String> {
        match self.states.get(id.0 as usize) {
            Some(crate::state::StateDecl::Recurrent { shape, .. }) if shape == expected => Ok(()),
            Some(other) => Err(format!("state {} is {other:?}, expected recurrent {expected:?}", other.name())),
            None => Err(format!("state {} is not declared", id.0)),
        }
    }
}

/// What a call of an op costs, for estimates and for the share of a device's peak in benches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations per row, a multiply-add counted as two.
    pub flops_per_row: f64,
    /// Bytes of weights read once per step.
    pub weight_bytes: f64,
    /// Bytes of state read and written per sequence.
    pub state_bytes: f64,
}

/// What every op says of itself.
pub trait OpRule {
    /// The op's name: the same in every crate and shader.
    const NAME: &'static str;
    /// Features of the result, or what is wrong with the inputs (no op name in the message).
    fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String>;
    /// Weights that it reads.
    fn weights(&self) -> Vec<WeightId> {
        Vec::new()
    }
    /// State that it reads or writes.
    fn state(&self) -> Option<StateId> {
        None
    }
    /// What it costs.
    fn cost(&self, shapes: &Shapes<'_>) -> Cost;
    /// The result in f64, `[rows, features]`, of one sequence's rows; advances the state in `cx`.
    fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64>;
}

macro_rules! ops {
    ($($module:ident: $type:ident, $doc:literal;)*) => {
        $(pub mod $module; pub use $module::$type;)*

        /// An op with its attributes.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Op { $(#[doc = $doc] $type($type),)* }

        /// An op without its attributes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum OpKind { $(#[doc = $doc] $type,)* }

        impl OpKind {
            /// Every op, in table order.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$type,)*];
            /// The op's name.
            pub fn name(self) -> &'static str { match self { $(OpKind::$type => $type::NAME,)* } }
            /// What it does, in a phrase.
            pub fn summary(self) -> &'static str { match self { $(OpKind::$type => $doc,)* } }
        }

        impl Op {
            /// The op without its attributes.
            pub fn kind(&self) -> OpKind { match self { $(Op::$type(_) => OpKind::$type,)* } }
            /// The op's name.
            pub fn name(&self) -> &'static str { self.kind().name() }
            /// Features of the result, or what is wrong.
            pub fn infer(&self, shapes: &Shapes<'_>) -> Result<usize, String> { match self { $(Op::$type(op) => op.infer(shapes),)* } }
            /// Weights that it reads.
            pub fn weights(&self) -> Vec<WeightId> { match self { $(Op::$type(op) => op.weights(),)* } }
            /// State that it reads or writes.
            pub fn state(&self) -> Option<StateId> { match self { $(Op::$type(op) => op.state(),)* } }
            /// What it costs.
            pub fn cost(&self, shapes: &Shapes<'_>) -> Cost { match self { $(Op::$type(op) => op.cost(shapes),)* } }
            /// The result in f64.
            pub fn reference(&self, cx: &mut OpContext<'_>) -> Vec<f64> { match self { $(Op::$type(op) => op.reference(cx),)* } }
        }

        $(impl From<$type> for Op { fn from(op: $type) -> Op { Op::$type(op) } })*
    };
}

ops! {
    embed: Embed, "rows of the token embedding, or rows given by the caller";
    linear: Linear, "matrix product with a weight, and a bias";
    route: Route, "choice of experts and their weights from the router's logits";
    expert_linear: ExpertLinear, "matrix products with the chosen experts' weights";
    rms_norm: RmsNorm, "division by the root mean square over groups of features";
    layer_norm: LayerNorm, "mean and variance made 0 and 1 over groups of features";
    l2_norm: L2Norm, "division by the Euclidean norm over groups of features";
    rope: Rope, "rotary position embedding";
    attention: Attention, "softmax attention over keys and values in pages";
    short_conv: ShortConv, "causal depthwise convolution over the last few rows";
    delta_rule: DeltaRule, "gated delta rule: decaying state, corrected towards each value";
    selective_scan: SelectiveScan, "selective scan of Mamba-1: a decay for every entry of the state";
    ssd: Ssd, "state-space duality of Mamba-2: one decay a head";
    wkv6: Wkv6, "recurrence of RWKV-6, or gated linear attention";
    wkv7: Wkv7, "recurrence of RWKV-7: decay and a change of rank one";
    token_shift: TokenShift, "difference of each row to the one before";
    activate: Activate, "elementwise activation, alone or as a gate";
    reduce: Reduce, "a number for each group of features: sum, norm or standard deviation";
    softplus: Softplus, "softplus with a bias before and a factor after";
    add: Add, "sum of two values, or of a value and a number for each group of features";
    mul: Mul, "product of a value and another or a weight, of its size or one number for each group";
    scale: Scale, "product with a constant";
    soft_cap: SoftCap, "smooth limit by the hyperbolic tangent";
    slice: Slice, "some of the features";
    concat: Concat, "the features of several values, group by group";
    select_rows: SelectRows, "those rows whose outputs are wanted";
}

/// Puts a head's results `[rows, width]` into `y` `[rows, n_head, width]`.
pub(crate) fn set_head(y: &mut [f64], y_head: &[f64], head: usize, n_head: usize, width: usize) {
    for (row, values) in y.chunks_exact_mut(n_head * width).zip(y_head.chunks_exact(width)) {
        row[head * width..][..width].copy_from_slice(values);
    }
}

/// Fails unless all inputs share one row domain.
pub(crate) fn same_domain(domains: &[Domain]) -> Result<(), String> {
    match domains.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(()),
        false => Err("mixes token rows with output rows".into()),
    }
}

/// Names an input in messages and prints.
pub fn value_name(id: ValueId) -> String {
    format!("%{}", id.0)
}
