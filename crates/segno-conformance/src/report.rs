//! What came out, as data, text and Markdown.

use std::fmt::Write;

use segno_ir::{Capabilities, DeviceKind};
use serde::Serialize;

use crate::compare::Worst;

/// What a case was checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// That it runs: the device said yes and gave results.
    Run,
    /// Error against the reference given the device's own rounding of inputs.
    Tight,
    /// Error against the reference given the inputs as they were.
    Stated,
    /// Memory that a step may not write is what it was; keys and values are stored as given.
    Untouched,
    /// A sequence beside others equals itself alone, bit for bit.
    Together,
    /// A prefill span cut at multiples of 64, a decode span cut anywhere: equal bits.
    Cut,
    /// Outputs that are read after the next step was issued are those of their own step.
    TwoUnderWay,
    /// A prefill span cut anywhere: equal bits. Required on the CPU only.
    AnyCut,
    /// Prefill and decode: equal bits. Required on the CPU only.
    Kinds,
    /// A snapshot in mid-scan equals the final state of a span that ends there, bit for bit.
    Snapshot,
    /// A step whose cancel flag is set leaves states that are read, and everybody else's, as they were.
    Cancelled,
    /// The token that is drawn is the one that the definition draws.
    Draw,
    /// Slots and pages hold what was written or copied, in issue order.
    Memory,
}

impl Check {
    /// What it says, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Check::Run => "runs",
            Check::Tight => "error, inputs as rounded",
            Check::Stated => "error, inputs as given",
            Check::Untouched => "nothing else is written",
            Check::Together => "together = alone",
            Check::Cut => "cut at 64 = uncut",
            Check::TwoUnderWay => "two steps under way",
            Check::AnyCut => "cut anywhere = uncut",
            Check::Kinds => "prefill = decode",
            Check::Snapshot => "snapshot = final state",
            Check::Cancelled => "cancelled steps do no harm",
            Check::Draw => "draws as defined",
            Check::Memory => "copies, reads, writes",
        }
    }
}

/// The device that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceFacts {
    /// As the driver names it.
    pub name: String,
    /// `cpu`, `vulkan` ...
    pub backend: String,
    /// Discrete, integrated, software ...
    pub kind: String,
    /// Driver and version, or the SIMD level.
    pub driver: String,
    /// Optional features in use.
    pub features: Vec<String>,
    /// What decides the bits of a result.
    pub numerics: String,
}

impl DeviceFacts {
    pub(crate) fn of(capabilities: &Capabilities) -> Self {
        let kind = match capabilities.kind {
            DeviceKind::DiscreteGpu => "discrete GPU",
            DeviceKind::IntegratedGpu => "integrated GPU",
            DeviceKind::Cpu => "CPU",
            DeviceKind::Software => "software adapter",
            DeviceKind::Other => "other",
        };
        DeviceFacts {
            name: capabilities.name.clone(),
            backend: capabilities.backend.into(),
            kind: kind.into(),
            driver: capabilities.driver.clone(),
            features: capabilities.features.clone(),
            numerics: capabilities.numerics.clone(),
        }
    }
}

/// The cases of one op and type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The op, or `sample`, `copy`.
    pub op: String,
    /// Weight or page type.
    pub ty: String,
    /// Cases that ran.
    pub cases: usize,
    /// Cases that failed in any way.
    pub failed: usize,
    /// Cases that the device says it cannot run.
    pub unsupported: usize,
    /// Largest error in units of its bound, inputs as the device rounds them; infinite (`null` in
    /// JSON) for NaN or where no error is allowed. `None`: no such comparison.
    pub tight: Option<f64>,
    /// The case that has it.
    pub tight_case: String,
    /// As `tight`, inputs as given.
    pub stated: Option<f64>,
    /// The case that has it.
    pub stated_case: String,
}

/// How often a property without tolerance held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tally {
    /// The op.
    pub op: String,
    /// The property.
    pub check: Check,
    /// Whether a case fails without it on this device.
    pub required: bool,
    /// Cases in which it held.
    pub held: usize,
    /// Cases in which it did not.
    pub broken: usize,
}

/// A check that did not hold. The case's name is enough to run it again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// Name of the case.
    pub case: String,
    /// What failed.
    pub check: Check,
    /// Where, and by how much.
    pub message: String,
}

