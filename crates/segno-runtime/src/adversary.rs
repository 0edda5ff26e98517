//! A device that does everything the traits allow to go wrong for a careless runtime: for tests.
//!
//! It wraps another device. Nothing is computed when it is issued: steps, copies and writes wait in
//! a queue until somebody waits for a result, so whatever the host does meanwhile with released
//! slots and pages takes effect in issue order, as on a GPU. What the runtime discards is filled
//! with NaN; free lists give the last released out first, so it is reused at once. Two steps may be
//! under way. It claims that prefill and decode differ in the last bits.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segno_ir::device::{Completion, Sampled};
use segno_ir::sample::SampleRow;
use segno_ir::{
    Capabilities, Device, DeviceError, Graph, Input, Needs, Op, Output, PageId, Pending, Pool, PoolPlan, Program,
    ProgramLimits, Rows, SlotId, Step, Support, Ticket, WeightDecl, WeightSource, Weights,
};

/// Wraps a device that computes at once.
pub struct Adversary {
    inner: Arc<dyn Device>,
    capabilities: Capabilities,
}

impl Adversary {
    /// An adversary over `inner`.
    pub fn new(inner: Arc<dyn Device>) -> Self {
        let mut capabilities = inner.describe().clone();
        capabilities.name = format!("adversarial {}", capabilities.name);
        capabilities.steps_in_flight = 2;
        capabilities.equal_kinds = false;
        Adversary { inner, capabilities }
    }
}

type Task = Box<dyn FnOnce(&mut Inner) + Send>;

/// The program, and what its late calls have given.
#[derive(Default)]
struct Inner {
    program: Option<Box<dyn Program>>,
    /// Rows and tickets by the number under which they were promised.
    rows: HashMap<u64, Result<Rows, DeviceError>>,
    tickets: HashMap<u64, u64>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    inner: Inner,
}

#[derive(Clone, Default)]
struct Queue(Arc<Mutex<State>>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: impl FnOnce(&mut Inner) + Send + 'static) {
        self.lock().queue.push_back(Box::new(task));
    }

    /// Issues a task that gives a result, later.
    fn promise<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Inner) -> Result<T, DeviceError> + Send + 'static,
    ) -> Pending<T> {
        let result = Arc::new(Mutex::new(None));
        let place = result.clone();
        self.push(move |inner| *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(task(inner)));
        Pending::new(Late { queue: self.clone(), result })
    }

    /// Does all that was issued, in order.
    fn drain(&self) {
        let mut state = self.lock();
        while let Some(task) = state.queue.pop_front() {
            task(&mut state.inner);
        }
    }
}

struct Late<T> {
    queue: Queue,
    result: Arc<Mutex<Option<Result<T, DeviceError>>>>,
}

impl<T: Send> Completion<T> for Late<T> {
    fn try_take(&mut self) -> Option<Result<T, DeviceError>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn wait(&mut self, _: Duration) -> Result<T, DeviceError> {
        self.queue.drain();
        self.try_take().unwrap_or_else(|| Err(DeviceError::Invalid("a result was taken twice".into())))
    }
}

struct AdversaryPool {
    inner: Arc<dyn Pool>,
    queue: Queue,
}

impl AdversaryPool {
    fn later(&self, what: &'static str, task: impl FnOnce(&dyn Pool) -> Result<(), DeviceError> + Send + 'static) {
        let pool = self.inner.clone();
        self.queue.push(move |_| {
            if let Err(error) = task(&*pool) {
                panic!("{what} failed when its turn came: {error}");
            }
        });
    }
}

impl Pool for AdversaryPool {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn finish(&self, timeout: Duration) -> Result<(), DeviceError> {
        self.queue.drain();
        self.inner.finish(timeout)
    }

