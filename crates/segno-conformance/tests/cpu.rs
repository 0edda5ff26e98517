//! The whole suite on the CPU backend.

use segno_conformance::{Filter, run};
use segno_cpu::{CpuDevice, CpuOptions};

#[test]
fn the_cpu_is_right() {
    let device = CpuDevice::new(CpuOptions::default());
    let report = run(&device, &Filter::all(), &mut |_| {});
    println!("{}", report.text());
    assert!(!report.failed(), "{} failures, listed above", report.failures.len());
    assert!(report.unsupported.is_empty(), "the CPU runs everything");
}
