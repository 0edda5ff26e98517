//! Cases of `select_rows`: all rows, the last, every other, none of a span.
//!
//! Bound: none, rows are moved.

use segno_ir::op::SelectRows;

use super::{Batch, Cases, Errors, Setup};
use crate::random::Values;

pub(super) fn cases(out: &mut Cases) {
    for (n, batch) in [
        (1, "p3?odd+d1@2"),
        (33, "p65?last+p3?none+d1@64"),
        (65, "p33?odd+p7?last+d1@1+d1"),
        (257, "p5?none+d1"),
        (1024, "p129?odd+p64?last+d1@200?none+d2@7?last"),
    ] {
        out.add("F32", format!("n={n},batch={batch}"), move |rng| {
            let setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(Values::Mixed);
            setup.finish(
                |_, _| Ok(SelectRows.into()),
                |trial, _| Errors { y: vec![0.0; trial.rows * trial.features], states: Vec::new() },
            )
        });
    }
}
