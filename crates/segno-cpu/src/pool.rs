//! Slots and pages in host memory.
//!
//! Slots and pages lie at fixed strides with a band of NaN after each, which a guarded program
//! checks: a kernel that writes past an entry is found before it harms another sequence.

use std::any::Any;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segno_ir::op::attention::KvDims;
use segno_ir::{DeviceError, KvType, PAGE_TOKENS, PageId, Pending, Pool, PoolPlan, SlotId, StateId};

use crate::memory::{BAND, LINE, Memory};

/// Slots or the pages of one group: entries of equal size with bands between them.
pub(crate) struct Entries {
    memory: Memory,
    count: usize,
    /// Floats of an entry.
    len: usize,
    /// Floats from one entry to the next.
    stride: usize,
}

impl Entries {
    fn new(count: usize, len: usize, purpose: &str) -> Result<Self, DeviceError> {
        let stride = len.next_multiple_of(LINE) + LINE;
        let refused = || DeviceError::OutOfMemory {
            device: "CPU".into(),
            bytes: (count as u64).saturating_mul(stride as u64 * 4),
            purpose: purpose.into(),
            hint: "use a shorter context or fewer parallel sequences".into(),
        };
        let floats = count.checked_mul(stride).ok_or_else(refused)?;
        let mut memory = Memory::zeroed(floats).ok_or_else(refused)?;
        for entry in memory.floats_mut().chunks_exact_mut(stride).take(count) {
            entry[len..].fill(f32::from_bits(BAND));
        }
        Ok(Entries { memory, count, len, stride })
    }

    /// Floats from one entry to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The memory, for kernels.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Index of an entry whose band was written.
    pub fn broken(&self) -> Option<usize> {
        let entries = self.memory.floats().chunks_exact(self.stride).take(self.count);
        entries.enumerate().find(|(_, e)| e[self.len..].iter().any(|f| f.to_bits() != BAND)).map(|(i, _)| i)
    }

    fn range(&self, index: u32, what: &str) -> Result<Range<usize>, DeviceError> {
        let index = index as usize;
        if index >= self.count {
            return Err(DeviceError::Invalid(format!("{what} {index} of {}", self.count)));
        }
        Ok(index * self.stride..index * self.stride + self.len)
    }
}

/// The bytes of a pool.
pub(crate) struct PoolData {
    /// Recurrent states.
    pub slots: Entries,
    /// Pages of each group.
    pub groups: Vec<Entries>,
}

/// A pool of this backend.
pub(crate) struct CpuPool {
    plan: PoolPlan,
    data: Mutex<PoolData>,
}

/// Where one key/value state lies within a page of its group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Member {
    pub group: usize,
    pub dims: KvDims,
    pub k_type: KvType,
    pub v_type: KvType,
    /// Byte offset of the keys `[token, head, d_k]` in a page.
    pub k_offset: usize,
    /// Byte offset of the values `[token, head, d_v]` in a page.
    pub v_offset: usize,
}

impl Member {
    /// Bytes of a token's keys.
    pub fn k_bytes(&self) -> usize {
        self.k_type.bytes(self.dims.n_head_kv * self.dims.d_k)
    }

    /// Bytes of a token's values.
    pub fn v_bytes(&self) -> usize {
        self.v_type.bytes(self.dims.n_head_kv * self.dims.d_v_stored())
    }

    /// The members of a group, in order.
    fn all(plan: &PoolPlan, group: usize) -> Vec<(StateId, Member)> {
        let (layout, mut offset) = (&plan.layout, 0);
        let mut members = Vec::new();
        for &id in &layout.groups[group].members {
            let Some(dims) = layout.states.get(id.0 as usize).and_then(KvDims::of) else { continue };
            let (k_type, v_type) = (layout.k_type, layout.v_type);
            let mut member = Member { group, dims, k_type, v_type, k_offset: offset, v_offset: 0 };
            member.v_offset = offset + PAGE_TOKENS as usize * member.k_bytes();
            offset = member.v_offset + PAGE_TOKENS as usize * member.v_bytes();
            members.push((id, member));
        }
        members
    }

    /// The member of a state; `None` if the plan has no such keys and values.
    pub fn of(plan: &PoolPlan, state: StateId) -> Option<Member> {
        let group = plan.layout.group_of(state)?;
        Member::all(plan, group).into_iter().find(|(id, _)| *id == state).map(|(_, member)| member)
    }
}

