//! `mul`.

use segno_ir::op::Mul;

use super::elementwise;
use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &Mul) {
    let Some(id) = op.weight else { return elementwise(cx, |a, b| a * b) };
    let w = cx.vector(id);
    for r in 0..cx.n_rows {
        let pairs = cx.input(0, r).iter().zip(w);
        cx.output(r).iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = a * b);
    }
}
