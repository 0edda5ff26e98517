//! From a description to a built case.

use std::ops::Range;
use std::sync::Arc;

use segno_ir::op::{Embed, SelectRows, Slice};
use segno_ir::{Builder, Domain, GraphError, Input, KvType, Op, OpKind, Output, StateDecl, StateId, ValueId, WeightId};
use segno_quant::TensorType;

use super::{Batch, Before, Case, Comparison, ErrorRule, Errors, Probe, Sequence, Trial};
use crate::random::{Random, Values};
use crate::weight::{MemorySource, encode_float, random_tensor};

/// Fills input `part` of a row.
pub(crate) type Fill = dyn Fn(&mut Random, usize, usize, &mut [f32]);

/// A case in the making: sizes, weights and batch first, then [`finish`](Self::finish).
pub(crate) struct Setup<'r> {
    rng: &'r mut Random,
    source: MemorySource,
    widths: Vec<usize>,
    batch: Batch,
    copies: usize,
    domain: Domain,
    kv: (KvType, KvType),
    fill: Box<Fill>,
    vocabulary: usize,
}

impl<'r> Setup<'r> {
    /// An op with inputs of these widths.
    pub fn new(rng: &'r mut Random, widths: &[usize], batch: &Batch) -> Self {
        Setup {
            rng,
            source: MemorySource::default(),
            widths: widths.to_vec(),
            batch: batch.clone(),
            copies: 1,
            domain: Domain::Token,
            kv: (KvType::F32, KvType::F32),
            fill: Box::new(|rng, _, row, out| Values::Normal.fill(rng, row, out)),
            vocabulary: 0,
        }
    }

    /// What all inputs look like.
    pub fn values(mut self, values: Values) -> Self {
        self.fill = Box::new(move |rng, _, row, out| values.fill(rng, row, out));
        self
    }

    /// What each input looks like: `(generator, input, row, values)`.
    pub fn fill(mut self, fill: impl Fn(&mut Random, usize, usize, &mut [f32]) + 'static) -> Self {
        self.fill = Box::new(fill);
        self
    }

    /// Runs the op more than once, each time with a state of its own: the later ones do not lie at
    /// offset 0 of a slot or page.
    pub fn copies(mut self, copies: usize) -> Self {
        self.copies = copies;
        self
    }

    /// Runs the op on output rows.
    pub fn after_select(mut self) -> Self {
        self.domain = Domain::Output;
        self
    }

    /// Types of the pages.
    pub fn kv(mut self, kv: (KvType, KvType)) -> Self {
        self.kv = kv;
        self
    }

    /// Every other row is a token below `n` instead of given values (embed).
    pub fn vocabulary(mut self, n: usize) -> Self {
        self.vocabulary = n;
        self
    }

    /// Adds a weight of random elements around `scale`.
    pub fn weight(&mut self, name: &str, ty: TensorType, shape: &[usize], scale: f32) {
        let bytes = random_tensor(self.rng, ty, shape.iter().product(), scale);
        self.source.add(name, ty, shape, &bytes);
    }

