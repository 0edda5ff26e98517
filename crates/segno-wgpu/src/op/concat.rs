//! `concat`: a dispatch an input.

use segno_ir::DeviceError;
use segno_ir::op::Concat;

use super::{Unary, elementwise, per_feature};
use crate::program::Compile;

pub(super) fn compile(c: &mut Compile<'_>, op: &Concat) -> Result<(), DeviceError> {
    let y = c.out();
    let mut offset = 0;
    for i in 0..c.n_inputs() {
        let x = c.input(i);
        let width = (x.features / op.count) as u32;
        let mut variant = elementwise::<Unary>("concat", x.features);
        let stride = (y.features / op.count) as u32;
        variant.constants.extend([("WIDTH", width), ("OFFSET", offset), ("STRIDE", stride)]);
        let params = Unary { x: x.offset, x_stride: x.stride, y: y.offset, y_stride: y.stride };
        c.push(variant, Vec::new(), params, per_feature(x.features))?;
        offset += width;
    }
    Ok(())
}
