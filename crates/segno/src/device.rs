//! Which devices there are, and which one `auto` takes.

use std::sync::Arc;

use segno_cpu::{CpuDevice, CpuOptions};
use segno_ir::{Capabilities, Device};

use crate::Error;

/// A device that could be used.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// What `--device` takes: `cpu`, `vulkan:0`, ...
    pub id: String,
    /// What it says of itself.
    pub capabilities: Capabilities,
}

fn cpu(threads: Option<usize>) -> CpuDevice {
    CpuDevice::new(CpuOptions { threads, ..CpuOptions::default() })
}

/// All devices, the one that `auto` takes first.
pub fn devices() -> Vec<DeviceInfo> {
    vec![DeviceInfo { id: "cpu".into(), capabilities: cpu(None).describe().clone() }]
}

/// Opens a device by name: `auto` or `cpu`. `threads` is for the CPU.
pub fn open_device(name: &str, threads: Option<usize>) -> Result<Arc<dyn Device>, Error> {
    match name {
        "auto" | "cpu" => Ok(Arc::new(cpu(threads))),
        _ => Err(Error::NoDevice { name: name.into(), known: vec!["auto".into(), "cpu".into()] }),
    }
}
