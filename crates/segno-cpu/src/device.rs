//! The device: what it says of itself, weights in place, programs.

use std::any::Any;
use std::sync::Arc;

use segno_ir::{
    Capabilities, Device, DeviceError, DeviceKind, Graph, Needs, Op, Pool, PoolPlan, Program, ProgramLimits, Support,
    WeightDecl, WeightSource, Weights,
};

use crate::kernel::Kernels;
use crate::pool::CpuPool;
use crate::program::{CpuProgram, arena_floats};
use crate::threads::Threads;

/// How the CPU computes.
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Threads; `None`: one per core.
    pub threads: Option<usize>,
    /// Leaves activations in f32 beside block weights, instead of rounding them to 8 bits.
    pub exact_activations: bool,
    /// Uses the form that any machine runs, whatever this one has.
    pub portable: bool,
}

/// This process's own threads.
pub struct CpuDevice {
    pub(crate) kernels: Kernels,
    threads: Arc<Threads>,
    capabilities: Capabilities,
}

pub(crate) struct CpuWeights {
    pub source: Arc<dyn WeightSource>,
}

impl Weights for CpuWeights {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl CpuDevice {
    /// A device with its own pool of threads.
    pub fn new(options: CpuOptions) -> Self {
        let kernels = if options.portable { Kernels::PORTABLE } else { Kernels::best() };
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = Arc::new(Threads::new(options.threads.unwrap_or_else(cores)));
        let activations = if options.exact_activations { "f32" } else { "q8" };
        let capabilities = Capabilities {
            name: "CPU".into(),
            backend: "cpu",
            kind: DeviceKind::Cpu,
            driver: format!("{}, {} threads", kernels.level, threads.n()),
            memory_bytes: None,
            features: vec![kernels.level.into()],
            steps_in_flight: 1,
            numerics: format!("cpu/{}/{activations}/{}", kernels.level, segno_ir::NUMERICS_VERSION),
        };
        CpuDevice { kernels, threads, capabilities }
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, _: &Op, _: &[WeightDecl]) -> Support {
        Support::Yes
    }

    fn needs(&self, graph: &Graph, limits: &ProgramLimits) -> Needs {
        let bytes = |w: &WeightDecl| (w.ty.row_bytes(w.row_len()).unwrap_or(0) * w.n_rows()) as u64;
        Needs {
            weight_bytes: 0,
            mapped_bytes: graph.weights.iter().map(bytes).sum(),
            activation_bytes: 4 * arena_floats(graph, limits) as u64,
        }
    }

    fn weights(&self, source: Arc<dyn WeightSource>, _: &Graph) -> Result<Arc<dyn Weights>, DeviceError> {
        Ok(Arc::new(CpuWeights { source }))
    }

    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError> {
        Ok(Arc::new(CpuPool::new(plan)))
    }

    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError> {
        let foreign = |what: &str| DeviceError::Invalid(format!("the {what} are another device's"));
        let weights = weights.as_any().downcast_ref::<CpuWeights>().ok_or_else(|| foreign("weights"))?;
        pool.as_any().downcast_ref::<CpuPool>().ok_or_else(|| foreign("slots and pages"))?;
        let program =
            CpuProgram::new(self.kernels, self.threads.clone(), graph, weights.source.clone(), pool.clone(), limits)?;
        Ok(Box::new(program))
    }
}
