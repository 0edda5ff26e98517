//! `attention`: online softmax over pages, in position order, reading what the pages store.
//!
//! A task takes some rows and heads that read one key/value head, so that a page is loaded once for
//! all of them; each of them goes over the same blocks of 64 positions whatever the task is.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use segno_ir::op::attention::KvDims;
use segno_ir::{DeviceError, Graph, KvType, Node, op};

use super::{Run, Setup, unsupported};
use crate::context::Cx;
use crate::memory::Shared;
use crate::pool::Member;
use crate::simd::float::{FloatRows, FloatType, Inputs, Outputs, PAGE, Weighted};
use crate::simd::{Kernels, Softmax};

/// Most queries of a task, rows times heads.
const QUERIES: usize = 128;
/// So many are worth a task of their own where threads lack work.
const FEW_QUERIES: usize = 32;
/// Floats that a task's queries, weights and sums may take: the more queries, the seldomer a page comes from memory, but
/// they must stay in a core's cache.
const TASK_FLOATS: usize = 80 << 10;

pub(super) struct Attention {
    member: Member,
    op: op::Attention,
    sinks: Option<Arc<[f32]>>,
    appends: bool,
}

/// Most queries of a task where heads have these dimensions.
fn most_queries(dims: &KvDims) -> usize {
    (TASK_FLOATS / (dims.d_k + PAGE + dims.d_v)).clamp(FEW_QUERIES, QUERIES)
}

/// Floats of scratch of a thread: queries, weights and sums of a task, and a page's keys and values, decoded.
pub(super) fn scratch_floats(graph: &Graph, op: &op::Attention) -> usize {
    let dims = graph.states.get(op.state.0 as usize).and_then(KvDims::of);
    dims.map_or(0, |dims| most_queries(&dims) * (dims.d_k + PAGE + dims.d_v) + PAGE * (dims.d_k + dims.d_v))
}

pub(super) fn prepare(setup: &Setup<'_>, op: &op::Attention, node: &Node) -> Result<Attention, DeviceError> {
    let member = Member::of(setup.plan, op.state);
    let member = member.ok_or_else(|| unsupported(node, "the pool has no pages for its state"))?;
    if KvDims::of(&setup.graph.states[op.state.0 as usize]) != Some(member.dims) {
        return Err(unsupported(node, "the pool was planned for another graph"));
    }
    Ok(Attention { member, op: op.clone(), sinks: setup.optional(op.sinks)?, appends: node.inputs.len() > 1 })
}

/// Some rows of a span and some heads of one key/value head.
#[derive(Clone, Copy)]
struct Task {
    /// First token row.
    row: usize,
    rows: usize,
    /// First query head.
    head: usize,
    heads: usize,
}

