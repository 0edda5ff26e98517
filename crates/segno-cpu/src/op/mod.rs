//! The ops, one file each where there is more to say than a formula.

pub(crate) mod activate;
pub(crate) mod attention;
pub(crate) mod delta_rule;
pub(crate) mod embed;
pub(crate) mod l2_norm;
pub(crate) mod linear;
pub(crate) mod mul;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod select_rows;
pub(crate) mod short_conv;
pub(crate) mod slice;
pub(crate) mod softplus;

use crate::program::Cx;

/// `y = f(x)` for every number.
pub(crate) fn unary(cx: &Cx<'_>, f: impl Fn(f32) -> f32 + Sync) {
    cx.threads.split(cx.n_rows, 1, &|rows| {
        for r in rows {
            cx.output(r).iter_mut().zip(cx.input(0, r)).for_each(|(y, x)| *y = f(*x));
        }
    });
}

/// `y = f(a, b)` for every pair.
pub(crate) fn elementwise(cx: &Cx<'_>, f: impl Fn(f32, f32) -> f32 + Sync) {
    cx.threads.split(cx.n_rows, 1, &|rows| {
        for r in rows {
            let pairs = cx.input(0, r).iter().zip(cx.input(1, r));
            cx.output(r).iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = f(*a, *b));
        }
    });
}
