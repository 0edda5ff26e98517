//! `rms_norm`.

use segno_ir::op::RmsNorm;

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &RmsNorm) {
    let w = op.weight.map(|id| cx.vector(id));
    cx.threads.split(cx.n_rows, 1, &|rows| {
        for r in rows {
            let groups = cx.input(0, r).chunks_exact(op.group).zip(cx.output(r).chunks_exact_mut(op.group));
            for (g, (x, y)) in groups.enumerate() {
                let mean = (cx.kernels.dot)(x, x) / op.group as f32;
                let inverse = 1.0 / (mean + op.eps).sqrt();
                match w {
                    Some(w) => {
                        let w = if w.len() == op.group { w } else { &w[g * op.group..][..op.group] };
                        y.iter_mut().zip(x.iter().zip(w)).for_each(|(y, (x, w))| *y = x * inverse * w);
                    }
                    None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse),
                }
            }
        }
    });
}
