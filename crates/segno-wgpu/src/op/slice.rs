//! `slice`.

use segno_ir::DeviceError;
use segno_ir::op::Slice;

use super::{Unary, elementwise, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, op: &Slice) -> Result<(), DeviceError> {
    if op.count == 1 {
        // A view into its input.
        return Ok(());
    }
    let n = c.out().features;
    let mut variant = elementwise::<Unary>("slice", n);
    variant.constants.extend([("WIDTH", op.width as u32), ("OFFSET", op.offset as u32), ("STRIDE", op.stride as u32)]);
    c.push(variant, Vec::new(), Unary::of(c), per_feature(n))
}
