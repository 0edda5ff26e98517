//! `linear`: float weights with f32 activations, block weights with activations rounded to 8 bits.
//!
//! Each thread takes a range of outputs. Few rows: weights are read once, straight from the file's
//! bytes. Many rows: outputs are interleaved into panels that stay in the cache while all rows pass.

use std::ops::Range;
use std::sync::Arc;

use segno_ir::{DeviceError, Node, WeightDecl, op};
use segno_quant::TensorType;

use super::{Run, Setup};
use crate::context::Cx;
use crate::simd::Kernels;
use crate::simd::block::{BlockKernels, PanelKernels, TALL, WIDE, WeightRows};
use crate::simd::float::{FloatRows, FloatType, Inputs, Outputs};
use crate::simd::quant::{QuantRow, Rounding};
use crate::weights::Matrix;

/// Bytes of weights, or of activations, that a thread works through at a time: both fit its cache.
const CACHE_BYTES: usize = 128 * 1024;

/// Rows from which on outputs are interleaved.
pub(super) const PANEL_ROWS: usize = 6;

/// Products that take about as long as to wake the other threads.
pub(super) const SMALL: usize = 65_536;

#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Stored as floats.
    Float(FloatType),
    /// Stored in blocks that have kernels.
    Block(BlockKernels),
    /// Stored in other blocks, or activations are to stay exact: decoded to f32 before use.
    Decoded,
}

impl Form {
    pub fn of(ty: TensorType, kernels: &Kernels, exact: bool) -> Form {
        match ty {
            TensorType::F32 => Form::Float(FloatType::F32),
            TensorType::F16 => Form::Float(FloatType::F16),
            TensorType::BF16 => Form::Float(FloatType::BF16),
            _ if exact => Form::Decoded,
            _ => (kernels.block)(ty).map_or(Form::Decoded, Form::Block),
        }
    }
}

/// How `linear` rounds its input beside weights of a type, if it does.
pub(crate) fn rounding(ty: TensorType, kernels: &Kernels, exact: bool) -> Option<Rounding> {
    match Form::of(ty, kernels, exact) {
        Form::Block(block) => Some(block.rounding),
        _ => None,
    }
}

/// Panels, or decoded rows, that are worked through at a time.
fn at_once(bytes: usize) -> usize {
    (CACHE_BYTES / bytes.max(1)).max(1)
}

/// Floats of scratch of a thread.
pub(crate) fn scratch_floats(decl: &WeightDecl, kernels: &Kernels, exact: bool) -> usize {
    let n = decl.row_len();
    match Form::of(decl.ty, kernels, exact) {
        Form::Block(BlockKernels { panel: Some(panel), .. }) => {
            let bytes = (panel.bytes)(n);
            (at_once(bytes) * bytes).div_ceil(4)
        }
        Form::Block(_) | Form::Float(_) => 0,
        Form::Decoded => at_once(4 * n) * n,
    }
}

pub(super) struct Linear {
    weight: Matrix,
    bias: Option<Arc<[f32]>>,
    form: Form,
    /// Whether this op rounds its input; if not, an op before it has.
    round: bool,
    /// Matrices, each with features of its own.
    groups: usize,
}

pub(super) fn prepare(setup: &mut Setup<'_>, op: &op::Linear, node: &Node) -> Result<Linear, DeviceError> {
    let weight = setup.matrix(op.weight)?;
    let form = Form::of(weight.ty, setup.kernels, setup.exact);
    let round = match form {
        Form::Block(block) => setup.round(block.rounding, node.inputs[0]),
        _ => false,
    };
    Ok(Linear { weight, bias: setup.optional(op.bias)?, form, round, groups: setup.decl(op.weight).n_groups() })
}

impl Linear {
    /// The group of features that an output reads.
    fn group(&self, o: usize) -> usize {
        o * self.groups / self.weight.n_out
    }

    fn bias(&self, o: usize) -> f32 {
        self.bias.as_ref().map_or(0.0, |b| b[o])
    }

    fn add_bias(&self, cx: &Cx<'_>, outs: Range<usize>) {
        if let Some(bias) = &self.bias {
            for r in 0..cx.n_rows {
                // SAFETY: these outputs are this thread's.
                let y = unsafe { cx.output(r, outs.clone()) };
                y.iter_mut().zip(&bias[outs.clone()]).for_each(|(y, b)| *y += b);
            }
        }
    }

    /// Products of all rows with float weights `w` of the outputs from `first` on.
    fn float_rows(&self, cx: &Cx<'_>, w: &FloatRows<'_>, first: usize) {
        let stride = cx.inputs[0].stride;
        let rows = at_once(4 * w.n).next_multiple_of(4);
        for from in (0..cx.n_rows).step_by(rows) {
            if cx.cancelled() {
                return;
            }
            let to = (from + rows).min(cx.n_rows);
            let x = &cx.input_rows(0, from, to)[self.group(first) * w.n..];
            let x = Inputs { x, stride, rows: to - from };
            let y =
                Outputs { y: cx.arena, offset: cx.out.offset + from * cx.out.stride + first, stride: cx.out.stride };
            (cx.kernels.products)(w, &x, &y);
        }
    }

    fn float(&self, cx: &Cx<'_>, ty: FloatType, outs: Range<usize>) {
        let m = &self.weight;
        let all = FloatRows { ty, bytes: m.bytes(), stride: m.row_bytes, rows: m.n_out, n: m.n_in };
        let wide = at_once(m.row_bytes).next_multiple_of(12);
        for from in outs.clone().step_by(wide) {
            self.float_rows(cx, &all.part(from, (from + wide).min(outs.end)), from);
        }
        self.add_bias(cx, outs);
    }

