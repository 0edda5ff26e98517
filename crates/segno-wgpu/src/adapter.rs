//! Which adapters there are, and which one a name means.

use segno_ir::DeviceKind;

/// An adapter that could be used.
pub struct AdapterChoice {
    /// `vulkan:0`, `metal:0`, ...: what `--device` takes.
    pub id: String,
    /// As the driver names it.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: &'static str,
    /// What kind.
    pub kind: DeviceKind,
    /// Driver and version.
    pub driver: String,
    pub(crate) adapter: wgpu::Adapter,
}

/// Bytes of the memory that belongs to the device, where the driver tells: on Vulkan. A software adapter has none of its
/// own.
#[cfg(not(any(target_os = "macos", target_os = "ios")))]
pub(crate) fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1;
    if adapter.get_info().device_type == wgpu::DeviceType::Cpu {
        return None;
    }
    // SAFETY: the handles are only read, and neither outlives the adapter.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let (instance, device) = (vulkan.shared_instance().raw_instance(), vulkan.raw_physical_device());
    // SAFETY: the physical device is one of this instance.
    let memory = unsafe { instance.get_physical_device_memory_properties(device) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

/// Metal tells nothing that this crate can read.
#[cfg(any(target_os = "macos", target_os = "ios"))]
pub(crate) fn memory_bytes(_: &wgpu::Adapter) -> Option<u64> {
    None
}

fn backend_name(backend: wgpu::Backend) -> Option<&'static str> {
    match backend {
        wgpu::Backend::Vulkan => Some("vulkan"),
        wgpu::Backend::Metal => Some("metal"),
        wgpu::Backend::Dx12 => Some("dx12"),
        _ => None,
    }
}

const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

/// The process's instance. It is never given back: that would unload the driver, and some drivers leave
/// destructors behind in threads that outlive it (seen on an H200 as a crash when the engine's thread ended).
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: std::sync::OnceLock<wgpu::Instance> = std::sync::OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = BACKENDS;
        // Validation of indirect calls costs a dispatch each; nothing here makes any.
        descriptor.flags = wgpu::InstanceFlags::empty();
        wgpu::Instance::new(descriptor)
    })
}

/// All adapters that can run kernels: discrete GPUs first, software last.
pub fn adapters() -> Vec<AdapterChoice> {
    let found = pollster::block_on(instance().enumerate_adapters(BACKENDS));
    let mut counts = std::collections::HashMap::new();
    let mut list: Vec<AdapterChoice> = found
        .into_iter()
        .filter_map(|adapter| {
            let info = adapter.get_info();
            let backend = backend_name(info.backend)?;
            let count = counts.entry(backend).or_insert(0);
            let id = format!("{backend}:{count}");
            *count += 1;
            let kind = match info.device_type {
                wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
                wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
                wgpu::DeviceType::Cpu => DeviceKind::Software,
                _ => DeviceKind::Other,
            };
            let driver = format!("{} {}", info.driver, info.driver_info).trim().to_string();
            Some(AdapterChoice { id, name: info.name, backend, kind, driver, adapter })
        })
        .collect();
    list.sort_by_key(|a| (a.kind == DeviceKind::Software, a.kind));
    list
}
