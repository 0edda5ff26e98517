//! `add`.

use segno_ir::DeviceError;
use segno_ir::op::Add;

use super::{Binary, elementwise, in_groups, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, _: &Add) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<Binary>("add", n);
    in_groups(&mut variant, n, c.input(1).features);
    c.push(variant, Vec::new(), Binary::of(c), per_feature(n))
}
