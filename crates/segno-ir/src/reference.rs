//! The f64 interpreter: what every backend is compared with.

use segno_quant::QuantError;

use crate::device::Input;
use crate::graph::{Domain, Graph, Output, ValueId};
use crate::op::attention::KvDims;
use crate::state::{KvType, StateDecl, StateId};
use crate::weight::{Tensor, WeightId, WeightSource};

/// The state of one layer of one sequence, in f64.
#[derive(Clone, Debug, PartialEq)]
pub enum RefState {
    /// Flat, in the declared shape.
    Recurrent(Vec<f64>),
    /// `[position, n_head_kv, d_k]` and `[position, n_head_kv, d_v]`, nothing where values are part of the keys.
    KeyValue {
        /// Keys.
        k: Vec<f64>,
        /// Values.
        v: Vec<f64>,
    },
}

impl RefState {
    /// The state of a sequence without tokens.
    pub fn empty(decl: &StateDecl) -> Self {
        match decl {
            StateDecl::Recurrent { .. } => RefState::Recurrent(vec![0.0; decl.recurrent_len()]),
            StateDecl::KeyValue { .. } => RefState::KeyValue { k: Vec::new(), v: Vec::new() },
        }
    }
}

/// Why the interpreter could not run.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A tensor is not in the source.
    #[error("tensor {0} is missing")]
    MissingTensor(String),
    /// A tensor could not be decoded.
    #[error("tensor {name}: {source}")]
    Decode {
        /// Its name.
        name: String,
        /// Why.
        source: QuantError,
    },
    /// A token outside the vocabulary.
    #[error("token {id} at position {position} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        id: u32,
        /// Where it stands.
        position: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
}

/// All elements of a tensor as f32.
pub fn decode_tensor(name: &str, tensor: &Tensor<'_>) -> Result<Vec<f32>, ReferenceError> {
    let n = tensor.shape.iter().product::<u64>() as usize;
    let mut out = vec![0.0; n];
    segno_quant::decode_row(tensor.ty, tensor.bytes, &mut out)
        .map_err(|source| ReferenceError::Decode { name: name.into(), source })?;
    Ok(out)
}

/// Runs one sequence through a graph in f64.
pub struct Reference<'g> {
    graph: &'g Graph,
    weights: Vec<Vec<f64>>,
    states: Vec<RefState>,
    kv: (KvType, KvType),
    position: u32,
}

impl<'g> Reference<'g> {
    /// Decodes the weights of `graph`. Takes 8 bytes per weight.
    pub fn new(graph: &'g Graph, source: &dyn WeightSource) -> Result<Self, ReferenceError> {
        let decode = |name: &String| -> Result<Vec<f64>, ReferenceError> {
            let tensor = source.tensor(name).ok_or_else(|| ReferenceError::MissingTensor(name.clone()))?;
            Ok(decode_tensor(name, &tensor)?.into_iter().map(f64::from).collect())
        };
        let weights = graph.weights.iter().map(|w| decode(&w.name)).collect::<Result<_, _>>()?;
        let states = graph.states.iter().map(RefState::empty).collect();
        Ok(Reference { graph, weights, states, kv: (KvType::F32, KvType::F32), position: 0 })
    }

    /// Rounds keys and values as pages of these types do; F32, the default, leaves them as they are.
    /// The types have to suit the states: see [`StateLayout::check`](crate::StateLayout::check).
    pub fn set_kv_types(&mut self, k: KvType, v: KvType) {
        self.kv = (k, v);
    }

    /// Replaces a weight's values, `[out, in]` flat: for cases that round or poison them.
    pub fn set_weight(&mut self, id: WeightId, values: Vec<f64>) {
        self.weights[id.0 as usize] = values;
    }

    /// The states as they are now, in graph order.
    pub fn states(&self) -> &[RefState] {
        &self.states
    }

    /// Sets the states and the position that the next row has.
    pub fn set_states(&mut self, states: Vec<RefState>, position: u32) {
        self.states = states;
        self.position = position;
    }

