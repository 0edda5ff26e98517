//! What must not differ by a bit: the exactness rules of the design, as other ways to run a case.

use segno_ir::{DeviceError, PAGE_TOKENS, SpanKind};

use crate::case::Case;
use crate::compare::stray_write;
use crate::report::{Check, Sink};
use crate::rig::{Outcome, Piece, Rig};

/// The pieces that a sequence is run in.
type Pieces<'a> = dyn Fn(usize) -> Vec<Piece> + 'a;

/// Runs the case in other ways and compares with `whole`, its outcome in one step. `cpu`: whether
/// every cut and both kinds have to agree too (elsewhere that is noted).
pub(crate) fn exact(
    case: &Case,
    rig: &mut Rig<'_>,
    whole: &Outcome,
    cpu: bool,
    sink: &mut Sink,
) -> Result<(), DeviceError> {
    if case.sequences.len() > 1 {
        let mut wrong = None;
        for piece in rig.together().remove(0) {
            let sequence = piece.sequence;
            let alone = rig.run(&[vec![piece]])?;
            wrong = wrong.or_else(|| difference(rig, whole, &alone, sequence));
        }
        sink.exact(Check::Together, true, wrong);
    }
    let ways: [(Check, bool, &Pieces<'_>); 3] = [
        (Check::Cut, true, &|i| {
            cut(case, i, |row, start, kind| kind == SpanKind::Decode || (start + row) % PAGE_TOKENS == 0)
        }),
        (Check::AnyCut, cpu, &|i| cut(case, i, |row, _, kind| kind == SpanKind::Prefill && (row == 1 || row == 8))),
        (Check::Kinds, cpu, &|i| other_kind(case, i)),
    ];
    for (check, required, pieces_of) in ways {
        let pieces: Vec<Vec<Piece>> = (0..case.sequences.len()).map(pieces_of).collect();
        let plain = |(i, p): (usize, &Vec<Piece>)| p.len() == 1 && p[0].kind == case.sequences[i].kind;
        if pieces.iter().enumerate().all(plain) {
            continue;
        }
        let n = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let steps: Vec<Vec<Piece>> =
            (0..n).map(|s| pieces.iter().filter_map(|p| p.get(s).cloned()).collect()).collect();
        let other = rig.run(&steps)?;
        let wrong = (0..case.sequences.len()).find_map(|i| difference(rig, whole, &other, i));
        sink.exact(check, required, wrong);
        if check == Check::Cut {
            let late = rig.run_two_under_way(&steps)?;
            let wrong = (0..case.sequences.len()).find_map(|i| difference(rig, &other, &late, i));
            sink.exact(Check::TwoUnderWay, true, wrong);
        }
    }
    if !case.graph.states.is_empty() {
        let (_, outcome) = rig.run_cancelled()?;
        sink.exact(Check::Cancelled, true, stray_write(case, rig, &outcome, false));
    }
    if rig.layout().slot_floats > 0 {
        snapshots(case, rig, whole, sink)?;
    }
    Ok(())
}

/// A sequence in pieces: `at(row, start, kind)` says whether a piece ends before that row.
fn cut(case: &Case, sequence: usize, at: impl Fn(u32, u32, SpanKind) -> bool) -> Vec<Piece> {
    let s = &case.sequences[sequence];
    let mut pieces = Vec::new();
    let mut from = 0;
    for row in 1..=s.inputs.len() {
        if row == s.inputs.len() || at(row as u32, s.start, s.kind) {
            pieces.push(Piece { sequence, rows: from..row, kind: s.kind });
            from = row;
        }
    }
    pieces
}

fn other_kind(case: &Case, sequence: usize) -> Vec<Piece> {
    let s = &case.sequences[sequence];
    let kind = match s.kind {
        SpanKind::Prefill => SpanKind::Decode,
        SpanKind::Decode => SpanKind::Prefill,
    };
    vec![Piece { sequence, rows: 0..s.inputs.len(), kind }]
}

/// Snapshots in mid-scan against the final state of a span that ends there.
fn snapshots(case: &Case, rig: &mut Rig<'_>, whole: &Outcome, sink: &mut Sink) -> Result<(), DeviceError> {
    let mut wrong = None;
    let mut any = false;
    for (sequence, s) in case.sequences.iter().enumerate() {
        for (i, &after) in s.snapshots.iter().enumerate() {
            let short = rig.run(&[vec![Piece { sequence, rows: 0..after as usize, kind: s.kind }]])?;
            any = true;
            wrong = wrong.or_else(|| {
                let found = slot_difference(rig, &whole.snapshots[sequence][i], &short.last[sequence]);
                found.map(|text| format!("sequence {sequence}, snapshot after {after} rows: {text}"))
            });
        }
    }
    if any {
        sink.exact(Check::Snapshot, true, wrong);
    }
    Ok(())
}

/// The first bit that differs between two outcomes of a sequence.
fn difference(rig: &Rig<'_>, a: &Outcome, b: &Outcome, sequence: usize) -> Option<String> {
    for (tap, (a, b)) in a.outputs.iter().zip(&b.outputs).enumerate() {
        let (a, b) = (&a[sequence], &b[sequence]);
        if a.len() != b.len() {
            return Some(format!("sequence {sequence}: {} numbers and {}", a.len(), b.len()));
        }
        if let Some(i) = first_difference(a, b) {
            return Some(format!("sequence {sequence}, output {i} of tap {tap}: {:e} and {:e}", a[i], b[i]));
        }
    }
    if let Some(text) = slot_difference(rig, &a.last[sequence], &b.last[sequence]) {
        return Some(format!("sequence {sequence}, final state: {text}"));
    }
    for (i, (a, b)) in a.snapshots[sequence].iter().zip(&b.snapshots[sequence]).enumerate() {
        if let Some(text) = slot_difference(rig, a, b) {
            return Some(format!("sequence {sequence}, snapshot {i}: {text}"));
        }
    }
    let (a, b) = (a.pages.get(sequence)?, b.pages.get(sequence)?);
    let page = a.iter().zip(b).position(|(a, b)| a != b)?;
    Some(format!("sequence {sequence}: page {page} differs"))
}

/// As [`first_difference`], of the states in two slots: what lies between them is nobody's.
fn slot_difference(rig: &Rig<'_>, a: &[f32], b: &[f32]) -> Option<String> {
    if a.is_empty() || b.is_empty() {
        return (a.len() != b.len()).then(|| "one of them was never written".into());
    }
    let layout = rig.layout();
    layout.recurrent.iter().find_map(|&(state, offset)| {
        let n = rig.recurrent_len(state);
        let (a, b) = (&a[offset..offset + n], &b[offset..offset + n]);
        first_difference(a, b).map(|i| format!("element {i} of state {}: {:e} and {:e}", state.0, a[i], b[i]))
    })
}

fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())
}
