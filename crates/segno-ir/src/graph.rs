//! The graph, its builder and its checks.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::op::{Op, Shapes, value_name};
use crate::state::{StateDecl, StateId};
use crate::weight::{WeightDecl, WeightId, WeightSource};

/// Index of a value: that of the node that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// What the rows of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// The tokens of the step, span after span.
    Token,
    /// Those of them whose outputs are wanted.
    Output,
}

/// An op with its inputs and the shape of its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// To what.
    pub inputs: Vec<ValueId>,
    /// Features of the result.
    pub features: usize,
    /// Rows of the result.
    pub domain: Domain,
    /// Where in the model, e.g. `blk.3`; for people.
    pub scope: String,
}

/// A result that leaves the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// One number per token of the vocabulary.
    Logits,
    /// A tap: the final hidden state, or what a conformance case looks at.
    Hidden(u32),
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Logits => f.write_str("logits"),
            Output::Hidden(tap) => write!(f, "hidden.{tap}"),
        }
    }
}

/// A checked model graph: straight-line, each value assigned once.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The architecture's name.
    pub name: String,
    /// Nodes in execution order.
    pub nodes: Vec<Node>,
    /// Weights that the nodes read.
    pub weights: Vec<WeightDecl>,
    /// States that the nodes read and write.
    pub states: Vec<StateDecl>,
    /// What leaves the graph; all of [`Domain::Output`].
    pub outputs: Vec<(Output, ValueId)>,
}

