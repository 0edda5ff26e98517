//! Cases of `reduce`: each function, of whole rows and of heads.
//!
//! Bounds:
//!
//! - Sum: that of a sum, [`sum`] times the magnitudes.
//! - Norm: the squares have one sign, so theirs is off relatively by [`sum`], of which the root keeps half; the root
//!   itself adds 5 ulp (`1 / inverseSqrt`).
//! - Deviation: a mean that is off by `e` makes the mean of squares too large by `e^2`, so the result by at most `e`;
//!   each difference is rounded, and sum, quotient and root are as above.
//!
//! Squares below [`TINY`] may be lost: `sqrt(n TINY)`.

use segno_ir::op::Reduce;
use segno_ir::op::reduce::Reduction;

use super::{Batch, Cases, Errors, Setup};
use crate::bound::{TINY, U, ULP, sum};
use crate::random::Values;

fn error(function: Reduction, x: &[f64]) -> f64 {
    let n = x.len() as f64;
    let of_sum = sum(x.len()) * x.iter().map(|v| v.abs()).sum::<f64>() + TINY;
    let lost = (n * TINY).sqrt();
    match function {
        Reduction::Sum => of_sum,
        Reduction::Norm => x.iter().map(|v| v * v).sum::<f64>().sqrt() * (sum(x.len()) + 5.0 * ULP) + lost,
        Reduction::Deviation => {
            let mean = x.iter().sum::<f64>() / n;
            let off = of_sum / n + 2.5 * ULP * mean.abs();
            // The rounding of a difference: of its own size, after the mean's.
            let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt() + off;
            off + deviation * (2.0 * U + sum(x.len()) + 7.5 * ULP) + lost
        }
    }
}

pub(super) fn cases(out: &mut Cases) {
    for function in [Reduction::Sum, Reduction::Norm, Reduction::Deviation] {
        for (n, group, values, batch) in [
            (1, 1, Values::Normal, "d1+p3"),
            (3, 3, Values::Mixed, "p5+d1@4"),
            (99, 33, Values::Normal, "p65+d1@64"),
            (512, 64, Values::Sparse, "p7?odd+d1"),
            (1024, 1024, Values::Outlier, "p3+d1@3"),
            (771, 257, Values::Scaled(1e6), "d1+d1@1"),
            (2049, 2049, Values::Scaled(1e-6), "p2+d1"),
        ] {
            let params = format!("{function:?},n={n},group={group},x={values},batch={batch}");
            out.add("F32", params, move |rng| {
                let setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(values);
                setup.finish(
                    move |_, _| Ok(Reduce { function, group }.into()),
                    move |trial, _| {
                        let y = trial.inputs[0].chunks_exact(group).map(|x| error(function, x)).collect();
                        Errors { y, states: Vec::new() }
                    },
                )
            });
        }
    }
}
