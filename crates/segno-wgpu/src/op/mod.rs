//! The ops: one file each, the same name as the shader and the op.

mod activate;
mod add;
pub(crate) mod attention;
mod concat;
mod delta_rule;
mod embed;
mod expert_linear;
mod l2_norm;
mod linear;
mod mul;
mod reduce;
mod rms_norm;
mod rope;
mod route;
pub(crate) mod sample;
mod scale;
mod select_rows;
mod short_conv;
mod slice;
mod soft_cap;
mod softplus;

use segno_ir::{DeviceError, Op};

use crate::params::params;
use crate::program::{Compile, Grid, View};
use crate::shader::Variant;
use crate::weights::Placed;

/// Threads of a workgroup of kernels that have one thread a feature.
pub(crate) const WG: u32 = 64;
/// Threads of a workgroup that reduces: a subgroup where those are 32 wide, and as many as `lib/tree.wgsl` adds.
pub(crate) const REDUCE_WG: u32 = 32;

/// Threads that add up `n` numbers: so many that a GPU waits for few of them in turn.
pub(crate) fn reduce_wg(n: usize) -> u32 {
    (n as u32 / 8).next_power_of_two().clamp(REDUCE_WG, 256)
}

params!(Unary { x: u32, x_stride: u32, y: u32, y_stride: u32 });
params!(Binary { a: u32, a_stride: u32, b: u32, b_stride: u32, y: u32, y_stride: u32 });

impl Unary {
    pub fn of(c: &Compile<'_>) -> Self {
        let (x, y) = (c.input(0), c.out());
        Unary { x: x.offset, x_stride: x.stride, y: y.offset, y_stride: y.stride }
    }
}

impl Binary {
    /// Of two inputs; with one, `b` is not read.
    pub fn of(c: &Compile<'_>) -> Self {
        let (a, b, y) = (c.input(0), c.input(c.n_inputs() - 1), c.out());
        Binary { a: a.offset, a_stride: a.stride, b: b.offset, b_stride: b.stride, y: y.offset, y_stride: y.stride }
    }
}

/// A grid of one thread a feature.
pub(crate) fn per_feature(features: usize) -> Grid {
    Grid::Rows { x: (features as u32).div_ceil(WG), tile: 1, z: 1 }
}

/// The start of a variant with one thread a feature.
pub(crate) fn elementwise<P: crate::params::Params>(name: &'static str, n: usize) -> Variant {
    Variant { name, flags: Vec::new(), constants: vec![("WG", WG), ("N", n as u32)], format: None, params: P::wgsl() }
}

/// Makes a variant read a weight's rows of `n_in` numbers, and rows of `x` by `lib/act.wgsl`.
pub(crate) fn of_rows(variant: &mut Variant, placed: &Placed, n_in: u32, x: Option<View>) {
    variant.format = Some(placed.format);
    if !n_in.is_multiple_of(8) {
        variant.flags.push("RAGGED");
    } else if x.is_some_and(|x| x.is_wide()) {
        variant.flags.push("WIDE");
    }
}

/// Makes a variant of `n` features read one of `count` numbers for each of equal groups of them.
pub(crate) fn in_groups(variant: &mut Variant, n: usize, count: usize) {
    if count < n {
        variant.flags.push("GROUPS");
        variant.constants.push(("GROUP_WIDTH", (n / count) as u32));
    }
}

/// Whether an op has a kernel.
pub(crate) fn is_built(op: &Op) -> bool {
    dispatch(op).is_some()
}

type Compiler = fn(&mut Compile<'_>, &Op) -> Result<(), DeviceError>;

fn dispatch(op: &Op) -> Option<Compiler> {
    macro_rules! table {
        ($($kind:ident: $module:ident;)*) => {
            match op {
                $(Op::$kind(_) => Some(|c, op| match op {
                    Op::$kind(op) => $module::compile(c, op),
                    _ => Err(DeviceError::Invalid("the table of kernels is wrong".into())),
                }),)*
                _ => None,
            }
        };
    }
    table! {
        Embed: embed;
        Linear: linear;
        Route: route;
        ExpertLinear: expert_linear;
        RmsNorm: rms_norm;
        L2Norm: l2_norm;
        Rope: rope;
        Attention: attention;
        ShortConv: short_conv;
        DeltaRule: delta_rule;
        Activate: activate;
        Reduce: reduce;
        Softplus: softplus;
        Add: add;
        Mul: mul;
        Scale: scale;
        SoftCap: soft_cap;
        Slice: slice;
        Concat: concat;
        SelectRows: select_rows;
    }
}

/// Adds the dispatches of a node.
pub(crate) fn compile(c: &mut Compile<'_>, op: &Op) -> Result<(), DeviceError> {
    match dispatch(op) {
        Some(compile) => compile(c, op),
        None => Err(c.unsupported(op, "it has no kernel yet")),
    }
}

#[cfg(test)]
mod translate;
