//! The device and queue, and what every part needs of them: buffers, waiting, pipelines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segno_ir::device::Completion;
use segno_ir::{DeviceError, Pending};

use crate::shader::Variant;

/// Most bytes of host memory that are kept for readbacks to come: to make such a buffer takes longer than to fill it.
const SPARE_BYTES: u64 = 64 << 20;

/// Shared by everything on a device.
pub(crate) struct Gpu {
    pub name: String,
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub limits: wgpu::Limits,
    pub trusted: bool,
    /// What the driver said when it gave up.
    failed: Arc<Mutex<Option<String>>>,
    pipelines: Mutex<HashMap<(Variant, Vec<bool>), Pipeline>>,
    /// Commands that were issued and not yet submitted: what a step adds to.
    recording: Mutex<Option<wgpu::CommandEncoder>>,
    /// Buffers of readbacks that were taken, the oldest first.
    spare: Mutex<Vec<wgpu::Buffer>>,
}

/// A pipeline, and the layout of its first bind group.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    pub fn new(name: String, device: wgpu::Device, queue: wgpu::Queue, trusted: bool) -> Arc<Gpu> {
        let failed = Arc::new(Mutex::new(None));
        let keep = failed.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device is no loss.
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&keep).get_or_insert(format!("{reason:?}: {message}"));
            }
        });
        let keep = failed.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            log::error!("the graphics driver reports: {error}");
            lock(&keep).get_or_insert(error.to_string());
        }));
        let limits = device.limits();
        Arc::new(Gpu {
            name,
            device,
            queue,
            limits,
            trusted,
            failed,
            pipelines: Mutex::new(HashMap::new()),
            recording: Mutex::new(None),
            spare: Mutex::new(Vec::new()),
        })
    }

    /// Fails if the device was lost or an error came up.
    pub fn check(&self) -> Result<(), DeviceError> {
        match &*lock(&self.failed) {
            Some(reason) => Err(DeviceError::Lost { device: self.name.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Runs `make` and turns what the driver says about it into an error.
    fn scoped<T>(&self, bytes: u64, purpose: &str, make: impl FnOnce() -> T) -> Result<T, DeviceError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let (validation, memory) = (pollster::block_on(validation.pop()), pollster::block_on(memory.pop()));
        if let Some(error) = validation {
            return Err(DeviceError::Invalid(format!("{purpose}: {error}")));
        }
        match memory {
            Some(_) => Err(self.out_of_memory(bytes, purpose)),
            None => self.check().map(|()| made),
        }
    }

    pub fn out_of_memory(&self, bytes: u64, purpose: &str) -> DeviceError {
        DeviceError::OutOfMemory {
            device: self.name.clone(),
            bytes,
            purpose: purpose.into(),
            hint: "lower -c, --checkpoint-budget or the batch size, use a smaller quantisation, or --device cpu".into(),
        }
    }

    /// A storage buffer of zeros.
    pub fn storage(&self, bytes: u64, purpose: &str) -> Result<wgpu::Buffer, DeviceError> {
        let size = bytes.max(4).next_multiple_of(4);
        if size > self.limits.max_storage_buffer_binding_size || size > self.limits.max_buffer_size {
            return Err(self.out_of_memory(size, purpose));
        }
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: Some(purpose), size, usage, mapped_at_creation: false };
        self.scoped(size, purpose, || self.device.create_buffer(&descriptor))
    }

    /// A buffer that the host reads.
    pub fn readback(&self, bytes: u64) -> Result<wgpu::Buffer, DeviceError> {
        let size = bytes.max(4).next_multiple_of(4);
        let mut spare = lock(&self.spare);
        if let Some(i) = spare.iter().position(|b| b.size() == size) {
            return Ok(spare.remove(i));
        }
        drop(spare);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some("readback"), size, usage, mapped_at_creation: false };
        self.scoped(size, "readback", || self.device.create_buffer(&descriptor))
    }

    /// Keeps an unmapped readback's buffer for the next of its size.
    fn keep(&self, buffer: wgpu::Buffer) {
        let mut spare = lock(&self.spare);
        spare.push(buffer);
        while spare.iter().map(wgpu::Buffer::size).sum::<u64>() > SPARE_BYTES {
            spare.remove(0);
        }
    }

    /// The pipeline of a variant. `bindings`: for each binding of group 0, whether it is written.
    pub fn pipeline(&self, variant: &Variant, bindings: &[bool], param_bytes: usize) -> Result<Pipeline, DeviceError> {
        let key = (variant.clone(), bindings.to_vec());
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let source = variant.expand().map_err(|e| DeviceError::Invalid(e.to_string()))?;
        let made = self.scoped(0, variant.name, || {
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(variant.name),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            };
            let module = match self.trusted {
                // SAFETY: our own kernels guard every index (the conformance suite runs them with checks as
                // well), and write workgroup memory before they read it.
                true => unsafe {
                    self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
                },
                false => self.device.create_shader_module(descriptor),
            };
            let entry = |(i, &written): (usize, &bool)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !written },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            };
            let entries: Vec<_> = bindings.iter().enumerate().map(entry).collect();
            let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(variant.name),
                entries: &entries,
            });
            let step = self.step_layout();
            let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(variant.name),
                // Copies belong to no step.
                bind_group_layouts: &[Some(&layout), Some(&step)][..if variant.name == "copy" { 1 } else { 2 }],
                immediate_size: param_bytes as u32,
            });
            let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(variant.name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            Pipeline { pipeline, layout }
        })?;
        lock(&self.pipelines).insert(key, made.clone());
        Ok(made)
    }

    /// The layout of group 1: the step's words, and the drawn tokens.
    pub fn step_layout(&self) -> wgpu::BindGroupLayout {
        let entry = |binding, read_only| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Storage { read_only },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        };
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("step"),
            entries: &[entry(0, true), entry(1, false)],
        })
    }

    /// Adds commands to those that go out with the next submit.
    pub fn record<R>(&self, f: impl FnOnce(&mut wgpu::CommandEncoder) -> R) -> R {
        let mut recording = lock(&self.recording);
        f(recording
            .get_or_insert_with(|| self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())))
    }

    /// Submits what was recorded.
    pub fn submit(&self) -> Option<wgpu::SubmissionIndex> {
        let encoder = lock(&self.recording).take()?;
        Some(self.queue.submit([encoder.finish()]))
    }

    /// Submits what was recorded and waits until the device has nothing to do.
    pub fn finish(&self, timeout: Duration) -> Result<(), DeviceError> {
        self.submit();
        self.poll(None, timeout)
    }

    /// Waits for a submission, or the last one.
    fn poll(&self, submission_index: Option<wgpu::SubmissionIndex>, timeout: Duration) -> Result<(), DeviceError> {
        // Beyond an hour the driver's clock arithmetic may overflow.
        let timeout = timeout.min(Duration::from_secs(3600));
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: Some(timeout) });
        self.check()?;
        let late = || DeviceError::Timeout { device: self.name.clone(), seconds: timeout.as_secs() };
        polled.map(drop).map_err(|_| late())
    }

    /// Submits, copies `bytes` from a buffer to the host when all before is done, and hands out the promise.
    pub fn read(self: &Arc<Self>, from: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Readback, DeviceError> {
        let buffer = self.readback(bytes)?;
        self.record(|encoder| encoder.copy_buffer_to_buffer(from, offset, &buffer, 0, bytes));
        Ok(self.promise(buffer, bytes))
    }

    /// Submits what was recorded, and maps `buffer` once that is done.
    pub fn promise(self: &Arc<Self>, buffer: wgpu::Buffer, bytes: u64) -> Readback {
        let submission = self.submit();
        let state = Arc::new(Mutex::new(None));
        let done = state.clone();
        buffer.map_async(wgpu::MapMode::Read, 0..bytes, move |result| *lock(&done) = Some(result.is_ok()));
        Readback { gpu: self.clone(), buffer, bytes, submission, state }
    }
}