    /// Position that the next row has.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Runs the next rows. Returns, for each output of the graph, `[output_rows.len(), features]`.
    ///
    /// # Errors
    /// A token outside the vocabulary; the state is then unchanged.
    pub fn run(&mut self, inputs: &[Input], output_rows: &[u32]) -> Result<Vec<(Output, Vec<f64>)>, ReferenceError> {
        let n_vocab = self.graph.n_tokens();
        for (i, input) in inputs.iter().enumerate() {
            if let Input::Token(id) = *input
                && id as usize >= n_vocab
            {
                return Err(ReferenceError::Token { id, position: self.position + i as u32, n_vocab });
            }
        }
        let last_use = self.graph.last_use();
        let mut values: Vec<Vec<f64>> = Vec::with_capacity(self.graph.nodes.len());
        for (i, node) in self.graph.nodes.iter().enumerate() {
            let rows = if node.domain == Domain::Token { inputs.len() } else { output_rows.len() };
            let mut cx = OpContext {
                graph: self.graph,
                weights: &self.weights,
                states: &mut self.states,
                kv: self.kv,
                values: &values,
                inputs: &node.inputs,
                step_inputs: inputs,
                output_rows,
                start: self.position,
                rows,
                features: node.features,
            };
            let value = node.op.reference(&mut cx);
            debug_assert_eq!(value.len(), rows * node.features, "{}", node.op.name());
            values.push(value);
            for input in &node.inputs {
                if last_use[input.0 as usize] == i {
                    values[input.0 as usize] = Vec::new();
                }
            }
        }
        self.position += inputs.len() as u32;
        Ok(self.graph.outputs.iter().map(|&(o, v)| (o, std::mem::take(&mut values[v.0 as usize]))).collect())
    }
}

/// What an op's reference sees: its inputs, its weights, its state, the step.
pub struct OpContext<'a> {
    graph: &'a Graph,
    weights: &'a [Vec<f64>],
    states: &'a mut Vec<RefState>,
    kv: (KvType, KvType),
    values: &'a [Vec<f64>],
    inputs: &'a [ValueId],
    step_inputs: &'a [Input],
    output_rows: &'a [u32],
    start: u32,
    rows: usize,
    features: usize,
}

impl<'a> OpContext<'a> {
    /// Rows of the result.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Features of the result.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Number of inputs.
    pub fn n_inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Input `i`, `[rows, features]` flat.
    pub fn input(&self, i: usize) -> &'a [f64] {
        &self.values[self.inputs[i].0 as usize]
    }

    /// Features `index * width..(index + 1) * width` of every row of input `i`: those of a head.
    pub fn head(&self, i: usize, index: usize, width: usize) -> Vec<f64> {
        let rows = self.input(i).chunks_exact(self.input_features(i));
        rows.flat_map(|row| &row[index * width..][..width]).copied().collect()
    }

    /// Features of input `i`.
    pub fn input_features(&self, i: usize) -> usize {
        self.graph.nodes[self.inputs[i].0 as usize].features
    }

    /// A weight's elements.
    pub fn weight(&self, id: WeightId) -> &'a [f64] {
        &self.weights[id.0 as usize]
    }

    /// A weight's sizes, the contiguous one first.
    pub fn weight_shape(&self, id: WeightId) -> &'a [u64] {
        &self.graph.weights[id.0 as usize].shape
    }

    /// Position of a token row.
    pub fn position(&self, row: usize) -> u32 {
        self.start + row as u32
    }

    /// The step's tokens or given rows.
    pub fn step_inputs(&self) -> &'a [Input] {
        self.step_inputs
    }

    /// Token rows whose outputs are wanted.
    pub fn output_rows(&self) -> &'a [u32] {
        self.output_rows
    }

    /// A recurrent state.
    pub fn recurrent(&self, id: StateId) -> &[f64] {
        match &self.states[id.0 as usize] {
            RefState::Recurrent(values) => values,
            RefState::KeyValue { .. } => panic!("state {} is not recurrent: the shape rule let it pass", id.0),
        }
    }

    /// Replaces a recurrent state.
    pub fn set_recurrent(&mut self, id: StateId, values: Vec<f64>) {
        self.states[id.0 as usize] = RefState::Recurrent(values);
    }

    /// Sizes of a key/value state.
    pub fn kv_dims(&self, id: StateId) -> KvDims {
        KvDims::of(&self.graph.states[id.0 as usize]).expect("the shape rule asked for keys and values")
    }

    /// Appends inputs `i_k` and, if there is one, `i_v` to a key/value state.
    pub fn append_kv(&mut self, id: StateId, i_k: usize, i_v: usize) {
        let (new_k, new_v) = (self.input(i_k), if i_v < self.n_inputs() { self.input(i_v) } else { &[] });
        if let RefState::KeyValue { k, v } = &mut self.states[id.0 as usize] {
            for (all, new, ty) in [(k, new_k, self.kv.0), (v, new_v, self.kv.1)] {
                if ty == KvType::F32 {
                    all.extend_from_slice(new);
                } else {
                    let new: Vec<f32> = new.iter().map(|&x| x as f32).collect();
                    all.extend(ty.decode(&ty.encode(&new)).into_iter().map(f64::from));
                }
            }
        }
    }

    /// Keys and values of all positions so far.
    pub fn keys_and_values(&self, id: StateId) -> (&[f64], &[f64]) {
        match &self.states[id.0 as usize] {
            RefState::KeyValue { k, v } => (k, v),
            RefState::Recurrent(_) => panic!("state {} has no keys: the shape rule let it pass", id.0),
        }
    }
}