/// Something that is no failure and ought to be known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    /// Name of the case.
    pub case: String,
    /// What.
    pub message: String,
}

/// The result of a run over a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The device.
    pub device: DeviceFacts,
    /// Cases that ran.
    pub cases: usize,
    /// How long all took.
    pub seconds: f64,
    /// The matrix, op by type.
    pub matrix: Vec<Row>,
    /// Properties without tolerance, by op.
    pub exactness: Vec<Tally>,
    /// What failed.
    pub failures: Vec<Failure>,
    /// What the device says it cannot run, and why.
    pub unsupported: Vec<Note>,
}

/// What one case found.
#[derive(Default)]
pub(crate) struct Sink {
    results: Vec<(Check, Verdict)>,
}

enum Verdict {
    /// Error over bound, and where if above 1.
    Bounded(f64, Option<String>),
    /// Whether it is required, and what differs.
    Exact(bool, Option<String>),
}

impl Sink {
    /// Notes an error that has a bound.
    pub fn bounded(&mut self, check: Check, worst: Worst) {
        self.results.push((check, Verdict::Bounded(worst.ratio, worst.message)));
    }

    /// Notes a property; `wrong` says what breaks it.
    pub fn exact(&mut self, check: Check, required: bool, wrong: Option<String>) {
        self.results.push((check, Verdict::Exact(required, wrong)));
    }
}

impl Report {
    pub(crate) fn new(device: DeviceFacts) -> Self {
        let (matrix, exactness) = (Vec::new(), Vec::new());
        Report { device, cases: 0, seconds: 0.0, matrix, exactness, failures: Vec::new(), unsupported: Vec::new() }
    }

    /// Whether any case failed.
    pub fn failed(&self) -> bool {
        !self.failures.is_empty()
    }

    fn row(&mut self, op: &str, ty: &str) -> &mut Row {
        let at = self.matrix.iter().position(|r| r.op == op && r.ty == ty).unwrap_or_else(|| {
            let (tight, stated) = (None, None);
            let (tight_case, stated_case) = (String::new(), String::new());
            let (op, ty) = (op.into(), ty.into());
            self.matrix.push(Row {
                op,
                ty,
                cases: 0,
                failed: 0,
                unsupported: 0,
                tight,
                tight_case,
                stated,
                stated_case,
            });
            self.matrix.len() - 1
        });
        &mut self.matrix[at]
    }

    pub(crate) fn add_unsupported(&mut self, op: &str, ty: &str, case: &str, message: String) {
        self.row(op, ty).unsupported += 1;
        self.unsupported.push(Note { case: case.into(), message });
    }

    /// Takes in a case: what it found, and the error that ended it, if one did.
    pub(crate) fn add(&mut self, op: &str, ty: &str, case: &str, sink: Sink, error: Option<String>) {
        let before = self.failures.len();
        self.cases += 1;
        self.row(op, ty).cases += 1;
        for (check, verdict) in sink.results {
            let wrong = match verdict {
                Verdict::Bounded(ratio, wrong) => {
                    let row = self.row(op, ty);
                    let (worst, name) = match check {
                        Check::Tight => (&mut row.tight, &mut row.tight_case),
                        _ => (&mut row.stated, &mut row.stated_case),
                    };
                    if worst.is_none_or(|w| ratio > w) {
                        (*worst, *name) = (Some(ratio), case.into());
                    }
                    wrong
                }
                Verdict::Exact(required, wrong) => {
                    self.tally(op, check, required, wrong.is_none());
                    wrong.filter(|_| required)
                }
            };
            self.failures.extend(wrong.map(|message| Failure { case: case.into(), check, message }));
        }
        self.failures.extend(error.map(|message| Failure { case: case.into(), check: Check::Run, message }));
        if self.failures.len() > before {
            self.row(op, ty).failed += 1;
        }
    }

    fn tally(&mut self, op: &str, check: Check, required: bool, held: bool) {
        let at = self.exactness.iter().position(|t| t.op == op && t.check == check).unwrap_or_else(|| {
            self.exactness.push(Tally { op: op.into(), check, required, held: 0, broken: 0 });
            self.exactness.len() - 1
        });
        let tally = &mut self.exactness[at];
        if held { tally.held += 1 } else { tally.broken += 1 }
    }

