//! `slice`: of one run it is a view and nothing is done.

use segno_ir::op::Slice;

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &Slice) {
    if op.count == 1 {
        return;
    }
    for r in 0..cx.n_rows {
        let x = cx.input(0, r);
        for (g, y) in cx.output(r).chunks_exact_mut(op.width).enumerate() {
            y.copy_from_slice(&x[op.offset + g * op.stride..][..op.width]);
        }
    }
}
