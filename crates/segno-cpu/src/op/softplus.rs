//! `softplus`.

use segno_ir::op::Softplus;

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &Softplus) {
    let (bias, factor) = (op.bias.map(|id| cx.vector(id)), op.factor.map(|id| cx.vector(id)));
    for r in 0..cx.n_rows {
        for (i, (y, x)) in cx.output(r).iter_mut().zip(cx.input(0, r)).enumerate() {
            let x = x + bias.map_or(0.0, |b| b[i]);
            let s = if x > 20.0 { x } else { x.exp().ln_1p() };
            *y = s * factor.map_or(1.0, |a| a[i]);
        }
    }
}
