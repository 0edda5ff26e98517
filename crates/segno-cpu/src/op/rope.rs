//! `rope`.

use segno_ir::op::Rope;

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &Rope) {
    let factors: Option<Vec<f64>> = op.factors.map(|id| cx.vector(id).iter().map(|&f| f.into()).collect());
    let frequencies = op.frequencies(factors.as_deref());
    cx.threads.split(cx.n_rows, 1, &|rows| {
        for r in rows {
            let table: Vec<(f32, f32)> =
                op.table(&frequencies, cx.rows[r].position).map(|(c, s)| (c as f32, s as f32)).collect();
            let y = cx.output(r);
            y.copy_from_slice(cx.input(0, r));
            for head in y.chunks_exact_mut(op.head_dim) {
                for (i, &(cos, sin)) in table.iter().enumerate() {
                    let (a, b) = op.pair(i);
                    (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
                }
            }
        }
    });
}
