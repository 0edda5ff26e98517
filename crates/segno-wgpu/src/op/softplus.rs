//! `softplus`.

use segno_ir::DeviceError;
use segno_ir::op::Softplus;

use super::{Unary, elementwise, in_groups, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, op: &Softplus) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<Unary>("softplus", n);
    let mut bindings = Vec::new();
    // Bindings have fixed places, so a factor without a bias takes both.
    if let Some(id) = op.bias.or(op.factor) {
        bindings.push(c.vector(id)?);
    }
    if op.bias.is_some() {
        variant.flags.push("BIAS");
    }
    if let Some(id) = op.factor {
        variant.flags.push("FACTOR");
        in_groups(&mut variant, n, c.elements(id) as usize);
        bindings.push(c.vector(id)?);
    }
    c.push(variant, bindings, Unary::of(c), per_feature(n))
}
