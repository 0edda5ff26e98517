//! Cases of `l2_norm`: the groups are heads.
//!
//! Bound: as of `rms_norm`, with the sum in the mean's place and no weight.

use segno_ir::op::L2Norm;

use super::rms_norm::norm_errors;
use super::{Batch, Cases, Setup};
use crate::random::Values;

pub(super) fn cases(out: &mut Cases) {
    for (n, group, eps, values, batch) in [
        (1, 1, 1e-6, Values::Normal, "d1+p3"),
        (3, 3, 1e-6, Values::Mixed, "p5+d1@4"),
        (99, 33, 1e-6, Values::Normal, "p65+d1@64"),
        (256, 128, 1e-6, Values::Normal, "p33+d1@1+d1"),
        (512, 64, 1e-6, Values::Sparse, "p7?odd+d1"),
        (1024, 256, 1e-6, Values::Outlier, "p3+d1@3"),
        (127, 127, 1e-6, Values::Scaled(1e6), "d1+d1@1"),
        (257, 257, 1e-6, Values::Scaled(1e-6), "p2+d1"),
        (48, 16, 1e-12, Values::Scaled(1e-9), "p3+d1"),
    ] {
        let params = format!("n={n},group={group},eps={eps:e},x={values},batch={batch}");
        out.add("F32", params, move |rng| {
            let setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(values);
            setup.finish(
                |_, _| Ok(L2Norm { group, eps }.into()),
                move |trial, _| norm_errors(trial, group, 1.0, eps, None),
            )
        });
    }
}
