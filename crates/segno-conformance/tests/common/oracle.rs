//! A device that runs the f64 reference behind the traits: slow and obviously right.
//!
//! A step is computed row by row, and states are rounded to f32 after each row, so that every
//! exactness rule holds. Pages hold f32 only.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use segno_ir::device::Sampled;
use segno_ir::op::attention::KvDims;
use segno_ir::reference::{RefState, Reference};
use segno_ir::{
    Capabilities, Device, DeviceError, DeviceKind, Graph, Input, KvType, Needs, Op, Output, PAGE_TOKENS, PageId,
    Pending, Pool, PoolPlan, Program, ProgramLimits, Rows, SampleRow, SlotId, Span, StateId, Step, Support, Ticket,
    WeightDecl, WeightSource, Weights,
};

const PAGE: usize = PAGE_TOKENS as usize;

/// The device.
pub struct Oracle {
    capabilities: Capabilities,
}

impl Oracle {
    pub fn new() -> Self {
        let capabilities = Capabilities {
            name: "reference".into(),
            backend: "cpu",
            kind: DeviceKind::Cpu,
            driver: "f64".into(),
            memory_bytes: None,
            features: Vec::new(),
            steps_in_flight: 1,
            equal_kinds: true,
            numerics: "reference".into(),
        };
        Oracle { capabilities }
    }
}

fn failed(error: impl std::fmt::Display) -> DeviceError {
    DeviceError::Invalid(error.to_string())
}

struct OracleWeights(Arc<dyn WeightSource>);

impl Weights for OracleWeights {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `[slot][float]` and `[group][page][byte]`.
struct Memory {
    slots: Vec<Vec<f32>>,
    pages: Vec<Vec<Vec<u8>>>,
}

struct OraclePool {
    plan: PoolPlan,
    memory: Mutex<Memory>,
}

impl Pool for OraclePool {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn finish(&self, _: Duration) -> Result<(), DeviceError> {
        // What is issued is done when the call returns.
        Ok(())
    }

    fn plan(&self) -> &PoolPlan {
        &self.plan
    }

    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError> {
        let slots = &mut self.memory.lock().map_err(failed)?.slots;
        pairs.iter().for_each(|(from, to)| slots[to.0 as usize] = slots[from.0 as usize].clone());
        Ok(())
    }

    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], _: u32) -> Result<(), DeviceError> {
        let pages = &mut self.memory.lock().map_err(failed)?.pages[group];
        pairs.iter().for_each(|(from, to)| pages[to.0 as usize] = pages[from.0 as usize].clone());
        Ok(())
    }

    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>> {
        match self.memory.lock() {
            Ok(memory) => Pending::ready(memory.slots[slot.0 as usize].clone()),
            Err(error) => Pending::failed(failed(error)),
        }
    }

    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError> {
        self.memory.lock().map_err(failed)?.slots[slot.0 as usize].copy_from_slice(values);
        Ok(())
    }

    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>> {
        match self.memory.lock() {
            Ok(memory) => Pending::ready(memory.pages[group][page.0 as usize].clone()),
            Err(error) => Pending::failed(failed(error)),
        }
    }

    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.lock().map_err(failed)?.pages[group][page.0 as usize].copy_from_slice(bytes);
        Ok(())
    }
}

impl Device for Oracle {
    fn describe(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, _: &Op, _: &[WeightDecl]) -> Support {
        Support::Yes
    }

    fn needs(&self, _: &Graph, _: &ProgramLimits) -> Needs {
        Needs::default()
    }

