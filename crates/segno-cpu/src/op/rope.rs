//! `rope`: cosines and sines come from the host in f64, once a row for all layers that turn alike.

use segno_ir::op::rope::Pairing;
use segno_ir::{DeviceError, op};

use super::{Run, Setup};
use crate::context::{Cx, Row};
use crate::memory::Shared;
use crate::threads::Threads;

/// A rotation that some layers share.
pub(crate) struct Turns {
    op: op::Rope,
    frequencies: Vec<f64>,
    /// Of its tables in the memory for all: rows of cosines, then sines.
    offset: usize,
}

impl Turns {
    /// Floats of a row.
    pub fn row_floats(op: &op::Rope) -> usize {
        op.n_rot / 2 * 2
    }

    /// Floats of the tables of rotations of a graph.
    pub fn floats(graph: &segno_ir::Graph, max_rows: usize) -> usize {
        let mut seen: Vec<&op::Rope> = Vec::new();
        for node in &graph.nodes {
            if let segno_ir::Op::Rope(op) = &node.op
                && !seen.contains(&op)
            {
                seen.push(op);
            }
        }
        seen.iter().map(|op| Self::row_floats(op) * max_rows).sum()
    }

    /// Computes the tables of a step's rows.
    pub fn fill(&self, threads: &Threads, rows: &[Row], turns: Shared<'_, f32>) {
        let n = self.frequencies.len();
        // A sine of f64 takes tens of nanoseconds: worth other threads from some hundreds on.
        let most = if rows.len() * n < 512 { 1 } else { usize::MAX };
        threads.split(rows.len(), 1, most, &|_, range| {
            for r in range {
                // SAFETY: each row is one thread's.
                let (cos, sin) = unsafe { turns.get_mut(self.offset + r * 2 * n, 2 * n) }.split_at_mut(n);
                let table = self.op.table(&self.frequencies, rows[r].position);
                for ((cos, sin), (c, s)) in cos.iter_mut().zip(sin).zip(table) {
                    (*cos, *sin) = (c as f32, s as f32);
                }
            }
        });
    }
}

pub(super) struct Rope {
    head_dim: usize,
    half: usize,
    pairing: Pairing,
    offset: usize,
}

pub(super) fn prepare(setup: &mut Setup<'_>, op: &op::Rope) -> Result<Rope, DeviceError> {
    let offset = match setup.turns.iter().find(|t| t.op == *op) {
        Some(turns) => turns.offset,
        None => {
            let factors: Option<Vec<f64>> = setup.optional(op.factors)?.map(|f| f.iter().map(|&f| f.into()).collect());
            let frequencies = op.frequencies(factors.as_deref());
            let offset = setup.turns.iter().map(|t| Turns::row_floats(&t.op) * setup.limits.max_rows).sum();
            setup.turns.push(Turns { op: op.clone(), frequencies, offset });
            offset
        }
    };
    Ok(Rope { head_dim: op.head_dim, half: op.n_rot / 2, pairing: op.pairing, offset })
}

impl Run for Rope {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let n = self.half;
        cx.by_rows(2, |r| {
            // SAFETY: the tables were filled before the step's first op.
            let (cos, sin) = unsafe { cx.turns.get(self.offset + r * 2 * n, 2 * n) }.split_at(n);
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..cx.out.features) };
            let heads = cx.input(0, r).chunks_exact(self.head_dim).zip(y.chunks_exact_mut(self.head_dim));
            for (x, y) in heads {
                y[2 * n..].copy_from_slice(&x[2 * n..]);
                match self.pairing {
                    Pairing::Neox => {
                        let ((x0, x1), (y0, y1)) = (x[..2 * n].split_at(n), y[..2 * n].split_at_mut(n));
                        for i in 0..n {
                            y0[i] = x0[i] * cos[i] - x1[i] * sin[i];
                            y1[i] = x0[i] * sin[i] + x1[i] * cos[i];
                        }
                    }
                    Pairing::Norm => {
                        let pairs = x[..2 * n].chunks_exact(2).zip(y[..2 * n].chunks_exact_mut(2));
                        for ((x, y), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                            y[0] = x[0] * cos - x[1] * sin;
                            y[1] = x[0] * sin + x[1] * cos;
                        }
                    }
                }
            }
        });
        Ok(())
    }
}