/// The scratch memory of a task.
struct Scratch<'a> {
    q: &'a mut [f32],
    weights: &'a mut [[f32; PAGE]],
    y: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl Attention {
    /// Byte offset of the page that holds a position of a row's sequence.
    fn page(&self, cx: &Cx<'_>, row: usize, position: usize) -> usize {
        let table = &cx.step.spans[cx.rows[row].span].tables[self.member.group];
        table.pages[position / PAGE - table.first as usize].0 as usize * cx.groups[self.member.group].stride
    }

    /// Writes a row's keys and values to its page.
    fn append(&self, cx: &Cx<'_>, r: usize) {
        let m = &self.member;
        let position = cx.rows[r].position as usize;
        let (page, token) = (self.page(cx, r, position), position % PAGE);
        let bytes = cx.groups[m.group].bytes;
        store(cx.kernels, bytes, page + m.k_offset + token * m.k_bytes(), m.k_type, cx.input(1, r));
        if !m.dims.v_in_k {
            store(cx.kernels, bytes, page + m.v_offset + token * m.v_bytes(), m.v_type, cx.input(2, r));
        }
    }

    /// Stored keys (or values) of a key/value head in a page; blocks are decoded to `scratch`, of the tokens `seen`.
    fn stored<'a>(
        &self,
        cx: &Cx<'a>,
        page: usize,
        kv: usize,
        keys: bool,
        seen: (usize, usize),
        scratch: &'a mut [f32],
    ) -> FloatRows<'a> {
        let m = &self.member;
        let KvDims { d_k, d_v, v_in_k, .. } = m.dims;
        // Of each head: where its numbers begin, and how many of them are wanted.
        let (ty, offset, stride, head, n) = match keys || v_in_k {
            true => (m.k_type, m.k_offset, m.k_bytes(), d_k, if keys { d_k } else { d_v }),
            false => (m.v_type, m.v_offset, m.v_bytes(), d_v, d_v),
        };
        let skip = kv * ty.bytes(head);
        // SAFETY: all rows of the step were stored before; nobody writes pages now.
        let bytes = unsafe { cx.groups[m.group].bytes.get(page + offset + skip, stride * PAGE - skip) };
        let load = match ty {
            KvType::F32 => return FloatRows { ty: FloatType::F32, bytes, stride, rows: PAGE, n },
            KvType::F16 => return FloatRows { ty: FloatType::F16, bytes, stride, rows: PAGE, n },
            KvType::Q8_0 => cx.kernels.load_q8_0,
            KvType::Q4_0 => cx.kernels.load_q4_0,
        };
        for j in seen.0..seen.1 {
            load(&bytes[j * stride..][..ty.bytes(n)], &mut scratch[j * n..][..n]);
        }
        FloatRows { ty: FloatType::F32, bytes: bytemuck::cast_slice(scratch), stride: 4 * n, rows: PAGE, n }
    }

    fn task(&self, cx: &Cx<'_>, task: Task, scratch: Scratch<'_>) {
        let KvDims { n_head_kv, d_k, d_v, .. } = self.member.dims;
        let kv = task.head / (self.op.n_head / n_head_kv);
        let queries = task.rows * task.heads;
        let Scratch { q, weights, y, keys: k_scratch, values: v_scratch } = scratch;
        let (weights, y) = (&mut weights[..queries], &mut y[..queries * d_v]);
        let mut sums = [Softmax { max: f32::NEG_INFINITY, total: 0.0 }; QUERIES];
        for i in 0..queries {
            let (row, head) = (task.row + i / task.heads, task.head + i % task.heads);
            q[i * d_k..][..d_k].copy_from_slice(&cx.input(0, row)[head * d_k..][..d_k]);
            if let Some(sinks) = &self.sinks {
                sums[i] = Softmax { max: sinks[head], total: 1.0 };
            }
        }
        y.fill(0.0);
        let (low, high) = (cx.rows[task.row].position, cx.rows[task.row + task.rows - 1].position);
        for block in self.member.dims.first_seen(low) as usize / PAGE..=high as usize / PAGE {
            let page = self.page(cx, task.row, block * PAGE);
            let any = (self.seen(low, block).0, self.seen(high, block).1);
            let keys = self.stored(cx, page, kv, true, any, k_scratch);
            let v = self.stored(cx, page, kv, false, any, v_scratch);
            // Rows that see the same tokens of the page go together.
            let mut from = 0;
            while from < task.rows {
                let seen = self.seen(cx.rows[task.row + from].position, block);
                let alike = |r: &usize| self.seen(cx.rows[task.row + r].position, block) == seen;
                let to = from + 1 + (from + 1..task.rows).take_while(alike).count();
                if seen.0 < seen.1 {
                    let part = from * task.heads..to * task.heads;
                    let keys = keys.part(seen.0, seen.1);
                    let x = Inputs { x: &q[part.start * d_k..part.end * d_k], stride: d_k, rows: part.len() };
                    let products = Shared::new(weights[part.clone()].as_flattened_mut());
                    (cx.kernels.products)(&keys, &x, &Outputs { y: products, offset: seen.0, stride: PAGE });
                    let mut shrink = [0.0; QUERIES];
                    for i in part.clone() {
                        let softmax = cx.kernels.softmax_block;
                        let scale = self.op.scale_at(cx.rows[task.row + i / task.heads].position) as f32;
                        shrink[i] = softmax(&mut weights[i], seen, scale, self.op.soft_cap, &mut sums[i]);
                    }
                    let sum = Weighted { v, seen, weights: &weights[part.clone()], shrink: &shrink[part.clone()] };
                    (cx.kernels.weighted_sums)(&sum, &mut y[part.start * d_v..part.end * d_v]);
                }
                from = to;
            }
        }
        for (i, y) in y.chunks_exact(d_v).enumerate() {
            let (row, head) = (task.row + i / task.heads, task.head + i % task.heads);
            // SAFETY: this row and head are this task's.
            let out = unsafe { cx.output(row, head * d_v..(head + 1) * d_v) };
            out.iter_mut().zip(y).for_each(|(out, y)| *out = y / sums[i].total);
        }
    }

    /// Tokens of a block that a row at `position` sees: first, and one past the last.
    fn seen(&self, position: u32, block: usize) -> (usize, usize) {
        let within = |position: usize| position.saturating_sub(block * PAGE).min(PAGE);
        (within(self.member.dims.first_seen(position) as usize), within(position as usize + 1))
    }
}