    fn weights(&self, source: Arc<dyn WeightSource>, _: &Graph) -> Result<Arc<dyn Weights>, DeviceError> {
        Ok(Arc::new(OracleWeights(source)))
    }

    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError> {
        if (plan.layout.k_type, plan.layout.v_type) != (KvType::F32, KvType::F32) && !plan.layout.groups.is_empty() {
            let (device, op) = (self.capabilities.name.clone(), "attention".into());
            return Err(DeviceError::Unsupported { device, op, reason: "its pages hold f32 only".into() });
        }
        let slots = vec![vec![0.0; plan.layout.slot_floats]; plan.slots as usize];
        let pages = plan.layout.groups.iter().zip(&plan.pages).map(|(g, &n)| vec![vec![0; g.page_bytes]; n as usize]);
        let memory = Mutex::new(Memory { slots, pages: pages.collect() });
        Ok(Arc::new(OraclePool { plan: plan.clone(), memory }))
    }

    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError> {
        let weights = weights.as_any().downcast_ref::<OracleWeights>().ok_or_else(|| failed("foreign weights"))?;
        pool.as_any().downcast_ref::<OraclePool>().ok_or_else(|| failed("a foreign pool"))?;
        Ok(Box::new(OracleProgram {
            graph: graph.clone(),
            source: weights.0.clone(),
            pool: pool.clone(),
            limits: limits.clone(),
            steps: Vec::new(),
            tickets: Vec::new(),
        }))
    }
}

struct OracleProgram {
    graph: Graph,
    source: Arc<dyn WeightSource>,
    pool: Arc<dyn Pool>,
    limits: ProgramLimits,
    /// Outputs of each step, and for each row whether its chain of tokens has ended.
    steps: Vec<(Vec<Vec<f32>>, Vec<bool>)>,
    tickets: Vec<Vec<Sampled>>,
}