/// Why a graph could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A tensor is not in the file.
    #[error("tensor {name} is missing; expected shape {expected:?}")]
    MissingTensor {
        /// Its name.
        name: String,
        /// The shape that was looked for.
        expected: Vec<u64>,
    },
    /// A tensor has another shape.
    #[error("tensor {name} has shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// The shape in the file.
        found: Vec<u64>,
        /// The shape that was looked for.
        expected: Vec<u64>,
    },
    /// Tensors that no node reads and the family does not name as ignored.
    #[error("{} tensors are not read by architecture {arch}: {}", names.len(), names.join(", "))]
    UnreadTensors {
        /// The architecture.
        arch: String,
        /// Their names.
        names: Vec<String>,
    },
    /// An op does not fit its inputs.
    #[error("{op} in {scope}: {reason}")]
    Op {
        /// The op's name.
        op: &'static str,
        /// Where in the model.
        scope: String,
        /// What is wrong.
        reason: String,
    },
    /// A state is declared and never used, or used by two ops that write it.
    #[error("state {name}: {reason}")]
    State {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The graph has no output, or one of token rows.
    #[error("output {name}: {reason}")]
    Output {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Graph {
    /// What an op's shape rule may look at.
    pub fn with_shapes<R>(&self, node: &Node, f: impl FnOnce(&Shapes<'_>) -> R) -> R {
        let inputs: Vec<usize> = node.inputs.iter().map(|v| self.nodes[v.0 as usize].features).collect();
        let domains: Vec<Domain> = node.inputs.iter().map(|v| self.nodes[v.0 as usize].domain).collect();
        f(&Shapes { inputs: &inputs, domains: &domains, weights: &self.weights, states: &self.states })
    }

    /// The value of an output.
    pub fn output(&self, output: Output) -> Option<ValueId> {
        self.outputs.iter().find(|(o, _)| *o == output).map(|&(_, v)| v)
    }

    /// Features of the logits; 0 if the graph has none.
    pub fn n_vocab(&self) -> usize {
        self.output(Output::Logits).map_or(0, |v| self.nodes[v.0 as usize].features)
    }

    /// Number of tokens that `embed` knows: ids of inputs lie below it.
    pub fn n_tokens(&self) -> usize {
        let weight = self.nodes.iter().find_map(|n| match &n.op {
            Op::Embed(embed) => embed.weight,
            _ => None,
        });
        weight.map_or(0, |id| self.weights[id.0 as usize].n_rows())
    }

    /// Index of the last node that reads each value (its own index if none does; the number of
    /// nodes if it leaves the graph): what a backend needs to reuse memory.
    pub fn last_use(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.nodes.len()).collect();
        for (i, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                last[input.0 as usize] = i;
            }
        }
        for &(_, value) in &self.outputs {
            last[value.0 as usize] = self.nodes.len();
        }
        last
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {} {{", self.name)?;
        for state in &self.states {
            writeln!(f, "  state {state:?}")?;
        }
        let mut scope = "";
        for (i, node) in self.nodes.iter().enumerate() {
            if node.scope != scope {
                scope = &node.scope;
                writeln!(f, "  # {scope}")?;
            }
            let inputs: Vec<String> = node.inputs.iter().map(|&v| value_name(v)).collect();
            write!(f, "  %{i} = {}({})", node.op.name(), inputs.join(", "))?;
            for id in node.op.weights() {
                let w = &self.weights[id.0 as usize];
                write!(f, " {} {} {:?}", w.name, w.ty.name(), w.shape)?;
            }
            if let Some(id) = node.op.state() {
                write!(f, " state {}", self.states[id.0 as usize].name())?;
            }
            let rows = if node.domain == Domain::Token { "tokens" } else { "outputs" };
            writeln!(f, " : [{rows}, {}]", node.features)?;
        }
        for (output, value) in &self.outputs {
            writeln!(f, "  {output} = {}", value_name(*value))?;
        }
        writeln!(f, "}}")
    }
}

/// Builds a [`Graph`] and checks it on the way.
pub struct Builder<'a> {
    source: &'a dyn WeightSource,
    by_name: HashMap<String, WeightId>,
    ignored: BTreeSet<String>,
    scope: String,
    graph: Graph,
}

impl<'a> Builder<'a> {
    /// A builder for architecture `name` over the tensors of `source`.
    pub fn new(name: impl Into<String>, source: &'a dyn WeightSource) -> Self {
        let graph = Graph {
            name: name.into(),
            nodes: Vec::new(),
            weights: Vec::new(),
            states: Vec::new(),
            outputs: Vec::new(),
        };
        Builder { source, by_name: HashMap::new(), ignored: BTreeSet::new(), scope: String::new(), graph }
    }

    /// Names the part of the model that the following nodes belong to.
    pub fn set_scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// The part of the model that is being built.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Whether the source has a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.source.tensor(name).is_some()
    }

    /// Declares the tensor `name`, of exactly this shape (contiguous size first; trailing ones of
    /// size 1 do not count).
    pub fn weight(&mut self, name: &str, shape: &[usize]) -> Result<WeightId, GraphError> {
        let expected: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let Some(tensor) = self.source.tensor(name) else {
            return Err(GraphError::MissingTensor { name: name.into(), expected });
        };
        if !trim_ones(tensor.shape).eq(trim_ones(&expected)) {
            return Err(GraphError::WrongShape { name: name.into(), found: tensor.shape.to_vec(), expected });
        }
        if let Some(&id) = self.by_name.get(name) {
            return Ok(id);
        }
        let id = WeightId(self.graph.weights.len() as u32);
        self.graph.weights.push(WeightDecl { name: name.into(), shape: expected, ty: tensor.ty });
        self.by_name.insert(name.into(), id);
        Ok(id)
    }

    /// As [`weight`](Self::weight), or `None` if there is no such tensor.
    pub fn optional_weight(&mut self, name: &str, shape: &[usize]) -> Result<Option<WeightId>, GraphError> {
        if self.has(name) { self.weight(name, shape).map(Some) } else { Ok(None) }
    }

    /// Names a tensor that is known and not read.
    pub fn ignore(&mut self, name: impl Into<String>) {
        self.ignored.insert(name.into());
    }

    /// Declares a state.
    pub fn state(&mut self, decl: StateDecl) -> StateId {
        self.graph.states.push(decl);
        StateId(self.graph.states.len() as u32 - 1)
    }

    /// Appends a node.
    pub fn push(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let op = op.into();
        let mut node =
            Node { op, inputs: inputs.to_vec(), features: 0, domain: Domain::Token, scope: self.scope.clone() };
        let features = self
            .graph
            .with_shapes(&node, |shapes| node.op.infer(shapes))
            .map_err(|reason| GraphError::Op { op: node.op.name(), scope: self.scope.clone(), reason })?;
        node.features = features;
        node.domain = match node.op {
            Op::SelectRows(_) => Domain::Output,
            _ => inputs.first().map_or(Domain::Token, |v| self.graph.nodes[v.0 as usize].domain),
        };
        self.graph.nodes.push(node);
        Ok(ValueId(self.graph.nodes.len() as u32 - 1))
    }

    /// Features of a value.
    pub fn features(&self, value: ValueId) -> usize {
        self.graph.nodes[value.0 as usize].features
    }

    /// Rows of a value.
    pub fn domain(&self, value: ValueId) -> Domain {
        self.graph.nodes[value.0 as usize].domain
    }

    /// Names what leaves the graph, and ends it: every tensor must be read or ignored, every state
    /// used, every output of output rows.
    pub fn finish(mut self, outputs: &[(Output, ValueId)]) -> Result<Graph, GraphError> {
        let fail =
            |output: Output, reason: &str| GraphError::Output { name: output.to_string(), reason: reason.into() };
        if outputs.is_empty() {
            return Err(fail(Output::Logits, "the graph has no output"));
        }
        for &(output, value) in outputs {
            if self.graph.nodes[value.0 as usize].domain != Domain::Output {
                return Err(fail(output, "is of token rows; put select_rows before it"));
            }
        }
        self.graph.outputs = outputs.to_vec();
        for (i, state) in self.graph.states.iter().enumerate() {
            let users = self.graph.nodes.iter().filter(|n| n.op.state() == Some(StateId(i as u32)));
            let writers = match state {
                StateDecl::Recurrent { .. } => users.count(),
                StateDecl::KeyValue { .. } => users.filter(|n| n.inputs.len() > 1).count(),
            };
            if writers != 1 {
                let reason = format!("is written by {writers} ops, expected one");
                return Err(GraphError::State { name: state.name().into(), reason });
            }
        }
        let unread: Vec<String> = self
            .source
            .names()
            .into_iter()
            .filter(|name| !self.by_name.contains_key(name) && !self.ignored.contains(name))
            .collect();
        match unread.is_empty() {
            true => Ok(self.graph),
            false => Err(GraphError::UnreadTensors { arch: self.graph.name, names: unread }),
        }
    }
}

fn trim_ones(shape: &[u64]) -> impl Iterator<Item = u64> + '_ {
    let n = shape.iter().rposition(|&n| n != 1).map_or(0, |i| i + 1);
    shape[..n].iter().copied()
}
