//! The device: what it can do, what it would allocate, programs.

use std::sync::Arc;

use segno_ir::{
    Capabilities, Device, DeviceError, Graph, Needs, Op, Pool, PoolPlan, Program, ProgramLimits, Support, WeightDecl,
    WeightSource, Weights,
};

use crate::adapter::{AdapterChoice, memory_bytes};
use crate::gpu::Gpu;
use crate::pool::WgpuPool;
use crate::program::{WgpuProgram, memory};
use crate::weights::{WgpuWeights, weight_bytes};

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct WgpuOptions {
    /// Lets wgpu check every index and loop of a kernel: for tests.
    pub checked: bool,
    /// Measures the time of each step on the device, for [`Program::profile`].
    pub profile: bool,
    /// Bytes of the largest buffer that is made, below the adapter's own limit: for tests of splitting.
    pub max_binding_bytes: Option<u64>,
}

/// A GPU.
pub struct WgpuDevice {
    gpu: Arc<Gpu>,
    capabilities: Capabilities,
}

impl WgpuDevice {
    /// Opens an adapter.
    ///
    /// # Errors
    /// It lacks immediates, or the driver refuses.
    pub fn new(choice: &AdapterChoice, options: &WgpuOptions) -> Result<Self, DeviceError> {
        let lacks =
            |reason: String| DeviceError::Unsupported { device: choice.name.clone(), op: "any kernel".into(), reason };
        let adapter = &choice.adapter;
        if !adapter.features().contains(wgpu::Features::IMMEDIATES) {
            return Err(lacks("the driver has no immediates (push constants); update it, or use --device cpu".into()));
        }
        let mut features = wgpu::Features::IMMEDIATES;
        if options.profile {
            features |= adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
        }
        let mut limits = adapter.limits();
        if let Some(most) = options.max_binding_bytes {
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(most);
        }
        limits.max_immediate_size = limits.max_immediate_size.min(128);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("segno"),
            required_features: features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let opened = pollster::block_on(adapter.request_device(&descriptor));
        let (device, queue) = opened.map_err(|error| lacks(format!("the driver refuses: {error}")))?;
        let gpu = Gpu::new(choice.name.clone(), device, queue, !options.checked);
        let capabilities = Capabilities {
            name: choice.name.clone(),
            backend: choice.backend,
            kind: choice.kind,
            driver: choice.driver.clone(),
            memory_bytes: memory_bytes(adapter),
            features: vec![if options.checked { "checked" } else { "trusted" }.into()],
            steps_in_flight: 2,
            // One form of every kernel for both; a test holds it to that.
            equal_kinds: true,
            numerics: format!("{}/{}/{}/{}", choice.backend, choice.name, choice.driver, segno_ir::NUMERICS_VERSION),
        };
        Ok(WgpuDevice { gpu, capabilities })
    }
}

impl Device for WgpuDevice {
    fn describe(&self) -> &Capabilities {
        &self.capabilities
    }

    fn supports(&self, op: &Op, _: &[WeightDecl]) -> Support {
        match crate::op::is_built(op) {
            true => Support::Yes,
            false => Support::No(format!("{} has no kernel yet", op.name())),
        }
    }

    fn needs(&self, graph: &Graph, limits: &ProgramLimits) -> Needs {
        Needs { weight_bytes: weight_bytes(graph), mapped_bytes: 0, activation_bytes: memory(graph, limits) }
    }

    fn weights(&self, source: Arc<dyn WeightSource>, graph: &Graph) -> Result<Arc<dyn Weights>, DeviceError> {
        Ok(Arc::new(WgpuWeights::new(&self.gpu, &*source, graph)?))
    }

    fn pool(&self, plan: &PoolPlan) -> Result<Arc<dyn Pool>, DeviceError> {
        Ok(Arc::new(WgpuPool::new(&self.gpu, plan)?))
    }

    fn compile(
        &self,
        graph: &Graph,
        weights: &Arc<dyn Weights>,
        pool: &Arc<dyn Pool>,
        limits: &ProgramLimits,
    ) -> Result<Box<dyn Program>, DeviceError> {
        let foreign = |what: &str| DeviceError::Invalid(format!("the {what} are another device's"));
        let weights = weights.as_any().downcast_ref::<WgpuWeights>().ok_or_else(|| foreign("weights"))?;
        pool.as_any().downcast_ref::<WgpuPool>().ok_or_else(|| foreign("slots and pages"))?;
        Ok(Box::new(WgpuProgram::new(&self.gpu, graph, weights, pool.clone(), limits)?))
    }
}
