//! `embed`: rows of the embedding, or rows given by the caller.

use segno_ir::{DeviceError, Input, op};

use super::{Run, Setup};
use crate::context::Cx;
use crate::weights::Matrix;

pub(super) struct Embed {
    weight: Option<Matrix>,
    features: usize,
    scale: f32,
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Embed) -> Result<Embed, DeviceError> {
    let weight = op.weight.map(|id| setup.matrix(id)).transpose()?;
    Ok(Embed { weight, features: op.features, scale: op.scale })
}

impl Run for Embed {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let inputs = cx.step.spans.iter().flat_map(|s| &s.inputs);
        for (r, (input, token)) in inputs.zip(cx.tokens).enumerate() {
            // SAFETY: this op runs on the calling thread alone.
            let y = unsafe { cx.output(r, 0..self.features) };
            match (input, token, &self.weight) {
                (Input::Row { values, .. }, ..) if values.len() == self.features => y.copy_from_slice(values),
                (Input::Row { values, .. }, ..) => {
                    let reason = format!("row {r} has {} values, expected {}", values.len(), self.features);
                    return Err(DeviceError::Invalid(reason));
                }
                (_, Some(id), Some(weight)) if (*id as usize) < weight.n_out => {
                    let row = weight.row(*id as usize);
                    segno_quant::decode_row(weight.ty, row, y).map_err(|e| DeviceError::Invalid(e.to_string()))?;
                    if self.scale != 1.0 {
                        y.iter_mut().for_each(|y| *y *= self.scale);
                    }
                }
                _ => return Err(DeviceError::Invalid(format!("row {r} is not a token of the vocabulary: {input:?}"))),
            }
        }
        Ok(())
    }
}
