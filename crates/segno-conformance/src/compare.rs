//! The two comparisons with the f64 reference, and what a step may not have touched.

use segno_ir::reference::{RefState, Reference, ReferenceError, decode_tensor};
use segno_ir::{Device, Input, PAGE_TOKENS, StateId, WeightSource};

use crate::bound::page_rounding;
use crate::case::{Before, Case, Comparison, Sequence, Trial};
use crate::report::{Check, Sink};
use crate::rig::{Outcome, POISON, Rig, members};

/// The largest error of a comparison, in units of its bound.
#[derive(Default)]
pub(crate) struct Worst {
    /// Error over bound.
    pub ratio: f64,
    /// Where it is, if it is beyond the bound.
    pub message: Option<String>,
}

impl Worst {
    /// Takes a number into account.
    pub fn see(&mut self, got: f32, want: f64, bound: f64, place: impl FnOnce() -> String) {
        let error = (got as f64 - want).abs();
        let ratio = match error {
            0.0 => 0.0,
            // NaN of either side, or of the bound, is no number below it.
            e if bound > 0.0 && !(e / bound).is_nan() => e / bound,
            _ => f64::INFINITY,
        };
        if ratio > self.ratio {
            self.ratio = ratio;
            if ratio > 1.0 {
                let bits = got.to_bits();
                let text =
                    format!("got {got:e} ({bits:#010x}), expected {want:e}, off by {error:.3e}, bound {bound:.3e}");
                self.message = Some(format!("{}: {text}", place()));
            }
        }
    }
}

/// What the reference says of one sequence.
struct Expected {
    /// `[probe]`: output rows, flat.
    outputs: Vec<Vec<f64>>,
    /// `[mark][state]`.
    states: Vec<Vec<RefState>>,
}

/// Compares an outcome of the whole step with the reference, both ways.
pub(crate) fn compare(
    device: &dyn Device,
    case: &Case,
    rig: &Rig<'_>,
    outcome: &Outcome,
    sink: &mut Sink,
) -> Result<(), ReferenceError> {
    let weights = case.graph.weights.iter().map(|w| {
        let tensor = case.source.tensor(&w.name).ok_or_else(|| ReferenceError::MissingTensor(w.name.clone()))?;
        Ok(decode_tensor(&w.name, &tensor)?.into_iter().map(f64::from).collect())
    });
    let weights: Vec<Vec<f64>> = weights.collect::<Result<_, ReferenceError>>()?;
    let mut reference = Reference::new(&case.graph, &*case.source)?;
    let (mut tight, mut stated) = (Worst::default(), Worst::default());
    for (i, sequence) in case.sequences.iter().enumerate() {
        let rounded = rounded_inputs(device, case, rig, outcome, i);
        let expected = run_reference(&mut reference, case, sequence, &rounded)?;
        let view = View { case, rig, outcome, weights: &weights, index: i };
        view.see(&expected, &rounded, Comparison::Tight, &mut tight);
        let unrounded = if rounded == sequence.inputs {
            expected
        } else {
            run_reference(&mut reference, case, sequence, &sequence.inputs)?
        };
        view.see(&unrounded, &sequence.inputs, Comparison::Stated, &mut stated);
    }
    sink.bounded(Check::Tight, tight);
    sink.bounded(Check::Stated, stated);
    Ok(())
}

/// A sequence's rows as its kernels see them: rounded by the device, keys and values as stored.
fn rounded_inputs(device: &dyn Device, case: &Case, rig: &Rig<'_>, outcome: &Outcome, index: usize) -> Vec<Input> {
    let sequence = &case.sequences[index];
    let layout = rig.layout();
    let member = members(&case.graph, layout, 0).into_iter().next();
    let round = |(row, input): (usize, &Input)| {
        let Input::Row { values, content } = input else { return input.clone() };
        let mut values = values.to_vec();
        // Copies of an op share their inputs.
        let mut seen = Vec::new();
        for probe in &case.probes {
            // Only first inputs are rounded.
            for part in probe.parts.iter().take(1) {
                if !seen.contains(&part.start) {
                    seen.push(part.start);
                    device.round_input(
                        &case.graph.nodes[probe.node].op,
                        &case.graph.weights,
                        &mut values[part.clone()],
                    );
                }
            }
        }
        if let (Some(member), [_, stored @ ..]) = (member, case.probes[0].parts.as_slice()) {
            let position = sequence.start as usize + row;
            let page = &outcome.pages[index][position / PAGE_TOKENS as usize - rig.first_page(index)];
            let token = position % PAGE_TOKENS as usize;
            let places = [(member.k, layout.k_type), (member.v, layout.v_type)];
            for (((offset, size), ty), part) in places.into_iter().zip(stored) {
                values[part.clone()].copy_from_slice(&ty.decode(&page[offset + token * size..][..size]));
            }
        }
        Input::Row { values: values.into(), content: *content }
    };
    sequence.inputs.iter().enumerate().map(round).collect()
}

