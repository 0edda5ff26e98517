//! `l2_norm`.

use segno_ir::DeviceError;

use super::Run;
use crate::context::Cx;

pub(super) struct L2Norm {
    pub group: usize,
    pub eps: f32,
}

impl Run for L2Norm {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.by_rows(2, |r| {
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..cx.out.features) };
            for (x, y) in cx.input(0, r).chunks_exact(self.group).zip(y.chunks_exact_mut(self.group)) {
                let inverse = 1.0 / ((cx.kernels.sum_squares)(x) + self.eps).sqrt();
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * inverse);
            }
        });
        Ok(())
    }
}
