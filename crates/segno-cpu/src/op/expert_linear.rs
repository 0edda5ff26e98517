//! `expert_linear`: the products of `linear`, rows grouped by expert.
//!
//! Each thread takes a range of outputs and works through eight of them at a time, expert by expert. Any
//! grouping gives the same bits: a product depends on its row alone, and a weighted sum is added in the
//! router's order once all its products are there.

use std::ops::Range;
use std::sync::Arc;

use segno_ir::{DeviceError, Node, WeightDecl, op};

use super::linear::{Form, PANEL_ROWS, SMALL, quantize_rows};
use super::{Run, Setup};
use crate::context::Cx;
use crate::memory::Shared;
use crate::simd::Kernels;
use crate::simd::block::{BlockKernels, PanelKernels, TALL, WIDE, WeightRows};
use crate::simd::float::{FloatRows, FloatType, Inputs, Outputs};
use crate::simd::quant::QuantRow;
use crate::weights::Matrix;

pub(super) struct ExpertLinear {
    /// The experts' rows, one expert after the other.
    weight: Matrix,
    bias: Option<Arc<[f32]>>,
    /// On the products of each expert.
    factor: Option<Arc<[f32]>>,
    form: Form,
    /// Whether this op rounds its input; if not, an op before it has.
    round: bool,
    n_used: usize,
    n_out: usize,
    combine: bool,
    /// Floats of scratch before the products.
    panel: usize,
}

/// A product to be made: row times `n_used`, plus its place among the row's experts.
type Job = u32;

/// Floats of eight outputs, interleaved or decoded.
fn panel_floats(decl: &WeightDecl, kernels: &Kernels, exact: bool) -> usize {
    match Form::of(decl.ty, kernels, exact) {
        Form::Block(BlockKernels { panel: Some(panel), .. }) => (panel.bytes)(decl.row_len()).div_ceil(4),
        Form::Block(_) | Form::Float(_) => 0,
        Form::Decoded => WIDE * decl.row_len(),
    }
}

/// Floats of scratch of a thread, for steps of up to `rows` rows.
pub(super) fn scratch_floats(
    decl: &WeightDecl,
    op: &op::ExpertLinear,
    kernels: &Kernels,
    exact: bool,
    rows: usize,
) -> usize {
    panel_floats(decl, kernels, exact) + if op.combine { rows * op.n_used * WIDE } else { 0 }
}

pub(super) fn prepare(setup: &mut Setup<'_>, op: &op::ExpertLinear, node: &Node) -> Result<ExpertLinear, DeviceError> {
    let weight = setup.matrix(op.weight)?;
    let form = Form::of(weight.ty, setup.kernels, setup.exact);
    let round = match form {
        Form::Block(block) => setup.round(block.rounding, node.inputs[0]),
        _ => false,
    };
    let n_out = if op.combine { node.features } else { node.features / op.n_used };
    Ok(ExpertLinear {
        weight,
        bias: setup.optional(op.bias)?,
        factor: setup.optional(op.factor)?,
        form,
        round,
        n_used: op.n_used,
        n_out,
        combine: op.combine,
        panel: panel_floats(setup.decl(op.weight), setup.kernels, setup.exact),
    })
}

impl ExpertLinear {
    /// The jobs in order of their experts, and the jobs of each expert that has any.
    fn grouped(&self, cx: &Cx<'_>) -> (Vec<Job>, Vec<(usize, Range<usize>)>) {
        let (k, n_expert) = (self.n_used, self.weight.n_out / self.n_out);
        let expert = |job: Job| {
            let (r, s) = (job as usize / k, job as usize % k);
            (cx.input(1, r)[k + s] as usize).min(n_expert - 1)
        };
        let mut jobs: Vec<Job> = (0..(cx.n_rows * k) as Job).collect();
        jobs.sort_by_key(|&job| expert(job));
        let mut groups = Vec::new();
        let mut from = 0;
        for same in jobs.chunk_by(|&a, &b| expert(a) == expert(b)) {
            groups.push((expert(same[0]), from..from + same.len()));
            from += same.len();
        }
        (jobs, groups)
    }

    /// Which of the inputs, each of the weight's row length, a job reads.
    fn input_of(&self, cx: &Cx<'_>, job: Job) -> usize {
        if cx.inputs[0].features == self.weight.n_in { job as usize / self.n_used } else { job as usize }
    }

