//! What a sequence carries from one step to the next, declared per layer.
//!
//! Recurrent states have a constant size; one **slot** holds all of them for a sequence or a
//! snapshot. Keys and values grow with the tokens and live in **pages** of [`PAGE_TOKENS`] tokens;
//! states of equal window form a group with one page table per sequence.

use segno_quant::{TensorType, decode_row, store_row};

use crate::graph::Graph;

/// Tokens in a page. Prefill spans end at multiples of it (design, exactness rule 2).
pub const PAGE_TOKENS: u32 = 64;

/// Index of a state in [`Graph::states`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub u32);

/// A state of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateDecl {
    /// Constant size, f32: a convolution's tail, a token shift, a scan's state.
    Recurrent {
        /// For people, e.g. `blk.0.conv`.
        name: String,
        /// Sizes, the slowest first (row-major): the op says what they are.
        shape: Vec<u32>,
    },
    /// One key and one value per token and head.
    KeyValue {
        /// For people, e.g. `blk.3.kv`.
        name: String,
        /// Number of key/value heads.
        n_head_kv: u32,
        /// Length of a key.
        d_k: u32,
        /// Length of a value.
        d_v: u32,
        /// Whether a value is the first `d_v` numbers of its key and not stored beside it.
        v_in_k: bool,
        /// Tokens that a query sees, itself included; `None`: all.
        window: Option<u32>,
    },
}

impl StateDecl {
    /// The state's name.
    pub fn name(&self) -> &str {
        match self {
            StateDecl::Recurrent { name, .. } | StateDecl::KeyValue { name, .. } => name,
        }
    }

    /// Floats of a recurrent state; 0 for keys and values.
    pub fn recurrent_len(&self) -> usize {
        match self {
            StateDecl::Recurrent { shape, .. } => shape.iter().map(|&n| n as usize).product(),
            StateDecl::KeyValue { .. } => 0,
        }
    }
}

/// How a page stores keys and values. Attention sees them only in this precision (exactness rule 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 4 bytes a number.
    #[default]
    F32,
    /// 2 bytes a number.
    F16,
    /// Blocks of 32 numbers in 34 bytes, as [`segno_quant::store_row`] writes them.
    Q8_0,
    /// Blocks of 32 numbers in 18 bytes, as [`segno_quant::store_row`] writes them.
    Q4_0,
}

impl KvType {
    /// Every type, the most precise first.
    pub const ALL: [KvType; 4] = [KvType::F32, KvType::F16, KvType::Q8_0, KvType::Q4_0];

    /// As flags name it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }

    /// The format of the stored bytes.
    pub fn tensor_type(self) -> TensorType {
        match self {
            KvType::F32 => TensorType::F32,
            KvType::F16 => TensorType::F16,
            KvType::Q8_0 => TensorType::Q8_0,
            KvType::Q4_0 => TensorType::Q4_0,
        }
    }

    /// Numbers that are stored together; a head's are a multiple of it.
    pub fn block_len(self) -> usize {
        self.tensor_type().block_len()
    }

    /// Bytes of `n` numbers, in whole blocks.
    pub fn bytes(self, n: usize) -> usize {
        n.div_ceil(self.block_len()) * self.tensor_type().block_bytes()
    }

    /// What a page stores for `values`, which are whole blocks. Allocates; backends write in place, the same bytes.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes(values.len())];
        store_row(self.tensor_type(), values, &mut bytes).expect("whole blocks of a type that is stored");
        bytes
    }

    /// The numbers in whole blocks of a page.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / self.tensor_type().block_bytes() * self.block_len()];
        decode_row(self.tensor_type(), bytes, &mut values).expect("whole blocks");
        values
    }
}

/// States of equal window: they share page tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// Tokens that a query sees; `None`: all.
    pub window: Option<u32>,
    /// The states of the group, in graph order.
    pub members: Vec<StateId>,
    /// Bytes of one page of all members.
    pub page_bytes: usize,
}

impl KvGroup {
    /// Most pages that one sequence holds at once: all of a context of `n_ctx` tokens, or for a
    /// windowed group a ring that covers the window and the longest span.
    pub fn pages_per_sequence(&self, n_ctx: u32, max_span: u32) -> u32 {
        let all = n_ctx.div_ceil(PAGE_TOKENS);
        match self.window {
            None => all,
            Some(window) => all.min((window + max_span).div_ceil(PAGE_TOKENS) + 1),
        }
    }
}

