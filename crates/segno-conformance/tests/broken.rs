//! The suite itself: it passes a device that is right and finds each fault of one that is not.

mod common;

use std::sync::Arc;

use common::broken::{Broken, Fault};
use common::oracle::Oracle;
use segno_conformance::{Check, Failure, Filter, Report, names, run};
use segno_ir::Device;

fn with_fault(fault: Fault, pattern: &str) -> Result<Report, Box<dyn std::error::Error>> {
    let device = Broken::new(Arc::new(Oracle::new()), fault);
    Ok(run(&device, &Filter::new(pattern)?, &mut |_| {}))
}

/// Runs the cases of `pattern` with a fault: each of these checks must find it in at least one.
fn finds(fault: Fault, pattern: &str, checks: &[Check]) -> Result<(), Box<dyn std::error::Error>> {
    let report = with_fault(fault, pattern)?;
    for check in checks {
        let found = report.failures.iter().any(|f| f.check == *check);
        assert!(found, "{fault:?} was not found by {check:?} in {pattern}:\n{}", report.text());
    }
    Ok(())
}

#[test]
fn the_reference_passes_its_own_suite() {
    let report = run(&Oracle::new(), &Filter::all(), &mut |_| {});
    assert!(!report.failed(), "{}", report.text());
    // Its pages hold f32 only, and it says so.
    assert!(report.unsupported.iter().all(|n| n.case.starts_with("attention/kv") || n.case.starts_with("copy/kv")));
    assert!(!report.unsupported.is_empty());
}

#[test]
fn wrong_outputs_are_found_in_every_op() -> Result<(), Box<dyn std::error::Error>> {
    // Without the longest spans and most weight types, for time.
    let pattern = "^(?!sample|copy|(embed|linear)/(?!F32|Q4_K|Q8_0)).*batch=(?!.*p(129|130|257))";
    for fault in [Fault::OffByOneRow, Fault::RelativeError, Fault::Nan] {
        let report = with_fault(fault, pattern)?;
        for kind in segno_ir::OpKind::ALL {
            let of_op = |f: &&Failure| f.check == Check::Tight && f.case.starts_with(&format!("{}/", kind.name()));
            assert!(report.failures.iter().any(|f| of_op(&f)), "{fault:?} is not found in {}", kind.name());
        }
    }
    Ok(())
}

#[test]
fn nearly_every_case_finds_a_small_error() -> Result<(), Box<dyn std::error::Error>> {
    // What is left are tangents of tiny numbers, whose bound is absolute.
    let report = with_fault(Fault::UniformError, "^(?!sample|copy|(embed|linear)/(?!F32|Q4_K|Q8_0))")?;
    for row in &report.matrix {
        assert!(row.failed * 100 >= row.cases * 85, "{} {}: {} of {}", row.op, row.ty, row.failed, row.cases);
    }
    Ok(())
}

#[test]
fn every_case_finds_a_nan() -> Result<(), Box<dyn std::error::Error>> {
    let report = with_fault(Fault::Nan, "^(linear|attention|delta_rule|activate)/")?;
    let failed: usize = report.matrix.iter().map(|r| r.failed).sum();
    assert_eq!(failed, report.cases, "{}", report.text());
    Ok(())
}

#[test]
fn results_that_depend_on_the_batch_are_found() -> Result<(), Box<dyn std::error::Error>> {
    for op in ["linear/Q8_0", "attention", "delta_rule", "rms_norm"] {
        finds(Fault::BatchDependent, &format!("^{op}/"), &[Check::Together])?;
    }
    for op in ["linear/Q8_0", "attention", "delta_rule"] {
        finds(Fault::CutDependent, &format!("^{op}/"), &[Check::Cut, Check::AnyCut])?;
    }
    Ok(())
}

#[test]
fn wrong_states_are_found() -> Result<(), Box<dyn std::error::Error>> {
    for op in ["short_conv", "delta_rule"] {
        let pattern = format!("^{op}/");
        finds(Fault::StateNotWritten, &pattern, &[Check::Tight])?;
        finds(Fault::StateError, &pattern, &[Check::Tight])?;
        finds(Fault::SnapshotAtEnd, &pattern, &[Check::Tight, Check::Snapshot])?;
        finds(Fault::StateInPlace, &pattern, &[Check::Untouched])?;
    }
    Ok(())
}

#[test]
fn wrong_pages_are_found() -> Result<(), Box<dyn std::error::Error>> {
    finds(Fault::PageNotWritten, "^attention/", &[Check::Untouched, Check::Tight])?;
    finds(Fault::PageOverrun, "^attention/", &[Check::Untouched])?;
    finds(Fault::WrongHistory, "^attention/", &[Check::Tight])
}

#[test]
fn wrong_copies_and_draws_are_found() -> Result<(), Box<dyn std::error::Error>> {
    finds(Fault::CopiesFirstSlotOnly, "^copy/", &[Check::Memory])?;
    finds(Fault::CopiesOneTokenLess, "^copy/", &[Check::Memory])?;
    finds(Fault::WrongToken, "^sample/", &[Check::Draw])?;
    finds(Fault::NeverDone, "^sample/", &[Check::Draw])
}

#[test]
fn errors_of_the_device_fail_cases_and_a_lost_one_ends_the_run() -> Result<(), Box<dyn std::error::Error>> {
    finds(Fault::Fails, "^add/", &[Check::Run])?;
    let report = with_fault(Fault::Lost, "^add/")?;
    assert_eq!((report.cases, report.failures.len()), (1, 1));
    assert!(report.text().contains("was lost"));
    Ok(())
}

#[test]
fn a_failure_is_run_again_by_its_name() -> Result<(), Box<dyn std::error::Error>> {
    let report = with_fault(Fault::RelativeError, "^soft_cap/")?;
    let name = &report.failures[0].case;
    assert_eq!(names(&Filter::exactly(name)), vec![name.clone()]);
    let device: Arc<dyn Device> = Arc::new(Oracle::new());
    let again = run(&Broken::new(device, Fault::RelativeError), &Filter::exactly(name), &mut |_| {});
    assert_eq!(again.failures[0], report.failures[0]);
    assert!(Filter::new("(").is_err());
    Ok(())
}

#[test]
fn reports_say_what_failed() -> Result<(), Box<dyn std::error::Error>> {
    let report = with_fault(Fault::Nan, "^scale/.*n=33")?;
    let (text, markdown) = (report.text(), report.markdown());
    let json: serde_json::Value = serde_json::from_str(&report.json())?;
    let case = &report.failures[0].case;
    assert!(text.contains(&format!("FAILED {case}")) && text.contains("NaN"));
    assert!(markdown.contains(&format!("`{case}`")));
    assert_eq!(json["failures"][0]["check"], "tight");
    assert_eq!(json["device"]["kind"], "CPU");
    Ok(())
}
