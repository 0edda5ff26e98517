//! The whole suite on the software Vulkan adapter (lavapipe), with and without wgpu's own checks of
//! indices. Without that adapter the tests fail: no machine that runs them is without a CPU.

use segno_conformance::{Filter, run};
use segno_ir::DeviceKind;
use segno_wgpu::{WgpuDevice, WgpuOptions, adapters};

/// Ops that the backend refuses so far.
const WITHOUT_KERNEL: &[&str] = &["layer_norm", "selective_scan", "ssd", "wkv6", "wkv7", "token_shift"];

fn passes(options: &WgpuOptions, filter: &Filter) -> Result<(), Box<dyn std::error::Error>> {
    let found = adapters();
    let names: Vec<&str> = found.iter().map(|a| a.name.as_str()).collect();
    let software = found.iter().find(|a| a.kind == DeviceKind::Software);
    let software = software.ok_or_else(|| {
        format!("no software Vulkan adapter; on Debian: apt-get install mesa-vulkan-drivers (found: {names:?})")
    })?;
    let device = WgpuDevice::new(software, options)?;
    let report = run(&device, filter, &mut |_| {});
    println!("{}", report.text());
    assert!(!report.failed(), "{} failures, listed above", report.failures.len());
    for note in &report.unsupported {
        let op = note.case.split('/').next().unwrap_or_default();
        assert!(WITHOUT_KERNEL.contains(&op), "{}: {}", note.case, note.message);
    }
    Ok(())
}

#[test]
fn software_vulkan_is_right() -> Result<(), Box<dyn std::error::Error>> {
    passes(&WgpuOptions::default(), &Filter::all())
}

#[test]
fn software_vulkan_is_right_with_checked_indices() -> Result<(), Box<dyn std::error::Error>> {
    passes(&WgpuOptions { checked: true, ..WgpuOptions::default() }, &Filter::all())
}

#[test]
fn tensors_beyond_the_largest_binding_are_right() -> Result<(), Box<dyn std::error::Error>> {
    // A table of 1024 x 257 f32 takes a little more.
    let options = WgpuOptions { max_binding_bytes: Some(1 << 20), ..WgpuOptions::default() };
    passes(&options, &Filter::new("^(linear|expert_linear|embed)/F32/")?)
}
