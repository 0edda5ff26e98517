//! `mul`.

use segno_ir::DeviceError;
use segno_ir::op::Mul;

use super::{Binary, elementwise, in_groups, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, op: &Mul) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<Binary>("mul", n);
    let mut bindings = Vec::new();
    if let Some(id) = op.weight {
        variant.flags.push("WEIGHT");
        bindings.push(c.vector(id)?);
        in_groups(&mut variant, n, c.elements(id) as usize);
    } else {
        in_groups(&mut variant, n, c.input(1).features);
    }
    c.push(variant, bindings, Binary::of(c), per_feature(n))
}
