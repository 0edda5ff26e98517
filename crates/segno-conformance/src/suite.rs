//! Runs the cases.

use std::time::Instant;

use fancy_regex::Regex;
use segno_ir::{Device, DeviceError, DeviceKind};

use crate::case::{self, Spec, Task};
use crate::compare::{compare, stray_write};
use crate::exact::exact;
use crate::random::Random;
use crate::report::{Check, DeviceFacts, Report, Sink};
use crate::rig::{Rig, Stop};

/// A case that talks to the device itself.
pub(crate) type Direct = dyn Fn(&dyn Device, &mut Random, &mut Sink) -> Result<(), DeviceError>;

/// Which cases run.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pattern: Option<Regex>,
}

/// A filter that is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no regular expression: {reason}; case names look like linear/Q8_0/in=32,...")]
pub struct FilterError {
    /// What was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Filter {
    /// Every case.
    pub fn all() -> Self {
        Self::default()
    }

    /// Cases whose name (`op/type/parameters`) the regular expression matches somewhere.
    pub fn new(pattern: &str) -> Result<Self, FilterError> {
        let fail = |e: fancy_regex::Error| FilterError { pattern: pattern.into(), reason: e.to_string() };
        Ok(Filter { pattern: Some(Regex::new(pattern).map_err(fail)?) })
    }

    /// The case of exactly this name: how a failure is run again.
    pub fn exactly(name: &str) -> Self {
        // An escaped text is a regular expression.
        Filter { pattern: Regex::new(&format!("^{}$", fancy_regex::escape(name))).ok() }
    }

    fn matches(&self, name: &str) -> bool {
        // A pattern that backtracks without end matches nothing.
        self.pattern.as_ref().is_none_or(|p| p.is_match(name).unwrap_or(false))
    }
}

/// Where a run stands; given before each case.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Cases that have run.
    pub done: usize,
    /// Cases that will.
    pub total: usize,
    /// The case that comes next.
    pub case: &'a str,
    /// Failures so far.
    pub failures: usize,
}

/// Names of the cases that a filter selects.
pub fn names(filter: &Filter) -> Vec<String> {
    case::all().into_iter().map(|s| s.name).filter(|name| filter.matches(name)).collect()
}

/// Runs the selected cases on a device. Errors of the device are failures of their cases; only a lost
/// device ends the run early, since nothing works after it.
pub fn run(device: &dyn Device, filter: &Filter, progress: &mut dyn FnMut(Progress<'_>)) -> Report {
    let start = Instant::now();
    let mut report = Report::new(DeviceFacts::of(device.describe()));
    let specs: Vec<Spec> = case::all().into_iter().filter(|s| filter.matches(&s.name)).collect();
    for (done, spec) in specs.iter().enumerate() {
        progress(Progress { done, total: specs.len(), case: &spec.name, failures: report.failures.len() });
        let mut sink = Sink::default();
        match run_case(device, spec, &mut sink) {
            Ok(()) => report.add(spec.op, spec.ty, &spec.name, sink, None),
            Err(Stop::Unsupported(reason)) => report.add_unsupported(spec.op, spec.ty, &spec.name, reason),
            Err(Stop::Failed(reason)) => report.add(spec.op, spec.ty, &spec.name, sink, Some(reason)),
            Err(Stop::Lost(reason)) => {
                report.add(spec.op, spec.ty, &spec.name, sink, Some(reason));
                break;
            }
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

fn run_case(device: &dyn Device, spec: &Spec, sink: &mut Sink) -> Result<(), Stop> {
    let mut rng = Random::of(&spec.name);
    let build = match &spec.task {
        Task::Direct(direct) => return Ok(direct(device, &mut rng, sink)?),
        Task::Graph(build) => build,
    };
    let case = build(&mut rng).map_err(|e| Stop::Failed(format!("the case could not be built: {e}")))?;
    let mut rig = Rig::new(device, &case)?;
    let whole = rig.run(&rig.together())?;
    compare(device, &case, &rig, &whole, sink).map_err(|e| Stop::Failed(format!("the reference: {e}")))?;
    sink.exact(Check::Untouched, true, stray_write(&case, &rig, &whole, true));
    let cpu = device.describe().kind == DeviceKind::Cpu;
    Ok(exact(&case, &mut rig, &whole, cpu, sink)?)
}
