//! Which devices there are, and which one a name means.

use std::sync::Arc;

use segno_cpu::{CpuDevice, CpuOptions};
use segno_ir::{Capabilities, Device, DeviceKind};

use crate::Error;

/// A device that could be used.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// What `--device` takes: `cpu`, `vulkan:0`, ...
    pub id: String,
    /// What it says of itself; for a GPU that cannot be opened, why.
    pub capabilities: Result<Capabilities, String>,
}

fn cpu(threads: Option<usize>) -> CpuDevice {
    CpuDevice::new(CpuOptions { threads, ..CpuOptions::default() })
}

#[cfg(feature = "wgpu")]
mod gpu {
    pub use segno_wgpu::{AdapterChoice, WgpuDevice, WgpuOptions, adapters};
}

/// The names that there would be with the feature `wgpu`: none.
#[cfg(not(feature = "wgpu"))]
mod gpu {
    use segno_cpu::CpuDevice;
    use segno_ir::{DeviceError, DeviceKind};

    pub struct AdapterChoice {
        pub id: String,
        pub name: String,
        pub backend: &'static str,
        pub kind: DeviceKind,
    }

    #[derive(Default)]
    pub struct WgpuOptions;

    pub struct WgpuDevice;

    impl WgpuDevice {
        #[expect(clippy::new_ret_no_self, reason = "there is no such device to make")]
        pub fn new(choice: &AdapterChoice, _: &WgpuOptions) -> Result<CpuDevice, DeviceError> {
            Err(DeviceError::Invalid(format!("{} is not built in", choice.id)))
        }
    }

    pub fn adapters() -> Vec<AdapterChoice> {
        Vec::new()
    }
}

use gpu::{AdapterChoice, WgpuDevice, WgpuOptions, adapters};

/// All devices; the one that `auto` takes first, software adapters last.
pub fn devices() -> Vec<DeviceInfo> {
    let open = |choice: &AdapterChoice| DeviceInfo {
        id: choice.id.clone(),
        capabilities: WgpuDevice::new(choice, &WgpuOptions::default())
            .map(|device| device.describe().clone())
            .map_err(|error| error.to_string()),
    };
    let cpu = DeviceInfo { id: "cpu".into(), capabilities: Ok(cpu(None).describe().clone()) };
    let (software, real): (Vec<_>, Vec<_>) = adapters().into_iter().partition(|a| a.kind == DeviceKind::Software);
    real.iter().map(open).chain([cpu]).chain(software.iter().map(open)).collect()
}

/// Opens a device: `auto`, `cpu`, `vulkan`, `metal`, `dx12`, one of them with a number (`vulkan:1`), or a part of
/// an adapter's name. `auto` takes the best GPU, or the CPU; it never takes a software adapter. `threads` is for
/// the CPU.
pub fn open_device(name: &str, threads: Option<usize>) -> Result<Arc<dyn Device>, Error> {
    let wanted = name.to_lowercase();
    if wanted == "cpu" {
        return Ok(Arc::new(cpu(threads)));
    }
    let adapters = adapters();
    let open = |choice: &AdapterChoice| -> Result<Arc<dyn Device>, Error> {
        Ok(Arc::new(WgpuDevice::new(choice, &WgpuOptions::default())?))
    };
    if wanted == "auto" {
        let gpus = adapters.iter().filter(|a| matches!(a.kind, DeviceKind::DiscreteGpu | DeviceKind::IntegratedGpu));
        for choice in gpus {
            match open(choice) {
                Ok(device) => return Ok(device),
                Err(error) => log::warn!("{} ({}) is passed over: {error}", choice.id, choice.name),
            }
        }
        return Ok(Arc::new(cpu(threads)));
    }
    let exact = adapters.iter().find(|a| a.id == wanted || a.backend == wanted);
    match exact.or_else(|| adapters.iter().find(|a| a.name.to_lowercase().contains(&wanted))) {
        Some(choice) => open(choice),
        None => {
            let known = ["auto", "cpu"].into_iter().map(str::to_string);
            let known = known.chain(adapters.iter().map(|a| format!("{} ({})", a.id, a.name))).collect();
            Err(Error::NoDevice { name: name.into(), known })
        }
    }
}
