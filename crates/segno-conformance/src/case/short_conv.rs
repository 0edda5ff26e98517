//! Cases of `short_conv`: kernels of 2 to 7 rows, spans shorter than the kernel, snapshots.
//!
//! Bound: a sum of `K` products and the bias, `(sum(K) + 2 U) (sum |w x| + |b|)`. SiLU `s sigmoid(s)` has
//! a slope of at most 1.1 and adds `|y|` ([`sigmoid_rel`] and a product). The state holds inputs as they
//! were, exactly.

use segno_ir::op::ShortConv;
use segno_ir::reference::RefState;
use segno_ir::{Builder, WeightId};
use segno_quant::TensorType;

use super::build::{declare_state, optional};
use super::{Batch, Cases, Errors, Setup, Trial};
use crate::bound::{TINY, U, sigmoid, sigmoid_rel, sum};
use crate::random::Values;

fn errors(trial: &Trial<'_>, kernel: usize, bias: bool, silu: bool) -> Errors {
    let Some(RefState::Recurrent(state)) = trial.state else { return Errors::default() };
    let (channels, tail, w) = (trial.features, kernel - 1, trial.weight(WeightId(0)));
    let mut y = Vec::with_capacity(trial.rows * channels);
    for t in 0..trial.rows {
        for c in 0..channels {
            let b = if bias { trial.weight(WeightId(1))[c] } else { 0.0 };
            let (mut total, mut magnitude) = (b, b.abs());
            for j in 0..kernel {
                let x = match t + j >= tail {
                    true => trial.inputs[0][(t + j - tail) * channels + c],
                    false => state[c * tail + t + j],
                };
                total += w[c * kernel + j] * x;
                magnitude += (w[c * kernel + j] * x).abs();
            }
            let mut error = (sum(kernel) + 2.0 * U) * magnitude + TINY * kernel as f64;
            if silu {
                error = 1.1 * error
                    + (total * sigmoid(total)).abs() * (sigmoid_rel(total) + U)
                    + TINY * (1.0 + total.abs());
            }
            y.push(error);
        }
    }
    Errors { y, states: Vec::new() }
}

pub(super) fn cases(out: &mut Cases) {
    for (ty, channels, kernel, bias, silu, copies, values, batch) in [
        (TensorType::F32, 1, 2, false, false, 1, Values::Normal, "p1+d1@1"),
        (TensorType::F32, 3, 4, true, true, 1, Values::Normal, "p2!1+d1@2+p3!1!2!3+d1"),
        (TensorType::F32, 33, 4, false, true, 1, Values::Normal, "p65!1!64!65?odd+d1@64+d2@3!1"),
        (TensorType::F32, 64, 3, true, false, 2, Values::Mixed, "p5+d1@70+p1"),
        (TensorType::F32, 127, 4, false, true, 2, Values::Outlier, "p33!2!32+d1@1+d1@2"),
        (TensorType::F32, 257, 4, true, true, 1, Values::Scaled(100.0), "p3+d1@4"),
        (TensorType::F32, 65, 7, false, false, 3, Values::Normal, "p4!1!3+p9!6+d1@9"),
        (TensorType::F32, 512, 4, false, true, 1, Values::Scaled(1e-6), "p7+d1@5+d1"),
        (TensorType::F32, 40, 4, false, true, 1, Values::Normal, "p5+d1@3"),
        (TensorType::F16, 48, 4, false, true, 1, Values::Normal, "p5+d1@3"),
        (TensorType::F32, 96, 4, false, true, 1, Values::Normal, "p257!64!100!128!192!256?last+d1@257"),
    ] {
        let (b, s) = (bias as u8, silu as u8);
        let params =
            format!("channels={channels},k={kernel},bias={b},silu={s},copies={copies},x={values},batch={batch}");
        out.add(ty.name(), params, move |rng| {
            let mut setup = Setup::new(rng, &[channels], &Batch::parse(batch)).values(values).copies(copies);
            if bias {
                setup.vector("b", &[channels], |rng, _| rng.normal());
            }
            // As files of Kimi-Linear have it.
            let shape = if channels == 40 { vec![kernel, 1, channels] } else { vec![kernel, channels] };
            setup.weight("w", ty, &shape, 0.5);
            let declare = move |b: &mut Builder<'_>, copy| {
                let state = declare_state(b, copy, &[channels, kernel - 1]);
                let weight = b.weight("w", &shape)?;
                Ok(ShortConv { state, weight, bias: optional(b, "b", &[channels])?, silu }.into())
            };
            setup.finish(declare, move |trial, _| errors(trial, kernel, bias, silu))
        });
    }
}
