//! Cases of `mul`: a value and another or a weight, of the same size or with one number for each group of features.
//!
//! Bound: one rounding, `U |a b|`; a weight of a block type also has its decoding's.

use segno_ir::op::Mul;
use segno_ir::{Builder, WeightId};
use segno_quant::TensorType;

use super::{Batch, Cases, Setup, each_elementwise, each_grouped, elementwise};
use crate::bound::{TINY, U};
use crate::random::Values;

fn weighted(out: &mut Cases, ty: TensorType, params: String, [n, groups]: [usize; 2], batch: Batch, values: Values) {
    out.add(ty.name(), params, move |rng| {
        let mut setup = Setup::new(rng, &[n], &batch).values(values);
        setup.weight("w", ty, &[groups], 1.0);
        let declare = move |b: &mut Builder<'_>, _| Ok(Mul { weight: Some(b.weight("w", &[groups])?) }.into());
        setup.finish(declare, move |trial, _| {
            let (w, decode) = (trial.weight(WeightId(0)), trial.decode_errors(WeightId(0)));
            let at = |i: usize| i / (n / groups);
            elementwise(trial, |a, i| a[0].abs() * (w[at(i)].abs() * U + decode[at(i)]) + TINY)
        })
    });
}

pub(super) fn cases(out: &mut Cases) {
    each_elementwise(out, "", |out, params, n, batch, values| {
        out.add("F32", params, move |rng| {
            let setup = Setup::new(rng, &[n, n], &batch).values(values);
            setup.finish(
                |_, _| Ok(Mul { weight: None }.into()),
                |trial, _| elementwise(trial, |at, _| (at[0] * at[1]).abs() * U + TINY),
            )
        });
    });
    each_grouped(out, Mul { weight: None }, |a, b| (a * b).abs() * U + TINY);
    each_elementwise(out, "weight", |out, params, n, batch, values| {
        weighted(out, TensorType::F32, params, [n, n], batch, values);
    });
    for (n, groups) in [(65, 1), (96, 3), (1024, 16)] {
        let params = format!("weight,groups={groups},n={n}");
        weighted(out, TensorType::F32, params, [n, groups], Batch::parse("p33?odd+d1@7+d1"), Values::Mixed);
    }
    for ty in [TensorType::F16, TensorType::BF16] {
        weighted(
            out,
            ty,
            "weight,n=33,x=normal,batch=p3+d1@2".into(),
            [33, 33],
            Batch::parse("p3+d1@2"),
            Values::Normal,
        );
    }
}
