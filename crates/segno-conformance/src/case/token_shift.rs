//! Cases of `token_shift`: spans of one row, snapshots.
//!
//! Bound: one rounding of the difference. The state holds a row as it was, exactly.

use segno_ir::Builder;
use segno_ir::op::TokenShift;
use segno_ir::reference::RefState;

use super::build::declare_state;
use super::{Batch, Cases, Errors, Setup};
use crate::bound::{TINY, U};
use crate::random::Values;

pub(super) fn cases(out: &mut Cases) {
    for (n, copies, values, batch) in [
        (1, 1, Values::Normal, "p1+d1@1"),
        (3, 2, Values::Mixed, "p3!1!2!3+d1@3+d2@9!1"),
        (65, 1, Values::Outlier, "p65!1!64!65?odd+d1@64"),
        (257, 3, Values::Scaled(1e4), "p7@61!3+d1+d1@5"),
        (1024, 1, Values::Normal, "p129!64!128?last+d1@128"),
    ] {
        let params = format!("n={n},copies={copies},x={values},batch={batch}");
        out.add("F32", params, move |rng| {
            let setup = Setup::new(rng, &[n], &Batch::parse(batch)).values(values).copies(copies);
            let declare =
                move |b: &mut Builder<'_>, copy| Ok(TokenShift { state: declare_state(b, copy, &[n]) }.into());
            setup.finish(declare, |trial, _| {
                let Some(RefState::Recurrent(state)) = trial.state else { return Errors::default() };
                let x = &trial.inputs[0];
                let before = state.iter().chain(x);
                Errors { y: before.zip(x).map(|(b, x)| (b - x).abs() * U + TINY).collect(), states: Vec::new() }
            })
        });
    }
}
