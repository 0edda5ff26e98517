//! `attention`: online softmax over pages at absolute multiples of 64, in position order.

use half::f16;
use half::slice::HalfFloatSliceExt;
use segno_ir::op::Attention;
use segno_ir::{KvType, PAGE_TOKENS};

use crate::pool::Member;
use crate::program::{Cx, Shared};

const PAGE: usize = PAGE_TOKENS as usize;

/// Byte view of a page group that threads read.
fn store(words: Shared<u32>, byte: usize, ty: KvType, values: &[f32]) {
    match ty {
        KvType::F32 => {
            // SAFETY: each row's place is written once a step, by one thread.
            let place: &mut [f32] = bytemuck::cast_slice_mut(unsafe { words.get_mut(byte / 4, values.len()) });
            place.copy_from_slice(values);
        }
        KvType::F16 => {
            // SAFETY: as above; rows are multiples of 4 bytes since head sizes are even.
            let place: &mut [f16] = bytemuck::cast_slice_mut(unsafe { words.get_mut(byte / 4, values.len() / 2) });
            place.convert_from_f32_slice(values);
        }
    }
}

/// `n` stored numbers, converted into `scratch` if they are not f32.
fn load(words: Shared<u32>, byte: usize, ty: KvType, n: usize, scratch: &mut [f32]) -> &[f32] {
    match ty {
        KvType::F32 => {
            // SAFETY: all rows of the step were stored before anyone reads.
            bytemuck::cast_slice(unsafe { words.get(byte / 4, n) })
        }
        KvType::F16 => {
            // SAFETY: as above.
            let halves: &[f16] = bytemuck::cast_slice(unsafe { words.get(byte / 4, n / 2) });
            halves.convert_to_f32_slice(&mut scratch[..n]);
            &scratch[..n]
        }
    }
}

pub(crate) fn run(cx: &Cx<'_>, op: &Attention, member: &Member, pages: &mut [u32]) {
    let dims = member.dims;
    let (n_kv, d_k, d_v) = (dims.n_head_kv, dims.d_k, dims.d_v);
    let words = Shared::new(pages);
    let place = |row: usize, position: usize| {
        let table = &cx.step.spans[cx.rows[row].span].tables[member.group];
        table.pages[position / PAGE - table.first as usize].0 as usize * member.page_bytes
    };
    if cx.inputs.len() == 3 {
        cx.threads.split(cx.n_rows, 1, &|rows| {
            for r in rows {
                let position = cx.rows[r].position as usize;
                let (page, token) = (place(r, position), position % PAGE);
                let width = |ty: KvType, d: usize| ty.bytes(n_kv * d);
                store(words, page + member.k_offset + token * width(member.k_type, d_k), member.k_type, cx.input(1, r));
                store(words, page + member.v_offset + token * width(member.v_type, d_v), member.v_type, cx.input(2, r));
            }
        });
    }
    let sinks = op.sinks.map(|id| cx.vector(id));
    let per_kv = op.n_head / n_kv;
    cx.threads.split(cx.n_rows * op.n_head, 1, &|tasks| {
        let mut scratch = vec![0.0; d_k.max(d_v)];
        let mut scores = [0f32; PAGE];
        let mut y = vec![0.0; d_v];
        for task in tasks {
            let (r, head) = (task / op.n_head, task % op.n_head);
            let kv = head / per_kv;
            let q = &cx.input(0, r)[head * d_k..][..d_k];
            let last = cx.rows[r].position as usize;
            let first = dims.first_seen(last as u32) as usize;
            let (mut max, mut total) = match sinks {
                Some(sinks) => (sinks[head], 1.0),
                None => (f32::NEG_INFINITY, 0.0),
            };
            y.fill(0.0);
            for block in first / PAGE..=last / PAGE {
                let page = place(r, block * PAGE);
                let (from, to) = (first.max(block * PAGE), last.min(block * PAGE + PAGE - 1));
                let seen = &mut scores[..to - from + 1];
                for (score, j) in seen.iter_mut().zip(from..) {
                    let byte = page + member.k_offset + member.k_type.bytes((j % PAGE * n_kv + kv) * d_k);
                    let z = (cx.kernels.dot)(q, load(words, byte, member.k_type, d_k, &mut scratch)) * op.scale;
                    *score = op.soft_cap.map_or(z, |cap| cap * (z / cap).tanh());
                }
                let high = seen.iter().copied().fold(max, f32::max);
                if high > max {
                    let shrink = (max - high).exp();
                    total *= shrink;
                    y.iter_mut().for_each(|y| *y *= shrink);
                    max = high;
                }
                for (score, j) in seen.iter().zip(from..) {
                    let weight = (score - max).exp();
                    total += weight;
                    let byte = page + member.v_offset + member.v_type.bytes((j % PAGE * n_kv + kv) * d_v);
                    (cx.kernels.axpy)(weight, load(words, byte, member.v_type, d_v, &mut scratch), &mut y);
                }
            }
            // SAFETY: this head of this row is this task's.
            let out = unsafe { cx.arena.get_mut(cx.out.offset + r * cx.out.stride + head * d_v, d_v) };
            out.iter_mut().zip(&y).for_each(|(o, y)| *o = y / total);
        }
    });
}
