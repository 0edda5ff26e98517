//! `select_rows`.

use segno_ir::DeviceError;
use segno_ir::op::SelectRows;

use super::{Unary, elementwise, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, _: &SelectRows) -> Result<(), DeviceError> {
    let n = c.out().features;
    let mut variant = elementwise::<Unary>("select_rows", n);
    variant.constants.extend(c.step_constants());
    c.push(variant, Vec::new(), Unary::of(c), per_feature(n))
}