    fn rounded<'a>(&self, cx: &Cx<'a>, block: &BlockKernels, job: Job) -> QuantRow<'a> {
        // SAFETY: rounded before the products began.
        unsafe { cx.rounded[block.rounding.index()].get(self.input_of(cx, job), self.weight.n_in) }
    }

    /// Takes up to eight products of a job with outputs `outs` of an expert.
    fn put(&self, cx: &Cx<'_>, expert: usize, job: Job, outs: &Range<usize>, y: &[f32; WIDE], partial: &mut [f32]) {
        let (r, s) = (job as usize / self.n_used, job as usize % self.n_used);
        let to = match self.combine {
            true => &mut partial[job as usize * WIDE..][..outs.len()],
            // SAFETY: these outputs are this thread's.
            false => unsafe { cx.output(r, s * self.n_out + outs.start..s * self.n_out + outs.end) },
        };
        let factor = self.factor.as_ref().map_or(1.0, |f| f[expert]);
        for ((to, o), y) in to.iter_mut().zip(outs.clone()).zip(y) {
            *to = y * factor + self.bias.as_ref().map_or(0.0, |b| b[expert * self.n_out + o]);
        }
    }

    /// The products of an expert's jobs with up to eight outputs.
    fn products(
        &self,
        cx: &Cx<'_>,
        expert: usize,
        jobs: &[Job],
        outs: &Range<usize>,
        panel: &mut [f32],
        partial: &mut [f32],
    ) {
        let m = &self.weight;
        let (first, n) = (expert * self.n_out + outs.start, outs.len());
        let bytes = &m.bytes()[first * m.row_bytes..(first + n) * m.row_bytes];
        match &self.form {
            Form::Float(ty) => {
                let w = FloatRows { ty: *ty, bytes, stride: m.row_bytes, rows: n, n: m.n_in };
                self.floats(cx, expert, jobs, outs, &w, partial);
            }
            Form::Decoded => {
                for (row, to) in bytes.chunks_exact(m.row_bytes).zip(panel.chunks_exact_mut(m.n_in)) {
                    if segno_quant::decode_row(m.ty, row, to).is_err() {
                        // Sizes were checked when the matrix was found; wrong numbers must not look right.
                        to.fill(f32::NAN);
                    }
                }
                let bytes: &[u8] = bytemuck::cast_slice(&panel[..n * m.n_in]);
                let w = FloatRows { ty: FloatType::F32, bytes, stride: 4 * m.n_in, rows: n, n: m.n_in };
                self.floats(cx, expert, jobs, outs, &w, partial);
            }
            Form::Block(block) => {
                let w = WeightRows { bytes, stride: m.row_bytes, n };
                match &block.panel {
                    Some(kernels) if jobs.len() >= PANEL_ROWS => {
                        let packed: &mut [u8] = bytemuck::cast_slice_mut(panel);
                        let packed = &mut packed[..(kernels.bytes)(m.n_in)];
                        (kernels.pack)(&w, packed);
                        self.panels(cx, expert, jobs, outs, (block, kernels, packed), partial);
                    }
                    _ => {
                        let mut y = [0.0; WIDE];
                        for &job in jobs {
                            (block.dot)(&w, self.rounded(cx, block, job), &mut y);
                            self.put(cx, expert, job, outs, &y, partial);
                        }
                    }
                }
            }
        }
    }

    fn floats(
        &self,
        cx: &Cx<'_>,
        expert: usize,
        jobs: &[Job],
        outs: &Range<usize>,
        w: &FloatRows<'_>,
        partial: &mut [f32],
    ) {
        let (n, mut y) = (self.weight.n_in, [0.0; WIDE]);
        for &job in jobs {
            let (k, at) = (cx.inputs[0].features / n, self.input_of(cx, job));
            let x = Inputs { x: &cx.input(0, at / k)[at % k * n..][..n], stride: n, rows: 1 };
            (cx.kernels.products)(w, &x, &Outputs { y: Shared::new(&mut y), offset: 0, stride: WIDE });
            self.put(cx, expert, job, outs, &y, partial);
        }
    }

    fn panels(
        &self,
        cx: &Cx<'_>,
        expert: usize,
        jobs: &[Job],
        outs: &Range<usize>,
        (block, kernels, packed): (&BlockKernels, &PanelKernels, &[u8]),
        partial: &mut [f32],
    ) {
        let mut y = [[0.0; WIDE]; TALL];
        for jobs in jobs.chunks(TALL) {
            let x: [QuantRow<'_>; TALL] = std::array::from_fn(|i| self.rounded(cx, block, jobs[i.min(jobs.len() - 1)]));
            (kernels.product)(packed, &x[..jobs.len()], &mut y);
            for (&job, y) in jobs.iter().zip(&y) {
                self.put(cx, expert, job, outs, y, partial);
            }
        }
    }

    /// The weighted sums of up to eight outputs of every row, in the router's order.
    fn sum(&self, cx: &Cx<'_>, outs: &Range<usize>, partial: &[f32]) {
        for (r, products) in partial.chunks_exact(self.n_used * WIDE).take(cx.n_rows).enumerate() {
            // SAFETY: these outputs are this thread's.
            let y = unsafe { cx.output(r, outs.clone()) };
            y.fill(0.0);
            for (w, products) in cx.input(1, r).iter().zip(products.chunks_exact(WIDE)) {
                y.iter_mut().zip(products).for_each(|(y, product)| *y += w * product);
            }
        }
    }
}

impl Run for ExpertLinear {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        if let (Form::Block(block), true) = (&self.form, self.round) {
            quantize_rows(cx, block.rounding);
        }
        if cx.n_rows == 0 {
            return Ok(());
        }
        let (jobs, groups) = self.grouped(cx);
        let most = if jobs.len() * self.weight.n_in * self.n_out < SMALL { 1 } else { usize::MAX };
        cx.threads.split(self.n_out, WIDE, most, &|thread, outs| {
            // SAFETY: the scratch of this thread.
            let (panel, partial) = unsafe { cx.scratch(thread) }.split_at_mut(self.panel);
            for from in outs.clone().step_by(WIDE) {
                if cx.cancelled() {
                    return;
                }
                let outs = from..(from + WIDE).min(outs.end);
                for (expert, group) in &groups {
                    self.products(cx, *expert, &jobs[group.clone()], &outs, panel, partial);
                }
                if self.combine {
                    self.sum(cx, &outs, partial);
                }
            }
        });
        Ok(())
    }
}