    fn decoded(&self, cx: &Cx<'_>, outs: Range<usize>, scratch: &mut [f32]) {
        let (m, n) = (&self.weight, self.weight.n_in);
        let wide = at_once(4 * n);
        for from in outs.clone().step_by(wide) {
            let to = (from + wide).min(outs.end);
            for (o, row) in (from..to).zip(scratch.chunks_exact_mut(n)) {
                if segno_quant::decode_row(m.ty, m.row(o), row).is_err() {
                    // Sizes were checked when the matrix was found; wrong numbers must not look right.
                    row.fill(f32::NAN);
                }
            }
            let bytes: &[u8] = bytemuck::cast_slice(&scratch[..(to - from) * n]);
            self.float_rows(cx, &FloatRows { ty: FloatType::F32, bytes, stride: 4 * n, rows: to - from, n }, from);
        }
        self.add_bias(cx, outs);
    }

    fn rows_of(&self, from: usize, to: usize) -> WeightRows<'_> {
        let stride = self.weight.row_bytes;
        WeightRows { bytes: &self.weight.bytes()[from * stride..to * stride], stride, n: to - from }
    }

    /// What the outputs of a group read of a row.
    fn rounded<'a>(&self, cx: &Cx<'a>, rounding: Rounding, r: usize, group: usize) -> QuantRow<'a> {
        // SAFETY: rounded before the products began.
        unsafe { cx.rounded[rounding.index()].get(r * self.groups + group, self.weight.n_in) }
    }

    /// Eight outputs of a row.
    fn put(&self, cx: &Cx<'_>, r: usize, outs: Range<usize>, products: &[f32; WIDE]) {
        // SAFETY: these outputs are this thread's.
        let y = unsafe { cx.output(r, outs.clone()) };
        for ((y, o), product) in y.iter_mut().zip(outs).zip(products) {
            *y = product + self.bias(o);
        }
    }

    fn dots(&self, cx: &Cx<'_>, block: &BlockKernels, outs: Range<usize>) {
        let mut y = [0.0; WIDE];
        for from in outs.clone().step_by(WIDE) {
            let to = (from + WIDE).min(outs.end);
            let w = self.rows_of(from, to);
            for r in 0..cx.n_rows {
                (block.dot)(&w, self.rounded(cx, block.rounding, r, self.group(from)), &mut y);
                self.put(cx, r, from..to, &y);
            }
        }
    }

    fn panels(&self, cx: &Cx<'_>, block: &BlockKernels, panel: &PanelKernels, outs: Range<usize>, scratch: &mut [f32]) {
        let bytes = (panel.bytes)(self.weight.n_in);
        let scratch: &mut [u8] = bytemuck::cast_slice_mut(scratch);
        let wide = at_once(bytes) * WIDE;
        let mut y = [[0.0; WIDE]; TALL];
        for first in outs.clone().step_by(wide) {
            let group = first..(first + wide).min(outs.end);
            for (from, packed) in group.clone().step_by(WIDE).zip(scratch.chunks_exact_mut(bytes)) {
                (panel.pack)(&self.rows_of(from, (from + WIDE).min(group.end)), packed);
            }
            for r in (0..cx.n_rows).step_by(TALL) {
                if cx.cancelled() {
                    return;
                }
                let n = TALL.min(cx.n_rows - r);
                let x: [QuantRow<'_>; TALL] =
                    std::array::from_fn(|i| self.rounded(cx, block.rounding, r + i.min(n - 1), self.group(first)));
                for (from, packed) in group.clone().step_by(WIDE).zip(scratch.chunks_exact(bytes)) {
                    (panel.product)(packed, &x[..n], &mut y);
                    for (i, y) in y[..n].iter().enumerate() {
                        self.put(cx, r + i, from..(from + WIDE).min(group.end), y);
                    }
                }
            }
        }
    }
}

/// Rounds every row of the first input.
pub(super) fn quantize_rows(cx: &Cx<'_>, rounding: Rounding) {
    let n = cx.inputs[0].features;
    let quantize = match rounding {
        Rounding::Groups32 => cx.kernels.quantize_32,
        Rounding::Groups256 => cx.kernels.quantize_256,
    };
    let most = if cx.n_rows * n < 16_384 { 1 } else { usize::MAX };
    cx.threads.split(cx.n_rows, 1, most, &|_, rows| {
        for r in rows {
            // SAFETY: each row is one thread's.
            quantize(cx.input(0, r), unsafe { cx.rounded[rounding.index()].get_mut(r, n) });
        }
    });
}

impl Run for Linear {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let (n_in, n_out) = (self.weight.n_in, self.weight.n_out);
        if let (Form::Block(block), true) = (&self.form, self.round) {
            quantize_rows(cx, block.rounding);
        }
        if cx.n_rows == 0 {
            return Ok(());
        }
        let most = if cx.n_rows * n_in * n_out < SMALL { 1 } else { usize::MAX };
        cx.threads.split(n_out, WIDE, most, &|thread, outs| {
            // SAFETY: the scratch of this thread.
            let scratch = unsafe { cx.scratch(thread) };
            let size = n_out / self.groups;
            for group in outs.start / size..outs.end.div_ceil(size) {
                let outs = outs.start.max(group * size)..outs.end.min((group + 1) * size);
                match &self.form {
                    Form::Float(ty) => self.float(cx, *ty, outs),
                    Form::Decoded => self.decoded(cx, outs, scratch),
                    Form::Block(block) => match &block.panel {
                        Some(panel) if cx.n_rows >= PANEL_ROWS => self.panels(cx, block, panel, outs, scratch),
                        _ => self.dots(cx, block, outs),
                    },
                }
            }
        });
        Ok(())
    }
}
