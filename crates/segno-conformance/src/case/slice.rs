//! Cases of `slice`: one run (a view) and several, at odd offsets and strides; one that repeats.
//!
//! Bound: none, features are moved.

use segno_ir::op::Slice;

use super::{Batch, Cases, Errors, Setup};
use crate::random::Values;

pub(super) fn cases(out: &mut Cases) {
    for (n, offset, width, stride, count, batch) in [
        (1, 0, 1, 1, 1, "p3+d1@2"),
        (65, 1, 63, 63, 1, "p33?odd+d1"),
        (257, 256, 1, 1, 1, "p7+d1@64"),
        (128, 64, 32, 64, 1, "p65+d1@65"),
        (100, 3, 7, 31, 3, "p5+d1@1"),
        (512, 64, 64, 128, 4, "p33+d1@1+d1"),
        (90, 0, 3, 3, 30, "p3+d1"),
        (1024, 128, 128, 256, 4, "p3+d2@7"),
        (63, 2, 5, 2, 20, "p3+d1@9"),
        (33, 4, 29, 0, 5, "p7+d1@3"),
    ] {
        let params = format!("n={n},offset={offset},width={width},stride={stride},count={count},batch={batch}");
        out.add("F32", params, move |rng| {
            let setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(Values::Mixed);
            setup.finish(
                move |_, _| Ok(Slice { offset, width, stride, count }.into()),
                |trial, _| Errors { y: vec![0.0; trial.rows * trial.features], states: Vec::new() },
            )
        });
    }
}
