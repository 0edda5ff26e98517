//! `mul`.

use segno_ir::DeviceError;
use segno_ir::op::Mul;

use super::{Binary, elementwise, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, op: &Mul) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<Binary>("mul", n);
    let mut bindings = Vec::new();
    if let Some(id) = op.weight {
        variant.flags.push("WEIGHT");
        bindings.push(c.vector(id)?);
    } else if c.input(1).features < n {
        variant.flags.push("PER_ROW");
    }
    c.push(variant, bindings, Binary::of(c), per_feature(n))
}