    /// For people, at a terminal.
    pub fn text(&self) -> String {
        let mut out = self.heading();
        let _ = writeln!(
            out,
            "\n{:<12} {:<11} {:>6} {:>7} {:>9} {:>9}",
            "op", "type", "cases", "failed", "tight", "stated"
        );
        for r in &self.matrix {
            let (tight, stated) = (ratio(r.tight), ratio(r.stated));
            let _ = write!(out, "{:<12} {:<11} {:>6} {:>7} {tight:>9} {stated:>9}", r.op, r.ty, r.cases, r.failed);
            let _ = match r.unsupported {
                0 => writeln!(out),
                n => writeln!(out, "  ({n} not supported)"),
            };
        }
        let _ = writeln!(out, "(errors in units of their bound: up to 1 is right)\n");
        for t in self.exactness.iter() {
            let _ = writeln!(out, "{:<12} {:<26} {}", t.op, t.check.title(), outcome(t));
        }
        for f in &self.failures {
            let _ = writeln!(out, "\nFAILED {}\n  {}: {}", f.case, f.check.title(), f.message);
        }
        for reason in self.reasons() {
            let _ = writeln!(out, "\nnot supported: {reason}");
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    /// As a page of the documentation has it.
    pub fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n{}\n", self.device.name, self.heading());
        out.push_str("\n| op | type | cases | failed | tight | stated |\n|---|---|--:|--:|--:|--:|\n");
        for r in &self.matrix {
            let cases = match r.unsupported {
                0 => r.cases.to_string(),
                n => format!("{} ({n} not supported)", r.cases),
            };
            let (tight, stated) = (ratio(r.tight), ratio(r.stated));
            let _ = writeln!(out, "| {} | {} | {cases} | {} | {tight} | {stated} |", r.op, r.ty, r.failed);
        }
        out.push_str("\nErrors are in units of their bound: up to 1 is right.\n");
        out.push_str("\n| op | property | cases |\n|---|---|---|\n");
        for t in &self.exactness {
            let _ = writeln!(out, "| {} | {} | {} |", t.op, t.check.title(), outcome(t));
        }
        if self.failed() {
            out.push_str("\n| failed case | check | |\n|---|---|---|\n");
        }
        for f in &self.failures {
            let message = f.message.replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {} | {message} |", f.case, f.check.title());
        }
        for reason in self.reasons() {
            let _ = write!(out, "\nNot supported: {reason}\n");
        }
        let _ = writeln!(out, "\n{}", self.summary());
        out
    }

    /// For programs.
    pub fn json(&self) -> String {
        // Strings, numbers and lists: nothing that could not be written.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    fn heading(&self) -> String {
        let d = &self.device;
        let features = if d.features.is_empty() { "none".into() } else { d.features.join(", ") };
        format!(
            "{} ({}, {}), {}; features: {features}; numerics: {}\n",
            d.name, d.backend, d.kind, d.driver, d.numerics
        )
    }

    fn summary(&self) -> String {
        let failed: usize = self.matrix.iter().map(|r| r.failed).sum();
        let (cases, unsupported, seconds) = (self.cases, self.unsupported.len(), self.seconds);
        format!("{cases} cases, {failed} failed, {unsupported} not supported, {seconds:.1} s")
    }

    /// Reasons for what is not supported, each once with its number of cases.
    fn reasons(&self) -> Vec<String> {
        let mut found: Vec<(&str, usize)> = Vec::new();
        for note in &self.unsupported {
            match found.iter_mut().find(|(m, _)| *m == note.message) {
                Some((_, n)) => *n += 1,
                None => found.push((&note.message, 1)),
            }
        }
        found.into_iter().map(|(message, n)| format!("{message} ({n} cases)")).collect()
    }
}

fn ratio(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(0.0) => "exact".into(),
        Some(v) => format!("{v:.3}"),
    }
}

fn outcome(tally: &Tally) -> String {
    let of = tally.held + tally.broken;
    match (tally.broken, tally.required) {
        (0, _) => format!("holds in {of}"),
        (_, true) => format!("BROKEN in {} of {of}", tally.broken),
        (_, false) => format!("does not hold in {} of {of} (not required here)", tally.broken),
    }
}
