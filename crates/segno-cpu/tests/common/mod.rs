//! Random weights, and sequences on a pool with scattered pages.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use segno_cpu::{CpuDevice, CpuOptions};
use segno_ir::{
    Builder, Device, DeviceError, Graph, GraphError, Input, KvType, Output, PAGE_TOKENS, PageId, PageTable, Pool,
    PoolPlan, Program, ProgramLimits, Rows, SlotId, Span, SpanKind, StateLayout, Step, Tensor, ValueId, WeightId,
    WeightSource,
};
use segno_quant::TensorType;

/// The same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    pub fn input(&mut self, n: usize) -> Input {
        Input::Row { values: (0..n).map(|_| self.float()).collect(), content: 0 }
    }

    pub fn inputs(&mut self, rows: usize, n: usize) -> Vec<Input> {
        (0..rows).map(|_| self.input(n)).collect()
    }

    /// A tensor's bytes; block types get any bits with scales that keep numbers below about 1.
    pub fn tensor(&mut self, ty: TensorType, n: usize) -> Vec<u8> {
        let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
        match ty {
            TensorType::F32 => (0..n).flat_map(|_| self.float().to_le_bytes()).collect(),
            TensorType::F16 => (0..n).flat_map(|_| half(self.float())).collect(),
            TensorType::BF16 => (0..n).flat_map(|_| half::bf16::from_f32(self.float()).to_le_bytes()).collect(),
            _ => {
                let mut bytes: Vec<u8> = (0..ty.row_bytes(n).unwrap()).map(|_| self.next() as u8).collect();
                let (scales, largest): (&[usize], f32) = match ty {
                    TensorType::Q6_K => (&[208], 128.0 * 32.0),
                    TensorType::Q4_K => (&[0, 2], 63.0 * 15.0),
                    TensorType::Q5_K => (&[0, 2], 63.0 * 31.0),
                    TensorType::Q2_K => (&[80, 82], 15.0 * 4.0),
                    TensorType::Q3_K => (&[108], 32.0 * 4.0),
                    TensorType::IQ4_XS => (&[0], 32.0 * 128.0),
                    TensorType::Q4_1 | TensorType::Q5_1 => (&[0, 2], 16.0),
                    TensorType::Q8_0 | TensorType::IQ4_NL => (&[0], 128.0),
                    _ => (&[0], 12.0),
                };
                for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                    for &at in scales {
                        block[at..at + 2].copy_from_slice(&half((0.5 + self.float().abs() / 2.0) / largest));
                    }
                }
                bytes
            }
        }
    }
}

/// Float types, block types with kernels, and some that are decoded.
pub const TYPES: [TensorType; 15] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::IQ4_NL,
    TensorType::IQ4_XS,
];

/// Tensors in memory.
#[derive(Default)]
pub struct Source(HashMap<String, (TensorType, Vec<u64>, Vec<u8>)>);

impl Source {
    pub fn add(&mut self, random: &mut Random, name: &str, ty: TensorType, shape: &[usize]) {
        let bytes = random.tensor(ty, shape.iter().product());
        self.0.insert(name.into(), (ty, shape.iter().map(|&n| n as u64).collect(), bytes));
    }

    /// F32 values `low..high`.
    pub fn add_between(&mut self, random: &mut Random, name: &str, shape: &[usize], low: f32, high: f32) {
        let n: usize = shape.iter().product();
        let value = |random: &mut Random| low + (high - low) * (random.float() + 1.0) / 2.0;
        let bytes = (0..n).flat_map(|_| value(random).to_le_bytes()).collect();
        self.0.insert(name.into(), (TensorType::F32, shape.iter().map(|&n| n as u64).collect(), bytes));
    }
}