    /// Adds an f32 weight of given elements.
    pub fn vector(&mut self, name: &str, shape: &[usize], mut element: impl FnMut(&mut Random, usize) -> f32) {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| element(self.rng, i)).collect();
        let bytes = encode_float(TensorType::F32, &values).unwrap_or_default();
        self.source.add(name, TensorType::F32, shape, &bytes);
    }

    /// Builds the graph with the op that `declare` gives (asked once per copy; it may declare weights
    /// and states), then draws states and rows.
    pub fn finish(
        self,
        declare: impl FnMut(&mut Builder<'_>, usize) -> Result<Op, GraphError>,
        errors: impl Fn(&Trial<'_>, Comparison) -> Errors + 'static,
    ) -> Result<Case, GraphError> {
        let all = 0..self.widths.len();
        self.finish_with_inputs(declare, move |_| all.clone(), errors)
    }

    /// As [`finish`](Self::finish); `takes` says which of the inputs a copy reads.
    pub fn finish_with_inputs(
        mut self,
        mut declare: impl FnMut(&mut Builder<'_>, usize) -> Result<Op, GraphError>,
        takes: impl Fn(usize) -> Range<usize>,
        errors: impl Fn(&Trial<'_>, Comparison) -> Errors + 'static,
    ) -> Result<Case, GraphError> {
        let errors: Box<ErrorRule> = Box::new(errors);
        // Gaps of 0 to 3 features between the inputs: their views start at any offset.
        let mut parts = Vec::new();
        let mut width = 0;
        for &n in &self.widths {
            width += if self.widths.len() > 1 { self.rng.below(4) } else { 0 };
            parts.push(width..width + n);
            width += n;
        }
        let mut builder = Builder::new("case", &self.source);
        let mut values: Vec<ValueId> = Vec::new();
        if !parts.is_empty() {
            let rows = builder.push(Embed { weight: None, features: width, scale: 1.0 }, &[])?;
            let rows = match self.domain {
                Domain::Token => rows,
                Domain::Output => builder.push(SelectRows, &[rows])?,
            };
            for part in &parts {
                values.push(match part.len() == width {
                    true => rows,
                    false => {
                        let run = Slice { offset: part.start, width: part.len(), stride: part.len(), count: 1 };
                        builder.push(run, &[rows])?
                    }
                });
            }
        }
        let (mut probes, mut outputs, mut features) = (Vec::new(), Vec::new(), width);
        for copy in 0..self.copies {
            let op = declare(&mut builder, copy)?;
            let takes = takes(copy);
            let selects = op.kind() == OpKind::SelectRows;
            let result = builder.push(op, &values[takes.clone()])?;
            probes.push(Probe { node: result.0 as usize, parts: parts[takes].to_vec() });
            if parts.is_empty() {
                features = builder.features(result);
            }
            let result = match selects || self.domain == Domain::Output {
                true => result,
                false => builder.push(SelectRows, &[result])?,
            };
            outputs.push((Output::Hidden(copy as u32), result));
        }
        let graph = builder.finish(&outputs)?;
        let mut sequences = Vec::new();
        for item in self.batch.0.clone() {
            let before = (item.start > 0 || self.rng.word().is_multiple_of(2))
                .then(|| graph.states.iter().map(|s| self.before(s, item.start)).collect());
            let inputs = (0..item.rows).map(|row| self.input(row, features, &parts)).collect();
            sequences.push(Sequence {
                start: item.start,
                kind: item.kind,
                before,
                inputs,
                outputs: item.wanted.rows(item.rows),
                snapshots: item.snapshots,
            });
        }
        Ok(Case { graph, probes, source: Arc::new(self.source), kv: self.kv, sequences, errors })
    }

    fn input(&mut self, row: usize, features: usize, parts: &[Range<usize>]) -> Input {
        if self.vocabulary > 0 && row.is_multiple_of(2) {
            return Input::Token(self.rng.below(self.vocabulary) as u32);
        }
        // What no input reads is NaN.
        let mut values = vec![f32::NAN; features];
        match parts.is_empty() {
            true => (self.fill)(self.rng, 0, row, &mut values),
            false => {
                parts.iter().enumerate().for_each(|(i, p)| (self.fill)(self.rng, i, row, &mut values[p.clone()]));
            }
        }
        Input::Row { values: values.into(), content: 0 }
    }

    fn before(&mut self, decl: &StateDecl, start: u32) -> Before {
        match *decl {
            StateDecl::Recurrent { .. } => {
                Before::Recurrent((0..decl.recurrent_len()).map(|_| self.rng.normal() * 0.5).collect())
            }
            StateDecl::KeyValue { n_head_kv, d_k, d_v, v_in_k, window, .. } => {
                let first = window.map_or(0, |w| (start + 1).saturating_sub(w));
                let (k_type, v_type) = self.kv;
                let mut draw = |d: u32, ty: KvType| {
                    let hidden = (first * n_head_kv * d) as usize;
                    let seen = ((start - first) * n_head_kv * d) as usize;
                    let mut values = vec![f32::NAN; hidden];
                    let drawn: Vec<f32> = (0..seen).map(|_| self.rng.normal()).collect();
                    values.extend(ty.decode(&ty.encode(&drawn)));
                    values
                };
                Before::KeyValue { k: draw(d_k, k_type), v: draw(if v_in_k { 0 } else { d_v }, v_type) }
            }
        }
    }
}

/// The bounds of an op that works feature by feature: `rule` gives one from the numbers at that place
/// in each input and the feature's index.
pub(crate) fn elementwise(trial: &Trial<'_>, rule: impl Fn(&[f64], usize) -> f64) -> Errors {
    let n = trial.rows * trial.features;
    let mut at = vec![0.0; trial.inputs.len()];
    let y = (0..n).map(|i| {
        at.iter_mut().zip(trial.inputs).for_each(|(a, input)| *a = input[i]);
        rule(&at, i % trial.features)
    });
    Errors { y: y.collect(), states: Vec::new() }
}

/// Declares a state and names it by the copy.
pub(crate) fn declare_state(builder: &mut Builder<'_>, copy: usize, shape: &[usize]) -> StateId {
    let shape = shape.iter().map(|&n| n as u32).collect();
    builder.state(StateDecl::Recurrent { name: format!("state.{copy}"), shape })
}

/// Declares a vector of weights that [`Setup::vector`] or [`Setup::weight`] added.
pub(crate) fn optional(builder: &mut Builder<'_>, name: &str, shape: &[usize]) -> Result<Option<WeightId>, GraphError> {
    builder.optional_weight(name, shape)
}
