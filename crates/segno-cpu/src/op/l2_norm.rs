//! `l2_norm`.

use segno_ir::op::L2Norm;

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &L2Norm) {
    cx.threads.split(cx.n_rows, 1, &|rows| {
        for r in rows {
            for (x, y) in cx.input(0, r).chunks_exact(op.group).zip(cx.output(r).chunks_exact_mut(op.group)) {
                let inverse = 1.0 / ((cx.kernels.dot)(x, x) + op.eps).sqrt();
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse);
            }
        }
    });
}
