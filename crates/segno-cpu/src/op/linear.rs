//! `linear`.

use segno_ir::DeviceError;
use segno_ir::op::Linear;

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>, op: &Linear) -> Result<(), DeviceError> {
    let decl = &cx.graph.weights[op.weight.0 as usize];
    let fail = |reason: String| DeviceError::Weight { name: decl.name.clone(), reason };
    let tensor = cx.source.tensor(&decl.name).ok_or_else(|| fail("is missing".into()))?;
    let n_in = decl.row_len();
    let bytes = tensor.ty.row_bytes(n_in).map_err(|e| fail(e.to_string()))?;
    let bias = op.bias.map(|id| cx.vector(id));
    let (offset, stride) = (cx.out.offset, cx.out.stride);
    cx.threads.split(decl.n_rows(), 1, &|outs| {
        let mut w = vec![0.0; n_in];
        for o in outs {
            // The row count was checked against the file; a short row gives zeros, never an over-read.
            let Some(row) = tensor.bytes.get(o * bytes..(o + 1) * bytes) else { continue };
            if segno_quant::decode_row(tensor.ty, row, &mut w).is_err() {
                continue;
            }
            for r in 0..cx.n_rows {
                let y = (cx.kernels.dot)(&w, cx.input(0, r)) + bias.map_or(0.0, |b| b[o]);
                // SAFETY: column `o` is this thread's.
                unsafe { cx.arena.get_mut(offset + r * stride + o, 1)[0] = y };
            }
        }
    });
    Ok(())
}