fn states_before(case: &Case, sequence: &Sequence) -> Vec<RefState> {
    let wide = |values: &[f32]| values.iter().map(|&v| v as f64).collect::<Vec<f64>>();
    match &sequence.before {
        None => case.graph.states.iter().map(RefState::empty).collect(),
        Some(before) => before
            .iter()
            .map(|b| match b {
                Before::Recurrent(values) => RefState::Recurrent(wide(values)),
                Before::KeyValue { k, v } => RefState::KeyValue { k: wide(k), v: wide(v) },
            })
            .collect(),
    }
}

/// Rows after which the state is compared: the snapshots and the end.
fn marks(sequence: &Sequence) -> Vec<usize> {
    let mut marks: Vec<usize> = sequence.snapshots.iter().map(|&s| s as usize).collect();
    if marks.last() != Some(&sequence.inputs.len()) {
        marks.push(sequence.inputs.len());
    }
    marks
}

fn run_reference(
    reference: &mut Reference<'_>,
    case: &Case,
    sequence: &Sequence,
    inputs: &[Input],
) -> Result<Expected, ReferenceError> {
    reference.set_states(states_before(case, sequence), sequence.start);
    let mut expected = Expected { outputs: vec![Vec::new(); case.probes.len()], states: Vec::new() };
    let mut at = 0;
    for mark in marks(sequence) {
        let wanted = sequence.outputs.iter().filter(|r| (at..mark).contains(&(**r as usize)));
        let wanted: Vec<u32> = wanted.map(|r| r - at as u32).collect();
        for ((_, values), all) in reference.run(&inputs[at..mark], &wanted)?.into_iter().zip(&mut expected.outputs) {
            all.extend(values);
        }
        expected.states.push(reference.states().to_vec());
        at = mark;
    }
    Ok(expected)
}

/// One sequence of an outcome.
struct View<'a> {
    case: &'a Case,
    rig: &'a Rig<'a>,
    outcome: &'a Outcome,
    weights: &'a [Vec<f64>],
    index: usize,
}

impl View<'_> {
    fn see(&self, expected: &Expected, inputs: &[Input], comparison: Comparison, worst: &mut Worst) {
        let sequence = &self.case.sequences[self.index];
        let types: Vec<_> = self.case.graph.weights.iter().map(|w| w.ty).collect();
        let (marks, before) = (marks(sequence), states_before(self.case, sequence));
        for (p, probe) in self.case.probes.iter().enumerate() {
            let node = &self.case.graph.nodes[probe.node];
            let parts = probe.parts.iter().map(|part| {
                let rows = inputs.iter().flat_map(|input| match input {
                    Input::Row { values, .. } => &values[part.clone()],
                    _ => &[],
                });
                rows.map(|&v| v as f64).collect()
            });
            let parts: Vec<Vec<f64>> = parts.collect();
            // An op that only reads keys and values finds the span's own already there.
            let states = match probe.parts.len() {
                1 => expected.states.last().unwrap_or(&before),
                _ => &before,
            };
            let recurrent = node.op.state().filter(|id| matches!(before[id.0 as usize], RefState::Recurrent(_)));
            let trial = Trial {
                weights: self.weights,
                types: &types,
                given: inputs,
                inputs: &parts,
                state: node
                    .op
                    .state()
                    .map(|id| if recurrent.is_some() { &before[id.0 as usize] } else { &states[id.0 as usize] }),
                start: sequence.start,
                rows: inputs.len(),
                features: node.features,
                marks: &marks,
            };
            let errors = (self.case.errors)(&trial, comparison);
            let n = node.features;
            let got = &self.outcome.outputs[p][self.index];
            for (o, &row) in sequence.outputs.iter().enumerate() {
                for f in 0..n {
                    let bound = errors.y.get(row as usize * n + f).copied().unwrap_or(f64::NAN);
                    worst.see(got[o * n + f], expected.outputs[p][o * n + f], bound, || {
                        format!("sequence {}, row {row}, feature {f} of tap {p}", self.index)
                    });
                }
            }
            if let Some(id) = recurrent {
                self.see_state(id, &marks, expected, &errors.states, worst);
            }
        }
    }

    fn see_state(&self, id: StateId, marks: &[usize], expected: &Expected, bounds: &[Vec<f64>], worst: &mut Worst) {
        let offset = self.rig.layout().offset_of(id).unwrap_or(0);
        let snapshots = &self.outcome.snapshots[self.index];
        for (m, &mark) in marks.iter().enumerate() {
            let RefState::Recurrent(want) = &expected.states[m][id.0 as usize] else { continue };
            let is_end = m + 1 == marks.len();
            let found = snapshots.get(m).into_iter().chain(is_end.then_some(&self.outcome.last[self.index]));
            for slot in found {
                for (i, &want) in want.iter().enumerate() {
                    let bound = bounds.get(m).map_or(0.0, |b| b[i]);
                    worst.see(slot[offset + i], want, bound, || {
                        format!("sequence {}, element {i} of state {} after {mark} rows", self.index, id.0)
                    });
                }
            }
        }
    }
}

