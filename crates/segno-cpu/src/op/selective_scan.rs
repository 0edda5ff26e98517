//! `selective_scan`: the channels are the rows of one head's state, each with decays of its own; see
//! [`scan`](super::scan).

use std::sync::Arc;

use segno_ir::{DeviceError, WeightDecl, op};

use super::scan::Scan;
use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::ScanToken;

pub(super) struct SelectiveScan {
    a: Arc<[f32]>,
    d: Arc<[f32]>,
    scan: Scan,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::SelectiveScan) -> Result<SelectiveScan, DeviceError> {
    let offset = setup.slot_offset(op.state)?;
    let scan = Scan { offset, heads: 1, d_v: WeightDecl::n_rows(setup.decl(op.a)), d_k: op.d_state };
    Ok(SelectiveScan { a: setup.vector(op.a)?, d: setup.vector(op.d)?, scan })
}

impl Run for SelectiveScan {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let n = self.scan.d_k;
        self.scan.run(cx, |t| {
            let (k, r) = (cx.input(2, t.r), cx.input(3, t.r));
            let (log, decay) = t.scratch[..2 * n].split_at_mut(n);
            for ((channel, state), y) in t.columns.zip(t.state.chunks_exact_mut(n)).zip(t.y) {
                let (x, dt) = (cx.input(0, t.r)[channel], cx.input(1, t.r)[channel]);
                log.iter_mut().zip(&self.a[channel * n..]).for_each(|(l, a)| *l = dt * a);
                (cx.kernels.exp_all)(log, decay);
                let token = ScanToken { decay, k, r, v: &[x], factor: dt, change: None, bonus: None };
                (cx.kernels.scan_rows)(&token, state, std::slice::from_mut(y));
                *y += self.d[channel] * x;
            }
        });
        Ok(())
    }
}