impl WeightSource for Source {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.0.get(name).map(|(ty, shape, bytes)| Tensor { ty: *ty, shape, bytes })
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// A graph over a source: `embed`, what `body` adds, and `select_rows`.
pub fn graph(
    source: &Source,
    width: usize,
    body: impl FnOnce(&mut Builder<'_>, ValueId) -> Result<Vec<ValueId>, GraphError>,
) -> Graph {
    use segno_ir::op::{Embed, SelectRows};
    let mut b = Builder::new("test", source);
    let x = b.push(Embed { weight: None, features: width, scale: 1.0 }, &[]).unwrap();
    let ends = body(&mut b, x).unwrap();
    let taps: Vec<(Output, ValueId)> = ends
        .into_iter()
        .enumerate()
        .map(|(i, v)| (Output::Hidden(i as u32), b.push(SelectRows, &[v]).unwrap()))
        .collect();
    b.finish(&taps).unwrap()
}

pub fn weight(b: &mut Builder<'_>, name: &str, shape: &[usize]) -> WeightId {
    b.weight(name, shape).unwrap()
}

/// Rows of a step for one sequence.
#[derive(Clone)]
pub struct Piece<'a> {
    pub sequence: usize,
    pub inputs: &'a [Input],
    pub kind: SpanKind,
    /// `(rows, snapshot)`: which of the rig's snapshots to fill.
    pub snapshots: Vec<(u32, usize)>,
}

impl<'a> Piece<'a> {
    pub fn new(sequence: usize, inputs: &'a [Input]) -> Self {
        Piece { sequence, inputs, kind: SpanKind::Prefill, snapshots: Vec::new() }
    }
}

struct Sequence {
    slot: SlotId,
    /// All pages of each group, also those that left the window.
    pages: Vec<Vec<PageId>>,
    n: u32,
}

/// A program with some sequences. Every row's outputs are read.
pub struct Rig {
    pub program: Box<dyn Program>,
    pub pool: Arc<dyn Pool>,
    pub plan: PoolPlan,
    sequences: Vec<Sequence>,
    free_slots: Vec<SlotId>,
    free_pages: Vec<Vec<PageId>>,
    pub snapshots: Vec<SlotId>,
}

/// How a rig is made.
#[derive(Clone)]
pub struct Setting {
    pub threads: usize,
    pub portable: bool,
    pub exact: bool,
    pub kv: KvType,
    pub guard: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Setting { threads: 1, portable: false, exact: false, kv: KvType::F32, guard: true }
    }
}

impl Setting {
    pub fn device(&self) -> CpuDevice {
        CpuDevice::new(CpuOptions {
            threads: Some(self.threads),
            portable: self.portable,
            exact_activations: self.exact,
        })
    }
}

pub const SNAPSHOTS: usize = 3;

impl Rig {
    pub fn new(graph: &Graph, source: &Arc<Source>, n_sequences: usize, n_ctx: u32, setting: &Setting) -> Rig {
        let device = setting.device();
        let layout = StateLayout::new(graph, setting.kv, setting.kv);
        let per_sequence = n_ctx.div_ceil(PAGE_TOKENS) * n_sequences as u32 + 3;
        let plan = PoolPlan {
            slots: 1 + 2 * n_sequences as u32 + SNAPSHOTS as u32,
            pages: layout.groups.iter().map(|_| per_sequence).collect(),
            layout,
        };
        let limits = ProgramLimits {
            max_rows: n_ctx as usize * n_sequences,
            max_spans: n_sequences,
            max_outputs: n_ctx as usize * n_sequences,
            max_context: n_ctx,
            guard: setting.guard,
        };
        let weights = device.weights(source.clone(), graph).unwrap();
        let pool = device.pool(&plan).unwrap();
        let program = device.compile(graph, &weights, &pool, &limits).unwrap();
        // Nothing that was not written may matter: everything starts as NaN.
        for slot in 1..plan.slots {
            pool.write_slot(SlotId(slot), &vec![f32::NAN; plan.layout.slot_floats]).unwrap();
        }
        for (g, group) in plan.layout.groups.iter().enumerate() {
            for page in 0..plan.pages[g] {
                pool.write_page(g, PageId(page), &vec![0xff; group.page_bytes]).unwrap();
            }
        }
        let sequence = || Sequence { slot: SlotId::ZERO, pages: vec![Vec::new(); plan.pages.len()], n: 0 };
        Rig {
            program,
            sequences: (0..n_sequences).map(|_| sequence()).collect(),
            snapshots: (1..=SNAPSHOTS as u32).map(SlotId).collect(),
            free_slots: (1 + SNAPSHOTS as u32..plan.slots).map(SlotId).collect(),
            free_pages: plan.pages.iter().map(|&n| (0..n).map(PageId).rev().collect()).collect(),
            pool,
            plan,
        }
    }

