//! `embed`.

use segno_ir::op::Embed;
use segno_ir::{DeviceError, Input};

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &Embed, tokens: &[Option<u32>]) -> Result<(), DeviceError> {
    let inputs = cx.step.spans.iter().flat_map(|s| &s.inputs);
    for (r, (input, token)) in inputs.zip(tokens).enumerate() {
        let y = cx.output(r);
        match (input, token, op.weight) {
            (Input::Row { values, .. }, _, _) if values.len() == y.len() => y.copy_from_slice(values),
            (_, Some(id), Some(weight)) => {
                let decl = &cx.graph.weights[weight.0 as usize];
                let fail = |reason: String| DeviceError::Weight { name: decl.name.clone(), reason };
                let tensor = cx.source.tensor(&decl.name).ok_or_else(|| fail("is missing".into()))?;
                let bytes = tensor.ty.row_bytes(y.len()).map_err(|e| fail(e.to_string()))?;
                let row = &tensor.bytes[*id as usize * bytes..][..bytes];
                segno_quant::decode_row(tensor.ty, row, y).map_err(|e| fail(e.to_string()))?;
                if op.scale != 1.0 {
                    y.iter_mut().for_each(|y| *y *= op.scale);
                }
            }
            _ => {
                return Err(DeviceError::Invalid(format!("row {r} does not fit an embedding of {} features", y.len())));
            }
        }
    }
    Ok(())
}
