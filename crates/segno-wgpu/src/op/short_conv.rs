//! `short_conv`.

use segno_ir::DeviceError;
use segno_ir::op::ShortConv;

use super::{Unary, elementwise, per_feature};
use crate::program::{Binding, Compile};

pub(super) fn compile(c: &mut Compile<'_>, op: &ShortConv) -> Result<(), DeviceError> {
    let n = c.out().features;
    let (state, len) = c.recurrent(op.state)?;
    let mut variant = elementwise::<Unary>("short_conv", n);
    variant.constants.extend([("KERNEL", c.elements(op.weight) / n as u32), ("STATE", len)]);
    let mut bindings = vec![c.vector(op.weight)?, Binding::written(state)];
    if op.silu {
        variant.flags.push("SILU");
    }
    if let Some(id) = op.bias {
        variant.flags.push("BIAS");
        bindings.push(c.vector(id)?);
    }
    c.push(variant, bindings, Unary::of(c), per_feature(n))
}
