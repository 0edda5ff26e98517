//! Cases of `embed`: tokens and given rows in one step.
//!
//! Bound: given rows are copied, exactly. A looked-up row is the decoded weight
//! ([`Trial::decode_errors`](super::Trial::decode_errors), 0 for float types) times the scale: one
//! rounding, none if the scale is 1.

use segno_ir::op::Embed;
use segno_ir::{Input, WeightId};
use segno_quant::TensorType;

use super::{Batch, Cases, Errors, Setup};
use crate::bound::{TINY, U};

pub(super) fn cases(out: &mut Cases) {
    for ty in TensorType::ALL.iter().copied() {
        let block = ty.block_len();
        for (n, vocabulary, scale, magnitude, batch) in [
            (if block == 1 { 33 } else { block }, 3, 1.0f32, 1.0, "p3+d1@2"),
            (if block == 1 { 100 } else { block * 3 }, 257, 1.0, 1.0, "p65?odd+d1+p7"),
            (256, 31, 16.0, 0.02, "d1+d1@9+p33"),
            (512, 5, 0.3, 100.0, "p5+d2"),
        ] {
            let params = format!("n={n},vocabulary={vocabulary},scale={scale},w={magnitude},batch={batch}");
            out.add(ty.name(), params, move |rng| {
                let mut setup = Setup::new(rng, &[], &Batch::parse(batch)).vocabulary(vocabulary);
                setup.weight("w", ty, &[n, vocabulary], magnitude);
                let declare = move |b: &mut segno_ir::Builder<'_>, _| {
                    let weight = Some(b.weight("w", &[n, vocabulary])?);
                    Ok(Embed { weight, features: n, scale }.into())
                };
                setup.finish(declare, move |trial, _| {
                    let (w, decode) = (trial.weight(WeightId(0)), trial.decode_errors(WeightId(0)));
                    let round = if scale == 1.0 { 0.0 } else { U };
                    let tiny = if scale == 1.0 && ty.block_len() == 1 { 0.0 } else { TINY };
                    let error = |i: usize| scale as f64 * (decode[i] + round * w[i].abs()) + tiny;
                    let row = |input: &Input| match *input {
                        Input::Token(id) => (0..n).map(|f| error(id as usize * n + f)).collect(),
                        _ => vec![0.0; n],
                    };
                    Errors { y: trial.given.iter().flat_map(row).collect(), states: Vec::new() }
                })
            });
        }
    }
}
