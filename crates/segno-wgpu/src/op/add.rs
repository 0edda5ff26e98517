//! `add`.

use segno_ir::DeviceError;
use segno_ir::op::Add;

use super::{Binary, elementwise, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, _: &Add) -> Result<(), DeviceError> {
    let n = c.out().features;
    c.push(elementwise::<Binary>("add", n), Vec::new(), Binary::of(c), per_feature(n))
}
