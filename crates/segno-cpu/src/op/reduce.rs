//! `reduce`.

use segno_ir::op::reduce::Reduction;
use segno_ir::{DeviceError, op};

use super::Run;
use crate::context::Cx;

pub(super) struct Reduce {
    pub op: op::Reduce,
}

/// Numbers of a group that are centred at a time.
const BLOCK: usize = 256;

impl Run for Reduce {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let group = self.op.group;
        cx.by_rows(2 * group, |r| {
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..cx.out.features) };
            for (y, x) in y.iter_mut().zip(cx.input(0, r).chunks_exact(group)) {
                *y = match self.op.function {
                    Reduction::Sum => (cx.kernels.sum)(x),
                    Reduction::Norm => (cx.kernels.sum_squares)(x).sqrt(),
                    Reduction::Deviation => {
                        let mean = (cx.kernels.sum)(x) / group as f32;
                        let mut centred = [0.0; BLOCK];
                        let squares = x.chunks(BLOCK).map(|x| {
                            centred.iter_mut().zip(x).for_each(|(c, x)| *c = x - mean);
                            (cx.kernels.sum_squares)(&centred[..x.len()])
                        });
                        (squares.sum::<f32>() / group as f32).sqrt()
                    }
                };
            }
        });
        Ok(())
    }
}
