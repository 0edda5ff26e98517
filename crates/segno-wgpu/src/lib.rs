//! The GPU backend: WGSL through wgpu, on Vulkan, Metal and DX12.
//!
//! Kernels are templates in `shaders/wgsl`, one an op; constants are baked in when a program is
//! compiled. Bind groups and pipelines are made once; a step writes one small buffer and submits
//! once. Two steps may be under way: tokens are drawn on the device and fed back there.
//!
//! # Exactness
//! A row is computed by the same kernel in the same order whatever is beside it: reductions have one
//! tree, attention goes over pages at absolute multiples of 64, scans are sequential. So batches,
//! cuts and span kinds change no bit on one device.

mod adapter;
mod device;
mod gpu;
mod op;
mod params;
mod pool;
mod program;
mod shader;
mod weights;

pub use adapter::{AdapterChoice, adapters};
pub use device::{WgpuDevice, WgpuOptions};
pub use shader::{ShaderError, variants};
