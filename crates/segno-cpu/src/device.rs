//! The device: what it says of itself, weights in place, programs.

use std::sync::Arc;

use segno_ir::{
    Capabilities, Device, DeviceError, DeviceKind, Graph, Needs, Op, Pool, PoolPlan, Program, ProgramLimits, Support,
    WeightDecl, WeightSource, Weights,
};

use crate::op;
use crate::pool::CpuPool;
use crate::program::{self, CpuProgram};
use crate::simd::quant::{QuantMemory, Rounding};
use crate::simd::{self, Kernels};
use crate::threads::Threads;
use crate::topology::default_threads;
use crate::weights::{CpuWeights, matrix_of, vectors_of};

/// How the CPU computes.
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Threads, the calling one included; `None`: one per physical core. The number changes no bit
    /// of any result.
    pub threads: Option<usize>,
    /// Leaves activations in f32 beside block weights, instead of rounding them to 8 bits: closer
    /// to the exact result, and several times slower.
    pub exact_activations: bool,
    /// Uses the form that any machine runs, whatever this one has: for tests and comparisons.
    pub portable: bool,
}

/// The machine's memory; `None` where the system does not tell.
fn memory_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.total_memory()).filter(|&bytes| bytes > 0)
}

/// Bytes of the machine's memory that nobody uses; `None` where the system does not tell.
pub fn free_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

/// This process's own threads as a device.
///
/// Threads start with the device and end with it; programs of one device take turns op by op.
/// Steps are run by [`Program::forward`] before it returns.
pub struct CpuDevice {
    kernels: &'static Kernels,
    exact: bool,
    threads: Arc<Threads>,
    capabilities: Capabilities,
}

impl CpuDevice {
    /// A device with threads of its own.
    pub fn new(options: CpuOptions) -> Self {
        let kernels = if options.portable { &simd::PORTABLE } else { simd::best() };
        let threads = Arc::new(Threads::new(options.threads.unwrap_or_else(default_threads)));
        let activations = if options.exact_activations { "f32" } else { "q8" };
        let capabilities = Capabilities {
            name: "CPU".into(),
            backend: "cpu",
            kind: DeviceKind::Cpu,
            driver: format!("{}, {} threads", kernels.level, threads.n()),
            memory_bytes: memory_bytes(),
            features: vec![kernels.level.into()],
            steps_in_flight: 1,
            equal_kinds: true,
            numerics: format!("cpu/{}/{activations}/{}", kernels.level, segno_ir::NUMERICS_VERSION),
        };
        CpuDevice { kernels, exact: options.exact_activations, threads, capabilities }
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, op: &Op, _: &[WeightDecl]) -> Support {
        match op::is_known(op) {
            true => Support::Yes,
            false => Support::No(format!("the CPU backend does not have {}", op.name())),
        }
    }

    fn round_input(&self, op: &Op, weights: &[WeightDecl], row: &mut [f32]) {
        let weight = match op {
            Op::Linear(linear) => linear.weight,
            Op::ExpertLinear(linear) => linear.weight,
            _ => return,
        };
        let Some(decl) = weights.get(weight.0 as usize) else { return };
        let Some(rounding) = op::rounding(decl.ty, self.kernels, self.exact) else { return };
        let n = row.len();
        if !n.is_multiple_of(decl.ty.block_len()) {
            return;
        }
        let Some(mut memory) = QuantMemory::new(rounding, 1, n) else { return };
        let rows = memory.rows(rounding);
        // SAFETY: the only row, used by this thread alone.
        let (quantized, rounded) = unsafe { (rows.get_mut(0, n), rows.get(0, n)) };
        match rounding {
            Rounding::Groups32 => (self.kernels.quantize_32)(row, quantized),
            Rounding::Groups256 => (self.kernels.quantize_256)(row, quantized),
        }
        let groups = row.chunks_exact_mut(decl.ty.block_len()).zip(rounded.q.chunks_exact(decl.ty.block_len()));
        for ((x, q), d) in groups.zip(rounded.d) {
            x.iter_mut().zip(q).for_each(|(x, q)| *x = d * f32::from(*q));
        }
    }

    fn needs(&self, graph: &Graph, limits: &ProgramLimits) -> Needs {
        let mut needs = Needs {
            activation_bytes: program::bytes(graph, limits, self.kernels, self.exact, self.threads.n()),
            ..Needs::default()
        };
        let (mut matrices, mut vectors) = (vec![false; graph.weights.len()], vec![false; graph.weights.len()]);
        for node in &graph.nodes {
            matrix_of(&node.op).into_iter().for_each(|id| matrices[id.0 as usize] = true);
            vectors_of(&node.op).for_each(|id| vectors[id.0 as usize] = true);
        }
        for (i, decl) in graph.weights.iter().enumerate() {
            let mapped = decl.ty.row_bytes(decl.row_len()).unwrap_or(0) * decl.n_rows();
            needs.mapped_bytes += if matrices[i] { mapped as u64 } else { 0 };
            needs.weight_bytes += if vectors[i] { 4 * decl.n_elements() as u64 } else { 0 };
        }
        needs
    }

    fn weights(&self, source: Arc<dyn WeightSource>, graph: &Graph) -> Result<Arc<dyn Weights>, DeviceError> {
        Ok(Arc::new(CpuWeights::new(source, graph)?))
    }

    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError> {
        Ok(Arc::new(CpuPool::new(plan)?))
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
        let threads = self.threads.clone();
        Ok(Box::new(CpuProgram::new(self.kernels, self.exact, threads, graph, weights, pool.clone(), limits)?))
    }
}
