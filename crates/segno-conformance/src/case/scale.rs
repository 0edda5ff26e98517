//! Cases of `scale`.
//!
//! Bound: one rounding, `U |factor x|`.

use segno_ir::op::Scale;

use super::{Cases, Setup, each_elementwise, elementwise};
use crate::bound::{TINY, U};

pub(super) fn cases(out: &mut Cases) {
    for factor in [0.088_388_35f32, -3e5] {
        each_elementwise(out, &format!("factor={factor:e}"), |out, params, n, batch, values| {
            out.add("F32", params, move |rng| {
                let setup = Setup::new(rng, &[n], &batch).values(values);
                setup.finish(
                    move |_, _| Ok(Scale { factor }.into()),
                    move |trial, _| elementwise(trial, |at, _| (at[0] * factor as f64).abs() * U + TINY),
                )
            });
        });
    }
}
