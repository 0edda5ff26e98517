//! `delta_rule`: a sequential scan, so that every cut is exact.

use segno_ir::op::DeltaRule;
use segno_ir::op::delta_rule::Decay;
use segno_ir::{SlotId, StateLayout};

use crate::program::{Cx, Shared};

pub(crate) fn run(cx: &Cx<'_>, op: &DeltaRule, slots: &mut [f32], layout: &StateLayout) {
    let DeltaRule { n_head_v, d_k, d_v, .. } = *op;
    let at = layout.offset_of(op.state).unwrap_or(0);
    let shared = Shared::new(slots);
    let place = |slot: SlotId| slot.0 as usize * layout.slot_floats + at;
    for (span, start) in cx.step.spans.iter().zip(cx.span_starts()) {
        // Rows of the state are independent: a unit is eight of them.
        cx.threads.split(n_head_v * d_v, 8, &|columns| {
            let n = columns.len() * d_k;
            // SAFETY: `from` is written by nobody; these rows of `to` and the snapshots are this thread's.
            let (from, state) = unsafe {
                (
                    shared.get(place(span.from) + columns.start * d_k, n),
                    shared.get_mut(place(span.to) + columns.start * d_k, n),
                )
            };
            state.copy_from_slice(from);
            let mut snapshots = span.snapshots.iter().peekable();
            let mut decay = vec![0.0; d_k];
            for t in 0..span.inputs.len() {
                let r = start + t;
                let (q, k, v) = (cx.input(0, r), cx.input(1, r), cx.input(2, r));
                let (g, beta) = (cx.input(3, r), cx.input(4, r));
                let mut head = usize::MAX;
                for (i, column) in columns.clone().enumerate() {
                    if column / d_v != head {
                        head = column / d_v;
                        match op.decay {
                            Decay::Head => decay[0] = g[head].exp(),
                            Decay::Channel => {
                                decay.iter_mut().zip(&g[head * d_k..][..d_k]).for_each(|(d, g)| *d = g.exp());
                            }
                        }
                    }
                    let decay = if op.decay == Decay::Head { &decay[..1] } else { &decay[..] };
                    let keys = op.key_head(head) * d_k;
                    let s = &mut state[i * d_k..][..d_k];
                    let read =
                        (cx.kernels.delta_row)(s, decay, &k[keys..][..d_k], &q[keys..][..d_k], v[column], beta[head]);
                    // SAFETY: this column is this thread's.
                    unsafe { cx.arena.get_mut(cx.out.offset + r * cx.out.stride + column, 1)[0] = read * op.scale };
                }
                if let Some((_, slot)) = snapshots.next_if(|(after, _)| *after as usize == t + 1) {
                    // SAFETY: a step's written slots are distinct; these rows are this thread's.
                    unsafe { shared.get_mut(place(*slot) + columns.start * d_k, n) }.copy_from_slice(state);
                }
            }
        });
    }
}