/// Bytes on their way to the host.
pub(crate) struct Readback {
    gpu: Arc<Gpu>,
    buffer: wgpu::Buffer,
    bytes: u64,
    submission: Option<wgpu::SubmissionIndex>,
    state: Arc<Mutex<Option<bool>>>,
}

impl Readback {
    /// What `f` makes of the bytes, once they are there.
    pub fn then<T>(self, f: impl FnMut(&[u8]) -> T + Send + 'static) -> Pending<T> {
        Pending::new(Then(self, f))
    }

    fn take<T>(&self, f: impl FnOnce(&[u8]) -> T) -> Option<Result<T, DeviceError>> {
        let mapped = (*lock(&self.state))?;
        let gone =
            || DeviceError::Lost { device: self.gpu.name.clone(), reason: "a result could not be mapped".into() };
        if !mapped {
            return Some(Err(self.gpu.check().err().unwrap_or_else(gone)));
        }
        let made = match self.buffer.get_mapped_range(0..self.bytes) {
            Ok(view) => f(&view),
            Err(_) => return Some(Err(gone())),
        };
        self.buffer.unmap();
        self.gpu.keep(self.buffer.clone());
        Some(self.gpu.check().map(|()| made))
    }

    /// What `f` makes of the bytes.
    pub fn wait<T>(&self, timeout: Duration, f: impl FnOnce(&[u8]) -> T) -> Result<T, DeviceError> {
        self.gpu.poll(self.submission.clone(), timeout)?;
        let late = DeviceError::Timeout { device: self.gpu.name.clone(), seconds: timeout.as_secs() };
        self.take(f).unwrap_or(Err(late))
    }
}

struct Then<F>(Readback, F);

impl<T, F: FnMut(&[u8]) -> T + Send> Completion<T> for Then<F> {
    fn try_take(&mut self) -> Option<Result<T, DeviceError>> {
        let Then(readback, f) = self;
        match readback.gpu.device.poll(wgpu::PollType::Poll) {
            Ok(_) => readback.take(f),
            // A driver that cannot be asked any more has said why, or is asked again until the caller's time is up.
            Err(_) => readback.gpu.check().err().map(Err),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<T, DeviceError> {
        self.0.wait(timeout, &mut self.1)
    }
}
