//! The whole suite on the CPU backend, in each of its forms.

use segno_conformance::{Filter, run};
use segno_cpu::{CpuDevice, CpuOptions};

fn passes(options: CpuOptions) {
    let device = CpuDevice::new(options);
    let report = run(&device, &Filter::all(), &mut |_| {});
    println!("{}", report.text());
    assert!(!report.failed(), "{} failures, listed above", report.failures.len());
    assert!(report.unsupported.is_empty(), "the CPU runs everything");
}

#[test]
fn the_cpu_is_right() {
    passes(CpuOptions::default());
}

#[test]
fn its_portable_form_is_right_on_one_thread() {
    passes(CpuOptions { portable: true, threads: Some(1), ..CpuOptions::default() });
}

#[test]
fn it_is_right_with_exact_activations() {
    passes(CpuOptions { exact_activations: true, threads: Some(3), ..CpuOptions::default() });
}
