//! A device that is wrong in one way: what the suite has to find.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use segno_ir::{
    Capabilities, Device, DeviceError, Graph, Needs, Op, Output, PageId, Pending, Pool, PoolPlan, Program,
    ProgramLimits, Rows, SampleRow, SlotId, Step, Support, Ticket, WeightDecl, WeightSource, Weights,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last output row of a step is the one before it.
    OffByOneRow,
    /// The last element of every read is 0.1 % too large.
    RelativeError,
    /// Every element is 0.1 % too large.
    UniformError,
    /// One element of every read is NaN.
    Nan,
    /// The last bit of a read depends on how many spans the step has.
    BatchDependent,
    /// The last bit of a read depends on how many rows the step's longest span has.
    CutDependent,
    /// The final state is not written.
    StateNotWritten,
    /// One element of the final state is 0.1 % too large.
    StateError,
    /// Snapshots hold the final state.
    SnapshotAtEnd,
    /// The state is also written where it was read.
    StateInPlace,
    /// The last page of a table is not written.
    PageNotWritten,
    /// The last byte of a page is written, whatever lies there.
    PageOverrun,
    /// Attention sees other keys and values than the pages hold.
    WrongHistory,
    /// Copies of more than one slot do the first only.
    CopiesFirstSlotOnly,
    /// Copies of pages miss the last token.
    CopiesOneTokenLess,
    /// Draws the token after the right one.
    WrongToken,
    /// Never says that a chain has ended.
    NeverDone,
    /// Fails every step.
    Fails,
    /// Is lost after a while.
    Lost,
}

/// A right device with a fault.
pub struct Broken {
    inner: Arc<dyn Device>,
    fault: Fault,
}

impl Broken {
    pub fn new(inner: Arc<dyn Device>, fault: Fault) -> Self {
        Broken { inner, fault }
    }
}

impl Device for Broken {
    fn describe(&self) -> &Capabilities {
        self.inner.describe()
    }

    fn supports(&self, op: &Op, weights: &[WeightDecl]) -> Support {
        self.inner.supports(op, weights)
    }

    fn round_input(&self, op: &Op, weights: &[WeightDecl], row: &mut [f32]) {
        self.inner.round_input(op, weights, row);
    }

    fn needs(&self, graph: &Graph, limits: &ProgramLimits) -> Needs {
        self.inner.needs(graph, limits)
    }

    fn weights(&self, source: Arc<dyn WeightSource>, graph: &Graph) -> Result<Arc<dyn Weights>, DeviceError> {
        self.inner.weights(source, graph)
    }

    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError> {
        Ok(Arc::new(BrokenPool { inner: self.inner.pool(plan)?, fault: self.fault }))
    }

    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError> {
        let inner = self.inner.compile(graph, weights, pool, limits)?;
        let (spans, longest) = (0, 0);
        Ok(Box::new(BrokenProgram { inner, pool: pool.clone(), fault: self.fault, spans, longest }))
    }
}

struct BrokenPool {
    inner: Arc<dyn Pool>,
    fault: Fault,
}

impl Pool for BrokenPool {
    fn as_any(&self) -> &dyn Any {
        // The device looks for its own type.
        self.inner.as_any()
    }

    fn finish(&self, timeout: Duration) -> Result<(), DeviceError> {
        self.inner.finish(timeout)
    }

    fn plan(&self) -> &PoolPlan {
        self.inner.plan()
    }

    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError> {
        match self.fault {
            Fault::CopiesFirstSlotOnly => self.inner.copy_slots(&pairs[..pairs.len().min(1)]),
            _ => self.inner.copy_slots(pairs),
        }
    }

    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], tokens: u32) -> Result<(), DeviceError> {
        if self.fault != Fault::CopiesOneTokenLess {
            return self.inner.copy_pages(group, pairs, tokens);
        }
        // The last number of the page's last token stays.
        for &(from, to) in pairs {
            let old = self.inner.read_page(group, to).wait(PATIENCE)?;
            self.inner.copy_pages(group, &[(from, to)], tokens)?;
            let mut new = self.inner.read_page(group, to).wait(PATIENCE)?;
            let n = new.len();
            let kept = if tokens == segno_ir::PAGE_TOKENS { n - 4..n } else { 0..4 };
            new[kept.clone()].copy_from_slice(&old[kept]);
            self.inner.write_page(group, to, &new)?;
        }
        Ok(())
    }

    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>> {
        self.inner.read_slot(slot)
    }

    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError> {
        self.inner.write_slot(slot, values)
    }

    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>> {
        self.inner.read_page(group, page)
    }

    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inner.write_page(group, page, bytes)
    }
}