    fn plan(&self) -> &PoolPlan {
        self.inner.plan()
    }

    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError> {
        let pairs = pairs.to_vec();
        self.later("a copy of slots", move |pool| pool.copy_slots(&pairs));
        Ok(())
    }

    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], tokens: u32) -> Result<(), DeviceError> {
        let pairs = pairs.to_vec();
        self.later("a copy of pages", move |pool| pool.copy_pages(group, &pairs, tokens));
        Ok(())
    }

    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>> {
        let pool = self.inner.clone();
        self.queue.promise(move |_| pool.read_slot(slot).wait(Duration::MAX))
    }

    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError> {
        let values = values.to_vec();
        self.later("a write of a slot", move |pool| pool.write_slot(slot, &values));
        Ok(())
    }

    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>> {
        let pool = self.inner.clone();
        self.queue.promise(move |_| pool.read_page(group, page).wait(Duration::MAX))
    }

    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        let bytes = bytes.to_vec();
        self.later("a write of a page", move |pool| pool.write_page(group, page, &bytes));
        Ok(())
    }

    fn discard(&self, slots: &[SlotId], pages: &[(usize, PageId)]) {
        let (slots, pages) = (slots.to_vec(), pages.to_vec());
        self.later("poisoning", move |pool| {
            let layout = &pool.plan().layout;
            for slot in slots {
                pool.write_slot(slot, &vec![f32::NAN; layout.slot_floats])?;
            }
            for (group, page) in pages {
                // All bits set are NaN in every stored type.
                pool.write_page(group, page, &vec![0xff; layout.groups[group].page_bytes])?;
            }
            Ok(())
        });
    }
}

struct AdversaryProgram {
    queue: Queue,
    steps: u64,
    tickets: u64,
}

/// Replaces the tickets of a step's inputs by those that the wrapped program gave.
fn translate(step: &mut Step, tickets: &HashMap<u64, u64>) -> Result<(), DeviceError> {
    for input in step.spans.iter_mut().flat_map(|s| &mut s.inputs) {
        if let Input::Sampled { ticket, .. } = input {
            *ticket =
                *tickets.get(ticket).ok_or_else(|| DeviceError::Invalid(format!("there is no ticket {ticket}")))?;
        }
    }
    Ok(())
}

fn program(inner: &mut Inner) -> &mut dyn Program {
    &mut **inner.program.as_mut().expect("compile has set it")
}

fn rows_of(inner: &Inner, step: u64) -> Result<Rows, DeviceError> {
    inner.rows.get(&step).cloned().unwrap_or_else(|| Err(DeviceError::Invalid(format!("there is no step {step}"))))
}

impl Program for AdversaryProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        self.steps += 1;
        let (number, mut step) = (self.steps, step.clone());
        let rows = Rows { step: number, n: step.n_outputs() as u32 };
        self.queue.push(move |inner| {
            let result = translate(&mut step, &inner.tickets).and_then(|()| program(inner).forward(&step));
            inner.rows.insert(number, result);
        });
        Ok(rows)
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        self.tickets += 1;
        let (number, step, requests) = (self.tickets, rows.step, requests.to_vec());
        let tokens = self.queue.promise(move |inner| -> Result<Vec<Sampled>, DeviceError> {
            let rows = rows_of(inner, step)?;
            let ticket = program(inner).sample(&rows, &requests)?;
            inner.tickets.insert(number, ticket.id);
            ticket.tokens.wait(Duration::MAX)
        });
        Ok(Ticket { id: number, tokens })
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        let step = rows.step;
        self.queue.promise(move |inner| {
            let rows = rows_of(inner, step)?;
            program(inner).read(&rows, output, first, n).wait(Duration::MAX)
        })
    }
}

impl Device for Adversary {
    fn describe(&self) -> &Capabilities {
        &self.capabilities
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
        let pool = AdversaryPool { inner: self.inner.pool(plan)?, queue: Queue::default() };
        let slots: Vec<SlotId> = (1..plan.slots).map(SlotId).collect();
        let pages = plan.pages.iter().enumerate().flat_map(|(g, &n)| (0..n).map(move |p| (g, PageId(p))));
        pool.discard(&slots, &pages.collect::<Vec<_>>());
        Ok(Arc::new(pool))
    }

    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError> {
        let pool = pool.as_any().downcast_ref::<AdversaryPool>();
        let pool = pool.ok_or_else(|| DeviceError::Invalid("the pool is another device's".into()))?;
        let program = self.inner.compile(graph, weights, &pool.inner, limits)?;
        pool.queue.lock().inner.program = Some(program);
        Ok(Box::new(AdversaryProgram { queue: pool.queue.clone(), steps: 0, tickets: 0 }))
    }
}
