//! Slots and pages in host memory.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

use segno_ir::op::attention::KvDims;
use segno_ir::{DeviceError, Graph, KvType, PAGE_TOKENS, PageId, Pending, Pool, PoolPlan, SlotId, StateId};

/// A pool of this backend.
pub(crate) struct CpuPool {
    plan: PoolPlan,
    data: Mutex<PoolData>,
}

/// The bytes themselves.
pub(crate) struct PoolData {
    /// `[slot, slot_floats]`.
    pub slots: Vec<f32>,
    /// Per group `[page, page_bytes / 4]`, as words so that f32 and f16 are aligned.
    pub pages: Vec<Vec<u32>>,
}

/// Where one key/value state lies within a page of its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub group: usize,
    pub dims: KvDims,
    pub k_type: KvType,
    pub v_type: KvType,
    /// Byte offsets within a page.
    pub k_offset: usize,
    pub v_offset: usize,
    pub page_bytes: usize,
}

impl Member {
    pub fn of(graph: &Graph, plan: &PoolPlan, state: StateId) -> Option<Member> {
        let layout = &plan.layout;
        let group = layout.group_of(state)?;
        let tokens = PAGE_TOKENS as usize;
        let mut offset = 0;
        for &id in &layout.groups[group].members {
            let dims = KvDims::of(&graph.states[id.0 as usize])?;
            let k_bytes = layout.k_type.bytes(tokens * dims.n_head_kv * dims.d_k);
            let v_bytes = layout.v_type.bytes(tokens * dims.n_head_kv * dims.d_v);
            if id == state {
                return Some(Member {
                    group,
                    dims,
                    k_type: layout.k_type,
                    v_type: layout.v_type,
                    k_offset: offset,
                    v_offset: offset + k_bytes,
                    page_bytes: layout.groups[group].page_bytes,
                });
            }
            offset += k_bytes + v_bytes;
        }
        None
    }
}

impl CpuPool {
    pub fn new(plan: &PoolPlan) -> Self {
        let words = |(&n, g): (&u32, &segno_ir::KvGroup)| vec![0u32; n as usize * g.page_bytes / 4];
        let data = PoolData {
            slots: vec![0.0; plan.slots as usize * plan.layout.slot_floats],
            pages: plan.pages.iter().zip(&plan.layout.groups).map(words).collect(),
        };
        CpuPool { plan: plan.clone(), data: Mutex::new(data) }
    }

    pub fn lock(&self) -> MutexGuard<'_, PoolData> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, slot: SlotId) -> std::ops::Range<usize> {
        let n = self.plan.layout.slot_floats;
        slot.0 as usize * n..(slot.0 as usize + 1) * n
    }

    fn page(&self, group: usize, page: PageId) -> std::ops::Range<usize> {
        let n = self.plan.layout.groups[group].page_bytes / 4;
        page.0 as usize * n..(page.0 as usize + 1) * n
    }
}

impl Pool for CpuPool {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn plan(&self) -> &PoolPlan {
        &self.plan
    }

    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError> {
        let mut data = self.lock();
        for &(from, to) in pairs {
            data.slots.copy_within(self.slot(from), self.slot(to).start);
        }
        Ok(())
    }

    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], _tokens: u32) -> Result<(), DeviceError> {
        let mut data = self.lock();
        for &(from, to) in pairs {
            data.pages[group].copy_within(self.page(group, from), self.page(group, to).start);
        }
        Ok(())
    }

    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>> {
        Pending::ready(self.lock().slots[self.slot(slot)].to_vec())
    }

    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError> {
        let range = self.slot(slot);
        if values.len() != range.len() || slot == SlotId::ZERO {
            return Err(DeviceError::Invalid(format!(
                "{} floats written to {slot:?} of {}",
                values.len(),
                range.len()
            )));
        }
        self.lock().slots[range].copy_from_slice(values);
        Ok(())
    }

    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>> {
        Pending::ready(bytemuck::cast_slice(&self.lock().pages[group][self.page(group, page)]).to_vec())
    }

    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        let range = self.page(group, page);
        if bytes.len() != range.len() * 4 {
            return Err(DeviceError::Invalid(format!(
                "{} bytes written to a page of {}",
                bytes.len(),
                range.len() * 4
            )));
        }
        bytemuck::cast_slice_mut(&mut self.lock().pages[group][range]).copy_from_slice(bytes);
        Ok(())
    }
}