impl CpuPool {
    /// Allocates the slots and pages of a plan, all zero.
    pub fn new(plan: &PoolPlan) -> Result<Self, DeviceError> {
        if plan.pages.len() != plan.layout.groups.len() || plan.slots == 0 {
            return Err(DeviceError::Invalid("a plan needs slot 0, and a number of pages for each group".into()));
        }
        plan.layout.check().map_err(DeviceError::Invalid)?;
        let slots = Entries::new(plan.slots as usize, plan.layout.slot_floats, "recurrent states")?;
        let groups = plan.pages.iter().zip(&plan.layout.groups);
        let groups = groups
            .map(|(&n, g)| Entries::new(n as usize, g.page_bytes.div_ceil(4), "keys and values"))
            .collect::<Result<_, _>>()?;
        Ok(CpuPool { plan: plan.clone(), data: Mutex::new(PoolData { slots, groups }) })
    }

    /// The bytes, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, PoolData> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group<'d>(&self, data: &'d mut PoolData, group: usize) -> Result<&'d mut Entries, DeviceError> {
        let n = data.groups.len();
        data.groups.get_mut(group).ok_or_else(|| DeviceError::Invalid(format!("page group {group} of {n}")))
    }

    fn page_bytes(&self, group: usize, page: PageId) -> Result<Vec<u8>, DeviceError> {
        let mut data = self.lock();
        let pages = self.group(&mut data, group)?;
        let range = pages.range(page.0, "page")?;
        let bytes: &[u8] = bytemuck::cast_slice(&pages.memory.floats()[range]);
        Ok(bytes[..self.plan.layout.groups[group].page_bytes].to_vec())
    }
}

impl Pool for CpuPool {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn finish(&self, _: Duration) -> Result<(), DeviceError> {
        // What is issued is done when the call returns.
        Ok(())
    }

    fn plan(&self) -> &PoolPlan {
        &self.plan
    }

    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError> {
        let slots = &mut self.lock().slots;
        for &(from, to) in pairs {
            let (source, target) = (slots.range(from.0, "slot")?, slots.range(to.0, "slot")?);
            if to == SlotId::ZERO {
                return Err(DeviceError::Invalid("slot 0 is never written".into()));
            }
            slots.memory.floats_mut().copy_within(source, target.start);
        }
        Ok(())
    }

    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], tokens: u32) -> Result<(), DeviceError> {
        let mut data = self.lock();
        let pages = self.group(&mut data, group)?;
        let tokens = tokens.min(PAGE_TOKENS) as usize;
        let members = Member::all(&self.plan, group);
        for &(from, to) in pairs {
            let (source, target) = (pages.range(from.0, "page")?.start * 4, pages.range(to.0, "page")?.start * 4);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(pages.memory.floats_mut());
            for (_, m) in &members {
                let parts = [(m.k_offset, tokens * m.k_bytes()), (m.v_offset, tokens * m.v_bytes())];
                for (offset, n) in parts {
                    bytes.copy_within(source + offset..source + offset + n, target + offset);
                }
            }
        }
        Ok(())
    }

    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>> {
        let slots = &self.lock().slots;
        match slots.range(slot.0, "slot") {
            Ok(range) => Pending::ready(slots.memory.floats()[range].to_vec()),
            Err(error) => Pending::failed(error),
        }
    }

    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError> {
        let slots = &mut self.lock().slots;
        let range = slots.range(slot.0, "slot")?;
        if values.len() != range.len() || slot == SlotId::ZERO {
            return Err(DeviceError::Invalid(format!(
                "{} floats written to {slot:?} of {}",
                values.len(),
                range.len()
            )));
        }
        slots.memory.floats_mut()[range].copy_from_slice(values);
        Ok(())
    }

    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>> {
        match self.page_bytes(group, page) {
            Ok(bytes) => Pending::ready(bytes),
            Err(error) => Pending::failed(error),
        }
    }

    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut data = self.lock();
        let pages = self.group(&mut data, group)?;
        let range = pages.range(page.0, "page")?;
        let expected = self.plan.layout.groups[group].page_bytes;
        if bytes.len() != expected {
            return Err(DeviceError::Invalid(format!("{} bytes written to a page of {expected}", bytes.len())));
        }
        let target: &mut [u8] = bytemuck::cast_slice_mut(&mut pages.memory.floats_mut()[range]);
        target[..expected].copy_from_slice(bytes);
        Ok(())
    }
}
