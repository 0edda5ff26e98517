//! What the tests of this folder share: models, devices, requests, folders. Each uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use segno_cpu::{CpuDevice, CpuOptions};
use segno_gguf::Gguf;
use segno_ir::sample::{SampleParams, SampleRow, philox};
use segno_ir::{
    Capabilities, Device, DeviceError, Graph, Needs, Op, Output, Pending, Pool, PoolPlan, Program, ProgramLimits, Rows,
    Step, Support, Ticket, WeightDecl, WeightSource, Weights,
};
use segno_models::Model;
use segno_runtime::adversary::Adversary;
use segno_runtime::{Engine, Executor, ExecutorOptions, Report, Request};

/// Recurrent with attention, convolutions with attention, windows, attention alone.
pub const FILES: &[&str] =
    &["qwen35/model-q8_0.gguf", "lfm2/model-f16.gguf", "gemma3/model-f16.gguf", "llama/model-f32.gguf"];

pub fn model(file: &str) -> Model {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(file);
    segno_models::build(&Gguf::open(path).expect("opens")).expect("builds")
}

pub fn cpu(threads: usize) -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(threads), ..CpuOptions::default() }))
}

pub fn adversary() -> Arc<dyn Device> {
    Arc::new(Adversary::new(cpu(1)))
}

pub fn load(model: &Model, device: Arc<dyn Device>, options: ExecutorOptions) -> Executor {
    Executor::load(device, &model.graph, model.source.clone(), options).expect("loads")
}

/// Reproducible tokens that the model has.
pub fn tokens(model: &Model, n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| philox([i, seed, 0, 0], [7, 8])[0] % model.graph.n_tokens() as u32).collect()
}

/// One that draws from all tokens.
pub fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let params = SampleParams { temperature: 1.0, seed: 5, ..SampleParams::default() };
    Request { prompt: prompt.to_vec(), max_tokens, params, ..Request::default() }
}

pub fn generate(engine: &Engine, request: Request) -> (Vec<u32>, Report) {
    engine.generate(request).collect_blocking().expect("a reply")
}

/// A folder of its own, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    /// `name` is unlike any other test's.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("segno-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }

    /// The files of a part of it, sorted.
    pub fn files(&self, part: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.join(part)).expect("the folder");
        let mut files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Is asked before each call of a watched device's programs, which fails if the answer does.
pub trait Watch: Send + Sync + 'static {
    fn forward(&self, step: &Step) -> Result<(), DeviceError>;

    fn sample(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Before drawn tokens are handed out.
    fn ticket(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// A device whose programs are watched.
pub fn watched(inner: Arc<dyn Device>, watch: &Arc<impl Watch>) -> Arc<dyn Device> {
    Arc::new(Watched { inner, watch: watch.clone() })
}

struct Watched {
    inner: Arc<dyn Device>,
    watch: Arc<dyn Watch>,
}

impl Device for Watched {
    fn describe(&self) -> &Capabilities {
        self.inner.describe()
    }

    fn supports(&self, op: &Op, weights: &[WeightDecl]) -> Support {
        self.inner.supports(op, weights)
    }

    fn needs(&self, graph: &Graph, limits: &ProgramLimits) -> Needs {
        self.inner.needs(graph, limits)
    }

    fn weights(&self, source: Arc<dyn WeightSource>, graph: &Graph) -> Result<Arc<dyn Weights>, DeviceError> {
        self.inner.weights(source, graph)
    }

    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError> {
        self.inner.pool(plan)
    }

    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError> {
        let inner = self.inner.compile(graph, weights, pool, limits)?;
        Ok(Box::new(WatchedProgram { inner, watch: self.watch.clone() }))
    }
}

struct WatchedProgram {
    inner: Box<dyn Program>,
    watch: Arc<dyn Watch>,
}

impl Program for WatchedProgram {
    fn forward(&mut self, step: &Step) -> Result<Rows, DeviceError> {
        self.watch.forward(step)?;
        self.inner.forward(step)
    }

    fn sample(&mut self, rows: &Rows, requests: &[SampleRow]) -> Result<Ticket, DeviceError> {
        self.watch.sample()?;
        let ticket = self.inner.sample(rows, requests)?;
        match self.watch.ticket() {
            Ok(()) => Ok(ticket),
            Err(error) => Ok(Ticket { id: ticket.id, tokens: Pending::failed(error) }),
        }
    }

    fn read(&mut self, rows: &Rows, output: Output, first: u32, n: u32) -> Pending<Vec<f32>> {
        match self.watch.read() {
            Ok(()) => self.inner.read(rows, output, first, n),
            Err(error) => Pending::failed(error),
        }
    }
}
