//! `wkv6`: see [`scan`](super::scan).

use std::sync::Arc;

use segno_ir::{DeviceError, op};

use super::scan::Scan;
use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::ScanToken;

pub(super) struct Wkv6 {
    bonus: Option<Arc<[f32]>>,
    scan: Scan,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Wkv6) -> Result<Wkv6, DeviceError> {
    let scan = Scan { offset: setup.slot_offset(op.state)?, heads: op.n_head, d_v: op.d, d_k: op.d };
    Ok(Wkv6 { bonus: setup.optional(op.bonus)?, scan })
}

impl Run for Wkv6 {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let d = self.scan.d_k;
        self.scan.run(cx, |t| {
            let part = |i: usize| &cx.input(i, t.r)[t.head * d..][..d];
            let (r, k, decay) = (part(0), part(1), &mut t.scratch[..d]);
            let bonus = self.bonus.as_ref().map(|u| {
                let terms = r.iter().zip(&u[t.head * d..]).zip(k);
                terms.map(|((r, u), k)| r * u * k).sum::<f32>()
            });
            (cx.kernels.exp_all)(part(3), decay);
            let v = &cx.input(2, t.r)[t.columns];
            let token = ScanToken { decay, k, r, v, factor: 1.0, change: None, bonus };
            (cx.kernels.scan_rows)(&token, t.state, t.y);
        });
        Ok(())
    }
}
