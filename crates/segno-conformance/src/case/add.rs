//! Cases of `add`: two values, and a value and one number for each group of its features.
//!
//! Bound: one rounding, `U |a + b|`.

use segno_ir::op::Add;

use super::{Cases, Setup, each_elementwise, each_grouped, elementwise};
use crate::bound::{TINY, U};

pub(super) fn cases(out: &mut Cases) {
    each_elementwise(out, "", |out, params, n, batch, values| {
        out.add("F32", params, move |rng| {
            let setup = Setup::new(rng, &[n, n], &batch).values(values);
            setup.finish(|_, _| Ok(Add.into()), |trial, _| elementwise(trial, |at, _| (at[0] + at[1]).abs() * U + TINY))
        });
    });
    each_grouped(out, Add, |a, b| (a + b).abs() * U + TINY);
}