/// What a run wrote that it may not, or stored other than given; `finished`: whether the entries of its
/// keys and values have to be there.
pub(crate) fn stray_write(case: &Case, rig: &Rig<'_>, outcome: &Outcome, finished: bool) -> Option<String> {
    let mut wrong = None;
    let mut expect = |holds: bool, message: &dyn Fn() -> String| {
        if !holds && wrong.is_none() {
            wrong = Some(message());
        }
    };
    // What lies between the states of a slot is nobody's.
    let changed = |slot: &[f32], before: &[f32]| {
        let differs = |&i: &usize| slot[i].to_bits() != before[i].to_bits();
        rig.state_floats().find(|i| !slot.is_empty() && differs(i))
    };
    expect(outcome.zero.iter().all(|v| v.to_bits() == 0), &|| "slot 0 is not zero".into());
    let poison = vec![f32::from_bits(POISON); rig.layout().slot_floats];
    let stray = changed(&outcome.spare_slot, &poison);
    expect(stray.is_none(), &|| format!("a slot that no span names was written at float {stray:?}"));
    expect(outcome.spare_page == rig.poisoned_page(), &|| "a page that no table names was written".into());
    for (i, sequence) in case.sequences.iter().enumerate() {
        let stray = changed(&outcome.from[i], &rig.slot_before(i));
        expect(stray.is_none(), &|| format!("the slot that sequence {i} reads was written at float {stray:?}"));
        for (p, page) in outcome.pages.get(i).into_iter().flatten().enumerate() {
            let mut before = rig.page_before(i, p);
            for member in members(&case.graph, rig.layout(), 0) {
                // Every copy appends the same inputs to its own state.
                let [_, stored @ ..] = case.probes[0].parts.as_slice() else { continue };
                let halves = [(member.k, rig.layout().k_type), (member.v, rig.layout().v_type)];
                for (((offset, size), ty), part) in halves.into_iter().zip(stored) {
                    for token in 0..PAGE_TOKENS as usize {
                        let position = (rig.first_page(i) + p) * PAGE_TOKENS as usize + token;
                        let row = position.checked_sub(sequence.start as usize);
                        let Some(Input::Row { values, .. }) = row.and_then(|r| sequence.inputs.get(r)) else {
                            continue;
                        };
                        let at = offset + token * size..offset + (token + 1) * size;
                        let stored = ty.decode(&page[at.clone()]);
                        let given: Vec<f64> = values[part.clone()].iter().map(|&x| f64::from(x)).collect();
                        let bounds = page_rounding(&given, ty);
                        // NaN is within nothing.
                        let within = |s: f32, x: f64, bound: f64| (f64::from(s) - x).abs() <= bound;
                        let mut numbers = stored.iter().zip(given.iter().zip(bounds));
                        let wrong = numbers.find(|(s, (x, bound))| !within(**s, **x, *bound));
                        expect(!finished || wrong.is_none(), &|| {
                            format!("sequence {i}, position {position}: stored, given {wrong:?}")
                        });
                        before[at.clone()].copy_from_slice(&page[at]);
                    }
                }
            }
            expect(*page == before, &|| {
                let at = page.iter().zip(&before).position(|(a, b)| a != b).unwrap_or(0);
                format!("page {p} of sequence {i}: byte {at} was written and is no entry of the span")
            });
        }
    }
    wrong
}
