//! `ssd`: see [`scan`](super::scan).

use std::sync::Arc;

use segno_ir::{DeviceError, op};

use super::scan::Scan;
use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::ScanToken;

pub(super) struct Ssd {
    op: op::Ssd,
    a: Arc<[f32]>,
    d: Arc<[f32]>,
    scan: Scan,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Ssd) -> Result<Ssd, DeviceError> {
    let scan = Scan { offset: setup.slot_offset(op.state)?, heads: op.n_head, d_v: op.d_v, d_k: op.d_k };
    Ok(Ssd { op: op.clone(), a: setup.vector(op.a)?, d: setup.vector(op.d)?, scan })
}

impl Run for Ssd {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let op::Ssd { n_head, n_group, d_k, .. } = self.op;
        self.scan.run(cx, |t| {
            let dt = cx.input(1, t.r)[t.head];
            let mut decay = [0.0];
            (cx.kernels.exp_all)(&[dt * self.a[t.head]], &mut decay);
            let key = t.head / (n_head / n_group) * d_k;
            let x = &cx.input(0, t.r)[t.columns];
            let token = ScanToken {
                decay: &decay,
                k: &cx.input(2, t.r)[key..][..d_k],
                r: &cx.input(3, t.r)[key..][..d_k],
                v: x,
                factor: dt,
                change: None,
                bonus: None,
            };
            (cx.kernels.scan_rows)(&token, t.state, t.y);
            t.y.iter_mut().zip(x).for_each(|(y, x)| *y += self.d[t.head] * x);
        });
        Ok(())
    }
}
