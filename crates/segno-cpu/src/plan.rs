//! Where activations lie: planned once from the largest step, reused after their last reader.

use segno_ir::{Domain, Graph, Node, Op, ProgramLimits};

use crate::memory::LINE;

/// A value in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Of row 0, in floats.
    pub offset: usize,
    /// From row to row, in floats.
    pub stride: usize,
    /// Floats of a row that belong to the value.
    pub features: usize,
    /// Distance to the copy that every second step uses; 0 for all but outputs, which outlive their step.
    pub flip: usize,
}

impl View {
    /// The view that step number `step` uses.
    pub fn at_step(self, step: u64) -> View {
        View { offset: self.offset + if step % 2 == 1 { self.flip } else { 0 }, ..self }
    }
}

/// A piece of the arena that one value owns, views of it included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocation {
    /// The node that writes it.
    pub node: usize,
    /// The last node that reads it.
    pub last: usize,
    /// Of its floats.
    pub offset: usize,
    /// Its floats, for one step.
    pub len: usize,
    /// See [`View::flip`].
    pub flip: usize,
}

/// The plan of an arena.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Of each node's value.
    pub views: Vec<View>,
    /// All pieces, in node order.
    pub allocations: Vec<Allocation>,
    /// Floats in all.
    pub floats: usize,
    /// Floats of the band before and after each piece; 0 if the program is not guarded.
    pub band: usize,
}

/// The value whose memory a value lies in: a slice of one run is a view of its input.
pub(crate) fn root(graph: &Graph, mut value: usize) -> usize {
    while let Op::Slice(slice) = &graph.nodes[value].op
        && slice.count == 1
    {
        value = graph.nodes[value].inputs[0].0 as usize;
    }
    value
}

impl Arena {
    /// Plans the values of `graph` for steps up to `limits`.
    pub fn new(graph: &Graph, limits: &ProgramLimits) -> Arena {
        let n = graph.nodes.len();
        let band = if limits.guard { LINE } else { 0 };
        let mut last = vec![0; n];
        for (i, &end) in graph.last_use().iter().enumerate() {
            let owner = root(graph, i);
            last[owner] = last[owner].max(end);
        }
        let mut arena = Arena { views: Vec::with_capacity(n), allocations: Vec::new(), floats: 0, band };
        let floats = |node: &Node| {
            let rows = if node.domain == Domain::Token { limits.max_rows } else { limits.max_outputs };
            (rows * node.features).next_multiple_of(LINE)
        };
        // Outputs are read while later steps run, so nothing else ever uses their place.
        let mut reserved = vec![None; n];
        for (i, node) in graph.nodes.iter().enumerate().filter(|&(i, _)| last[i] == n) {
            reserved[i] = Some(arena.floats);
            arena.floats += 2 * (floats(node) + 2 * band);
        }
        // Pieces in use as (start, end, last reader), bands included, sorted by start.
        let mut live = vec![(0, arena.floats, n)];
        for (i, node) in graph.nodes.iter().enumerate() {
            if let (Op::Slice(slice), true) = (&node.op, root(graph, i) != i) {
                let of = arena.views[node.inputs[0].0 as usize];
                arena.views.push(View { offset: of.offset + slice.offset, features: node.features, ..of });
                continue;
            }
            let len = floats(node);
            let total = len + 2 * band;
            let (start, flip) = match reserved[i] {
                Some(start) => (start, total),
                None => {
                    live.retain(|&(_, _, end)| end >= i);
                    let mut start = 0;
                    for &(taken, end, _) in &live {
                        if start + total <= taken {
                            break;
                        }
                        start = start.max(end);
                    }
                    let at = live.partition_point(|&(taken, ..)| taken < start);
                    live.insert(at, (start, start + total, last[i]));
                    arena.floats = arena.floats.max(start + total);
                    (start, 0)
                }
            };
            arena.views.push(View { offset: start + band, stride: node.features, features: node.features, flip });
            arena.allocations.push(Allocation { node: i, last: last[i], offset: start + band, len, flip });
        }
        arena
    }
}