impl OracleProgram {
    fn memory(&self) -> Result<std::sync::MutexGuard<'_, Memory>, DeviceError> {
        let pool = self.pool.as_any().downcast_ref::<OraclePool>().ok_or_else(|| failed("a foreign pool"))?;
        pool.memory.lock().map_err(failed)
    }

    /// Bytes `[offset, size)` of the keys and of the values of a token in a page.
    fn places(&self, state: StateId, token: usize) -> [(usize, usize); 2] {
        let layout = self.pool.layout();
        let mut offset = 0;
        for &member in &layout.groups[layout.group_of(state).unwrap_or(0)].members {
            let Some(dims) = KvDims::of(&self.graph.states[member.0 as usize]) else { continue };
            let (k, v) = (4 * dims.n_head_kv * dims.d_k, 4 * dims.n_head_kv * dims.d_v_stored());
            if member == state {
                return [(offset + token * k, k), (offset + PAGE * k + token * v, v)];
            }
            offset += PAGE * (k + v);
        }
        [(0, 0); 2]
    }

    fn load(&self, span: &Span, position: u32) -> Result<Vec<RefState>, DeviceError> {
        let memory = self.memory()?;
        let layout = self.pool.layout();
        let state = |(i, decl): (usize, &segno_ir::StateDecl)| {
            let id = StateId(i as u32);
            if let Some(offset) = layout.offset_of(id) {
                let floats = &memory.slots[span.from.0 as usize][offset..offset + decl.recurrent_len()];
                return RefState::Recurrent(floats.iter().map(|&v| v as f64).collect());
            }
            let (group, table) = (layout.group_of(id).unwrap_or(0), &span.tables[layout.group_of(id).unwrap_or(0)]);
            let (mut k, mut v) = (Vec::new(), Vec::new());
            for p in 0..position as usize {
                let page = (p / PAGE).checked_sub(table.first as usize).map(|i| table.pages[i].0 as usize);
                for ((offset, size), out) in self.places(id, p % PAGE).into_iter().zip([&mut k, &mut v]) {
                    match page {
                        Some(page) => {
                            let bytes = &memory.pages[group][page][offset..offset + size];
                            out.extend(
                                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64),
                            );
                        }
                        None => out.extend(vec![f64::NAN; size / 4]),
                    }
                }
            }
            RefState::KeyValue { k, v }
        };
        Ok(self.graph.states.iter().enumerate().map(state).collect())
    }

    fn store_slot(&self, slot: SlotId, states: &[RefState]) -> Result<(), DeviceError> {
        let mut memory = self.memory()?;
        for &(id, offset) in &self.pool.layout().recurrent {
            if let RefState::Recurrent(values) = &states[id.0 as usize] {
                let to = &mut memory.slots[slot.0 as usize][offset..offset + values.len()];
                to.iter_mut().zip(values).for_each(|(o, v)| *o = *v as f32);
            }
        }
        Ok(())
    }

    fn store_row(&self, span: &Span, position: usize, states: &[RefState]) -> Result<(), DeviceError> {
        let mut memory = self.memory()?;
        for (i, state) in states.iter().enumerate() {
            let id = StateId(i as u32);
            let (RefState::KeyValue { k, v }, Some(group)) = (state, self.pool.layout().group_of(id)) else { continue };
            let table = &span.tables[group];
            let page = table.pages[position / PAGE - table.first as usize].0 as usize;
            for ((offset, size), values) in self.places(id, position % PAGE).into_iter().zip([k, v]) {
                let row = &values[position * size / 4..][..size / 4];
                let bytes: Vec<u8> = row.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
                memory.pages[group][page][offset..offset + size].copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    /// Tokens in the place of what was sampled, and whether the chain has ended.
    fn resolve(&self, input: &Input) -> Result<(Input, bool), DeviceError> {
        let Input::Sampled { ticket, row } = *input else { return Ok((input.clone(), false)) };
        let tokens = self.tickets.get(ticket as usize).ok_or_else(|| failed("no such ticket"))?;
        Ok((Input::Token(tokens[row as usize].id), tokens[row as usize].done))
    }
}

impl Program for OracleProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        step.check(self.pool.plan(), &self.limits)?;
        let mut reference = Reference::new(&self.graph, &*self.source).map_err(failed)?;
        let mut outputs = vec![Vec::new(); self.graph.outputs.len()];
        let mut ended = Vec::new();
        for span in &step.spans {
            let mut states = self.load(span, span.start)?;
            let mut has_ended = false;
            for (row, input) in span.inputs.iter().enumerate() {
                let position = span.start + row as u32;
                let (input, done) = self.resolve(input)?;
                has_ended |= done;
                reference.set_states(states, position);
                let wanted: &[u32] = if span.outputs.contains(&(row as u32)) { &[0] } else { &[] };
                for ((_, values), all) in reference.run(&[input], wanted).map_err(failed)?.into_iter().zip(&mut outputs)
                {
                    all.extend(values.iter().map(|&v| v as f32));
                }
                ended.extend(wanted.iter().map(|_| has_ended));
                states = reference.states().to_vec();
                for state in &mut states {
                    if let RefState::Recurrent(values) = state {
                        values.iter_mut().for_each(|v| *v = *v as f32 as f64);
                    }
                }
                self.store_row(span, position as usize, &states)?;
                if let Some((_, slot)) = span.snapshots.iter().find(|(after, _)| *after as usize == row + 1) {
                    self.store_slot(*slot, &states)?;
                }
            }
            self.store_slot(span.to, &states)?;
        }
        self.steps.push((outputs, ended));
        Ok(Rows { step: self.steps.len() as u64 - 1, n: step.n_outputs() as u32 })
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        let (outputs, ended) = &self.steps[rows.step as usize];
        let n = self.graph.n_vocab();
        let at =
            self.graph.outputs.iter().position(|(o, _)| *o == Output::Logits).ok_or_else(|| failed("no logits"))?;
        let draw = |request: &SampleRow| {
            let id = segno_ir::sample::sample(&outputs[at][request.row as usize * n..][..n], request);
            Sampled { id, done: ended[request.row as usize] || request.stop.contains(&id) }
        };
        let tokens: Vec<Sampled> = requests.iter().map(draw).collect();
        self.tickets.push(tokens.clone());
        Ok(Ticket { id: self.tickets.len() as u64 - 1, tokens: Pending::ready(tokens) })
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        let Some(at) = self.graph.outputs.iter().position(|(o, _)| *o == output) else {
            return Pending::failed(failed("no such output"));
        };
        let features = self.graph.nodes[self.graph.outputs[at].1.0 as usize].features;
        let values = &self.steps[rows.step as usize].0[at];
        Pending::ready(values[first as usize * features..(first + n) as usize * features].to_vec())
    }
}
