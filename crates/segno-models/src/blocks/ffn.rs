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
    let n_embd = b.features(x);
    let gate = linear(b, x, &tensor_name(layer, "ffn_gate"), n_ff)?;
    let up = linear(b, x, &tensor_name(layer, "ffn_up"), n_ff)?;
    let y = b.push(Activate { function }, &[gate, up])?;
    linear(b, y, &tensor_name(layer, "ffn_down"), n_embd)
}

/// [`gated_ffn`] with SiLU.
pub(crate) fn swiglu(b: &mut Builder<'_>, layer: u32, x: ValueId, n_ff: usize) -> Result<ValueId, GraphError> {
    gated_ffn(b, layer, x, n_ff, Activation::Silu)
}
