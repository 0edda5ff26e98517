//! Cases of `mul`: two values, a value and one number a row, and a value and a weight.
//!
//! Bound: one rounding, `U |a b|`; a weight of a block type also has its decoding's.

use segno_ir::op::Mul;
use segno_ir::{Builder, WeightId};
use segno_quant::TensorType;

use super::{Batch, Cases, Errors, Setup, Trial, each_elementwise, elementwise};
use crate::bound::{TINY, U};
use crate::random::Values;

fn weighted(out: &mut Cases, ty: TensorType, params: String, n: usize, batch: Batch, values: Values) {
    out.add(ty.name(), params, move |rng| {
        let mut setup = Setup::new(rng, &[n], &batch).values(values);
        setup.weight("w", ty, &[n], 1.0);
        let declare = move |b: &mut Builder<'_>, _| Ok(Mul { weight: Some(b.weight("w", &[n])?) }.into());
        setup.finish(declare, |trial, _| {
            let (w, decode) = (trial.weight(WeightId(0)), trial.decode_errors(WeightId(0)));
            elementwise(trial, |at, i| at[0].abs() * (w[i].abs() * U + decode[i]) + TINY)
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
    for (n, batch) in [(1, "d1"), (65, "p33?odd+d1@7+d1"), (1024, "p3+d1@2")] {
        out.add("F32", format!("per row,n={n},batch={batch}"), move |rng| {
            let setup = Setup::new(rng, &[n, 1], &Batch::parse(batch));
            let rule = |trial: &Trial<'_>| {
                let rows = trial.inputs[0].chunks_exact(trial.features).zip(&trial.inputs[1]);
                let y = rows.flat_map(|(a, b)| a.iter().map(move |a| (a * b).abs() * U + TINY));
                Errors { y: y.collect(), states: Vec::new() }
            };
            setup.finish(|_, _| Ok(Mul { weight: None }.into()), move |trial, _| rule(trial))
        });
    }
    each_elementwise(out, "weight", |out, params, n, batch, values| {
        weighted(out, TensorType::F32, params, n, batch, values);
    });
    for ty in [TensorType::F16, TensorType::BF16] {
        weighted(out, ty, "weight,n=33,x=normal,batch=p3+d1@2".into(), 33, Batch::parse("p3+d1@2"), Values::Normal);
    }
}