fn store(kernels: &Kernels, bytes: Shared<'_, u8>, at: usize, ty: KvType, values: &[f32]) {
    // SAFETY: the step's page entries are distinct, and each row is stored by one thread.
    let to = unsafe { bytes.get_mut(at, ty.bytes(values.len())) };
    match ty {
        KvType::F32 => to.copy_from_slice(bytemuck::cast_slice(values)),
        // Entries start at even bytes of aligned memory, so the first form is always taken.
        KvType::F16 => match bytemuck::try_cast_slice_mut::<u8, f16>(to) {
            Ok(to) => to.convert_from_f32_slice(values),
            Err(_) => {
                let halves = to.as_chunks_mut().0.iter_mut().zip(values);
                halves.for_each(|(to, value)| *to = f16::from_f32(*value).to_le_bytes());
            }
        },
        KvType::Q8_0 => (kernels.store_q8_0)(values, to),
        KvType::Q4_0 => (kernels.store_q4_0)(values, to),
    }
}

impl Run for Attention {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        let KvDims { n_head_kv, d_k, d_v, .. } = self.member.dims;
        if self.appends {
            let most = if cx.n_rows * n_head_kv * (d_k + d_v) < 16_384 { 1 } else { usize::MAX };
            cx.threads.split(cx.n_rows, 1, most, &|_, rows| rows.for_each(|r| self.append(cx, r)));
        }
        // Few rows: heads are split so that every thread has a task.
        let per_kv = self.op.n_head / n_head_kv;
        let splits = cx.threads.n().div_ceil(cx.n_rows.max(1) * n_head_kv).min(per_kv);
        let queries = most_queries(&self.member.dims);
        let heads = per_kv.div_ceil(splits.max(1)).min(queries);
        let parts = n_head_kv * per_kv.div_ceil(heads);
        let rows = (cx.n_rows * parts).div_ceil(2 * cx.threads.n()).max(FEW_QUERIES / heads);
        let rows = rows.clamp(1, queries / heads);
        let mut tasks = Vec::new();
        for (span, start) in cx.spans() {
            for row in (0..span.inputs.len()).step_by(rows) {
                let n = rows.min(span.inputs.len() - row);
                for head in 0..n_head_kv {
                    for part in (0..per_kv).step_by(heads) {
                        let (head, heads) = (head * per_kv + part, heads.min(per_kv - part));
                        tasks.push(Task { row: start + row, rows: n, head, heads });
                    }
                }
            }
        }
        cx.threads.deal(tasks.len(), &|thread, i| {
            if cx.cancelled() {
                return;
            }
            // SAFETY: the scratch of this thread.
            let scratch = unsafe { cx.scratch(thread) };
            let (weights, scratch) = scratch.split_at_mut(queries * PAGE);
            let (q, scratch) = scratch.split_at_mut(queries * d_k);
            let (y, scratch) = scratch.split_at_mut(queries * d_v);
            let (keys, values) = scratch.split_at_mut(PAGE * d_k);
            self.task(cx, tasks[i], Scratch { q, weights: weights.as_chunks_mut().0, y, keys, values });
        });
        Ok(())
    }
}
