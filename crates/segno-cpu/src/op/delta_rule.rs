//! `delta_rule`: see [`scan`](super::scan).

use segno_ir::op::delta_rule::Decay;
use segno_ir::{DeviceError, op};

use super::scan::Scan;
use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::float::DeltaToken;

pub(super) struct DeltaRule {
    op: op::DeltaRule,
    scan: Scan,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::DeltaRule) -> Result<DeltaRule, DeviceError> {
    let scan = Scan { offset: setup.slot_offset(op.state)?, heads: op.n_head_v, d_v: op.d_v, d_k: op.d_k };
    Ok(DeltaRule { op: op.clone(), scan })
}

impl Run for DeltaRule {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let d_k = self.op.d_k;
        let n_decay = if self.op.decay == Decay::Head { 1 } else { d_k };
        self.scan.run(cx, |t| {
            let decay = &mut t.scratch[..n_decay];
            (cx.kernels.exp_all)(&cx.input(3, t.r)[t.head * n_decay..][..n_decay], decay);
            let key = self.op.key_head(t.head) * d_k;
            let token = DeltaToken {
                decay,
                k: &cx.input(1, t.r)[key..][..d_k],
                q: &cx.input(0, t.r)[key..][..d_k],
                v: &cx.input(2, t.r)[t.columns],
                beta: cx.input(4, t.r)[t.head],
                scale: self.op.scale,
            };
            (cx.kernels.delta_rows)(&token, t.state, t.y);
        });
        Ok(())
    }
}