    /// Starts a sequence again, from a snapshot of its state if there is one. Pages stay.
    pub fn rewind(&mut self, sequence: usize, n: u32, state: SlotId) {
        let s = &mut self.sequences[sequence];
        if !self.snapshots.contains(&s.slot) && s.slot != SlotId::ZERO {
            self.free_slots.push(s.slot);
        }
        (s.slot, s.n) = (state, n);
    }

    pub fn step(&mut self, pieces: &[Piece<'_>]) -> Step {
        let mut step = Step::default();
        for piece in pieces {
            let s = &mut self.sequences[piece.sequence];
            let end = s.n + piece.inputs.len() as u32;
            let mut tables = Vec::new();
            for (g, group) in self.plan.layout.groups.iter().enumerate() {
                while (s.pages[g].len() as u32 * PAGE_TOKENS) < end {
                    // Pages far apart and out of order.
                    let at = (s.pages[g].len() * 7 + piece.sequence) % self.free_pages[g].len();
                    let page = self.free_pages[g].swap_remove(at);
                    s.pages[g].push(page);
                }
                let first = group.window.map_or(0, |w| (s.n + 1).saturating_sub(w) / PAGE_TOKENS);
                tables.push(PageTable { first, pages: s.pages[g][first as usize..].to_vec() });
            }
            step.spans.push(Span {
                from: s.slot,
                to: self.free_slots.pop().unwrap(),
                tables,
                start: s.n,
                kind: piece.kind,
                inputs: piece.inputs.to_vec(),
                outputs: (0..piece.inputs.len() as u32).collect(),
                snapshots: piece.snapshots.iter().map(|&(n, i)| (n, self.snapshots[i])).collect(),
            });
        }
        step
    }

    pub fn commit(&mut self, pieces: &[Piece<'_>], step: &Step) {
        for (piece, span) in pieces.iter().zip(&step.spans) {
            let s = &mut self.sequences[piece.sequence];
            if !self.snapshots.contains(&s.slot) && s.slot != SlotId::ZERO {
                self.free_slots.push(s.slot);
            }
            (s.slot, s.n) = (span.to, span.start + span.inputs.len() as u32);
        }
    }

    pub fn abort(&mut self, step: &Step) {
        self.free_slots.extend(step.spans.iter().map(|s| s.to));
    }

    pub fn read(&mut self, rows: &Rows, output: Output) -> Result<Vec<f32>, DeviceError> {
        self.program.read(rows, output, 0, rows.n).wait(Duration::ZERO)
    }

    /// Runs a step. Returns each output's rows, all pieces after each other.
    pub fn run(&mut self, graph: &Graph, pieces: &[Piece<'_>]) -> Vec<Vec<f32>> {
        let step = self.step(pieces);
        let rows = self.program.forward(&step).unwrap();
        self.commit(pieces, &step);
        graph.outputs.iter().map(|&(output, _)| self.read(&rows, output).unwrap()).collect()
    }

    /// The recurrent state of a sequence.
    pub fn state(&self, sequence: usize) -> Vec<f32> {
        self.slot(self.sequences[sequence].slot)
    }

    pub fn slot(&self, slot: SlotId) -> Vec<f32> {
        self.pool.read_slot(slot).wait(Duration::ZERO).unwrap()
    }

    /// The keys and values that a sequence's first pages hold, up to `tokens` of each.
    pub fn page(&self, sequence: usize, group: usize, index: usize) -> Vec<u8> {
        self.pool.read_page(group, self.sequences[sequence].pages[group][index]).wait(Duration::ZERO).unwrap()
    }
}

/// Bits, so that NaN compares and zeros have signs.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
