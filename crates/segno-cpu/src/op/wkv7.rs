//! `wkv7`: see [`scan`](super::scan).

use segno_ir::{DeviceError, op};

use super::scan::Scan;
use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::ScanToken;

pub(super) struct Wkv7(Scan);

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Wkv7) -> Result<Wkv7, DeviceError> {
    Ok(Wkv7(Scan { offset: setup.slot_offset(op.state)?, heads: op.n_head, d_v: op.d, d_k: op.d }))
}

impl Run for Wkv7 {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let d = self.0.d_k;
        self.0.run(cx, |t| {
            let part = |i: usize| &cx.input(i, t.r)[t.head * d..][..d];
            let decay = &mut t.scratch[..d];
            (cx.kernels.exp_all)(part(3), decay);
            let token = ScanToken {
                decay,
                k: part(1),
                r: part(0),
                v: &cx.input(2, t.r)[t.columns],
                factor: 1.0,
                change: Some((part(4), part(5))),
                bonus: None,
            };
            (cx.kernels.scan_rows)(&token, t.state, t.y);
        });
        Ok(())
    }
}
