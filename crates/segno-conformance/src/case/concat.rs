//! Cases of `concat`: one group and several, inputs of different and odd widths.
//!
//! Bound: none, features are moved.

use segno_ir::op::Concat;

use super::{Batch, Cases, Errors, Setup};
use crate::random::Values;

pub(super) fn cases(out: &mut Cases) {
    for (widths, count, batch) in [
        (&[1, 1][..], 1, "p3+d1@2"),
        (&[63, 2], 1, "p33?odd+d1"),
        (&[512, 64], 1, "p65+d1@65"),
        (&[4 * 128, 4 * 64], 4, "p5+d1@1+d1"),
        (&[3 * 5, 3, 3 * 7], 3, "p7+d1@64"),
        (&[33], 3, "p3+d2@7"),
        (&[257, 1, 31, 64, 2], 1, "p9+d1@9"),
    ] {
        out.add("F32", format!("widths={widths:?},count={count},batch={batch}"), move |rng| {
            let setup = Setup::new(rng, widths, &Batch::parse(batch)).values(Values::Mixed);
            setup.finish(
                move |_, _| Ok(Concat { count }.into()),
                |trial, _| Errors { y: vec![0.0; trial.rows * trial.features], states: Vec::new() },
            )
        });
    }
}