/// Where each state of a graph lies: slots for the recurrent ones, groups of pages for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// The graph's states: a device makes room for each.
    pub states: Vec<StateDecl>,
    /// `(state, offset in floats)` of each recurrent state in a slot.
    pub recurrent: Vec<(StateId, usize)>,
    /// Floats of a slot.
    pub slot_floats: usize,
    /// Page groups, in order of first appearance.
    pub groups: Vec<KvGroup>,
    /// Type of the stored keys.
    pub k_type: KvType,
    /// Type of the stored values.
    pub v_type: KvType,
}

impl StateLayout {
    /// Lays out the states of `graph`. Recurrent states start at multiples of 64 floats (256 bytes),
    /// so that a device can bind any of them.
    pub fn new(graph: &Graph, k_type: KvType, v_type: KvType) -> Self {
        let states = graph.states.clone();
        let mut layout =
            StateLayout { states, recurrent: Vec::new(), slot_floats: 0, groups: Vec::new(), k_type, v_type };
        for (i, decl) in graph.states.iter().enumerate() {
            let id = StateId(i as u32);
            match decl {
                StateDecl::Recurrent { .. } => {
                    layout.recurrent.push((id, layout.slot_floats));
                    layout.slot_floats += decl.recurrent_len().next_multiple_of(64);
                }
                StateDecl::KeyValue { n_head_kv, d_k, d_v, v_in_k, window, .. } => {
                    let heads = *n_head_kv as usize * PAGE_TOKENS as usize;
                    let d_v = if *v_in_k { 0 } else { *d_v as usize };
                    let bytes = k_type.bytes(heads * *d_k as usize) + v_type.bytes(heads * d_v);
                    match layout.groups.iter_mut().find(|g| g.window == *window) {
                        Some(group) => {
                            group.members.push(id);
                            group.page_bytes += bytes;
                        }
                        None => {
                            layout.groups.push(KvGroup { window: *window, members: vec![id], page_bytes: bytes });
                        }
                    }
                }
            }
        }
        layout
    }

    /// Refuses types that cannot store a state's heads.
    ///
    /// # Errors
    /// The state, its size, the type, and the flag that chooses another.
    pub fn check(&self) -> Result<(), String> {
        for decl in &self.states {
            let StateDecl::KeyValue { name, d_k, d_v, v_in_k, .. } = decl else { continue };
            let (v_type, v_flag) = if *v_in_k { (self.k_type, "k") } else { (self.v_type, "v") };
            for (what, d, ty, flag) in [("keys", d_k, self.k_type, "k"), ("values", d_v, v_type, v_flag)] {
                if !(*d as usize).is_multiple_of(ty.block_len()) {
                    return Err(format!(
                        "{name}: {what} of {d} numbers a head cannot be stored as {}, which has blocks of {}; use \
                         --cache-type-{flag} f16 or f32",
                        ty.name(),
                        ty.block_len()
                    ));
                }
            }
        }
        Ok(())
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot_floats * 4
    }

    /// Offset in floats of a recurrent state in a slot.
    pub fn offset_of(&self, id: StateId) -> Option<usize> {
        self.recurrent.iter().find(|(s, _)| *s == id).map(|&(_, offset)| offset)
    }

    /// Index of the group that holds a key/value state.
    pub fn group_of(&self, id: StateId) -> Option<usize> {
        self.groups.iter().position(|g| g.members.contains(&id))
    }
}

/// How many slots and pages a pool has: decided once, at load, by the runtime's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Sizes and places.
    pub layout: StateLayout,
    /// Number of slots, slot 0 ([`SlotId::ZERO`](crate::SlotId::ZERO)) included.
    pub slots: u32,
    /// Number of pages of each group.
    pub pages: Vec<u32>,
}

impl PoolPlan {
    /// Bytes of all slots and pages.
    pub fn bytes(&self) -> u64 {
        let pages: u64 = self.pages.iter().zip(&self.layout.groups).map(|(&n, g)| n as u64 * g.page_bytes as u64).sum();
        self.slots as u64 * self.layout.slot_bytes() as u64 + pages
    }
}
