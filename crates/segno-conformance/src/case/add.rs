//! Cases of `add`.
//!
//! Bound: one rounding, `U |a + b|`.

use segno_ir::op::Add;

use super::{Cases, Setup, each_elementwise, elementwise};
use crate::bound::{TINY, U};

pub(super) fn cases(out: &mut Cases) {
    each_elementwise(out, "", |out, params, n, batch, values| {
        out.add("F32", params, move |rng| {
            let setup = Setup::new(rng, &[n, n], &batch).values(values);
            setup.finish(|_, _| Ok(Add.into()), |trial, _| elementwise(trial, |at, _| (at[0] + at[1]).abs() * U + TINY))
        });
    });
}
