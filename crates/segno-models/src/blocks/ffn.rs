//! Feed-forward blocks.

use segno_ir::op::Activate;
use segno_ir::op::activate::Activation;
use segno_ir::{Builder, GraphError, ValueId};

use super::{linear, tensor_name};

/// `down(f(gate x) * up x)`.
pub(crate) fn gated_ffn(
    b: &mut Builder<'_>,
    layer: u32,
    x: ValueId,
    n_ff: usize,
    function: Activation,
) -> Result<ValueId, GraphError> {
    let names = ["ffn_gate", "ffn_up", "ffn_down"].map(|part| tensor_name(layer, part));
    gated_named(b, x, &names, n_ff, function)
}

/// [`gated_ffn`] with SiLU.
pub(crate) fn swiglu(b: &mut Builder<'_>, layer: u32, x: ValueId, n_ff: usize) -> Result<ValueId, GraphError> {
    gated_ffn(b, layer, x, n_ff, Activation::Silu)
}

/// [`swiglu`] with the tensors of gate, up and down that have these names.
pub(crate) fn swiglu_named(
    b: &mut Builder<'_>,
    x: ValueId,
    names: &[String; 3],
    n_ff: usize,
) -> Result<ValueId, GraphError> {
    gated_named(b, x, names, n_ff, Activation::Silu)
}

fn gated_named(
    b: &mut Builder<'_>,
    x: ValueId,
    [gate, up, down]: &[String; 3],
    n_ff: usize,
    function: Activation,
) -> Result<ValueId, GraphError> {
    let n_embd = b.features(x);
    let gate = linear(b, x, gate, n_ff)?;
    let up = linear(b, x, up, n_ff)?;
    let y = b.push(Activate { function }, &[gate, up])?;
    linear(b, y, down, n_embd)
}
