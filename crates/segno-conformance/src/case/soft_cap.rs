//! Cases of `soft_cap`.
//!
//! Bound: the quotient is good to 2.5 ulp and comes through by the slope `1 - tanh^2`, the tangent to
//! [`tanh_abs`], absolutely; then a product: `cap (tanh_abs + (1 - tanh^2) 2.5 ulp |x / cap|) + U |y|`.

use segno_ir::op::SoftCap;

use super::{Cases, Setup, each_elementwise, elementwise};
use crate::bound::{TINY, U, ULP, tanh_abs};

pub(super) fn cases(out: &mut Cases) {
    for cap in [30.0f32, 1.0] {
        each_elementwise(out, &format!("cap={cap}"), |out, params, n, batch, values| {
            out.add("F32", params, move |rng| {
                let setup = Setup::new(rng, &[n], &batch).values(values);
                let rule = move |at: &[f64], _: usize| {
                    let cap = cap as f64;
                    let x = at[0] / cap;
                    let t = x.tanh();
                    cap * (tanh_abs(x) + (1.0 - t * t) * 2.5 * ULP * x.abs()) + U * (cap * t).abs() + TINY
                };
                setup.finish(move |_, _| Ok(SoftCap { cap }.into()), move |trial, _| elementwise(trial, rule))
            });
        });
    }
}