struct BrokenProgram {
    inner: Box<dyn Program>,
    pool: Arc<dyn Pool>,
    fault: Fault,
    /// Spans of the last step, and rows of its longest.
    spans: usize,
    longest: usize,
}

impl BrokenProgram {
    /// Runs the step and spoils what it wrote.
    fn spoil(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        let layout = self.pool.layout().clone();
        let has_slots = layout.slot_floats > 0;
        let last = step.spans.last().ok_or_else(|| DeviceError::Invalid("no spans".into()))?;
        match self.fault {
            Fault::StateNotWritten if has_slots => {
                let before = self.pool.read_slot(last.to).wait(PATIENCE)?;
                let rows = self.inner.forward(step)?;
                self.pool.write_slot(last.to, &before)?;
                Ok(rows)
            }
            Fault::StateError if has_slots => {
                let rows = self.inner.forward(step)?;
                let mut values = self.pool.read_slot(last.to).wait(PATIENCE)?;
                values[layout.recurrent[0].1] *= 1.001;
                self.pool.write_slot(last.to, &values)?;
                Ok(rows)
            }
            Fault::SnapshotAtEnd if has_slots => {
                let rows = self.inner.forward(step)?;
                for span in &step.spans {
                    for (_, slot) in &span.snapshots {
                        self.pool.copy_slots(&[(span.to, *slot)])?;
                    }
                }
                Ok(rows)
            }
            Fault::StateInPlace if has_slots && last.from != SlotId::ZERO => {
                let rows = self.inner.forward(step)?;
                self.pool.copy_slots(&[(last.to, last.from)])?;
                Ok(rows)
            }
            Fault::PageNotWritten | Fault::PageOverrun | Fault::WrongHistory if !layout.groups.is_empty() => {
                let page = last.tables[0].pages[last.tables[0].pages.len() - 1];
                let before = self.pool.read_page(0, page).wait(PATIENCE)?;
                if self.fault == Fault::WrongHistory {
                    // A wrong history for the kernel, put right afterwards.
                    let page = last.tables[0].pages[0];
                    let right = self.pool.read_page(0, page).wait(PATIENCE)?;
                    let wrong: Vec<u8> = right.iter().map(|b| b ^ 0x80).collect();
                    self.pool.write_page(0, page, &wrong)?;
                    let rows = self.inner.forward(step)?;
                    let new = self.pool.read_page(0, page).wait(PATIENCE)?;
                    let merged = new.iter().zip(&wrong).zip(&right).map(|((n, w), r)| if n == w { *r } else { *n });
                    self.pool.write_page(0, page, &merged.collect::<Vec<u8>>())?;
                    return Ok(rows);
                }
                let rows = self.inner.forward(step)?;
                if self.fault == Fault::PageNotWritten {
                    self.pool.write_page(0, page, &before)?;
                } else {
                    let mut after = self.pool.read_page(0, page).wait(PATIENCE)?;
                    let n = after.len();
                    after[n - 1] ^= 1;
                    self.pool.write_page(0, page, &after)?;
                }
                Ok(rows)
            }
            Fault::Fails => Err(DeviceError::Invalid("a guard band was written".into())),
            Fault::Lost => Err(DeviceError::Lost { device: "broken".into(), reason: "unplugged".into() }),
            _ => self.inner.forward(step),
        }
    }
}

impl Program for BrokenProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        self.spans = step.spans.len();
        self.longest = step.spans.iter().map(|s| s.inputs.len()).max().unwrap_or(0);
        self.spoil(step)
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        let ticket = self.inner.sample(rows, requests)?;
        let mut tokens = ticket.tokens.wait(PATIENCE)?;
        for token in &mut tokens {
            match self.fault {
                Fault::WrongToken => token.id += 1,
                Fault::NeverDone => token.done = false,
                _ => {}
            }
        }
        Ok(Ticket { id: ticket.id, tokens: Pending::ready(tokens) })
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        let first =
            if self.fault == Fault::OffByOneRow && first + n == rows.n && first > 0 { first - 1 } else { first };
        let mut values = match self.inner.read(rows, output, first, n).wait(PATIENCE) {
            Ok(values) => values,
            Err(error) => return Pending::failed(error),
        };
        let nudge = |v: f32| f32::from_bits(v.to_bits() ^ 1);
        let last = values.len() - 1;
        match self.fault {
            Fault::RelativeError => values[last] *= 1.001,
            Fault::UniformError => values.iter_mut().for_each(|v| *v *= 1.001),
            Fault::Nan => values[last / 2] = f32::NAN,
            Fault::BatchDependent if self.spans > 1 => values[0] = nudge(values[0]),
            Fault::CutDependent if self.longest > 40 => values[last] = nudge(values[last]),
            _ => {}
        }
        Pending::ready(values)
    }
}
