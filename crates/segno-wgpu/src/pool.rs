//! Slots and pages on the device: a buffer for each state, so that kernels of different layers never wait for
//! each other's.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use segno_ir::op::attention::KvDims;
use segno_ir::{DeviceError, KvType, PAGE_TOKENS, PageId, Pending, Pool, PoolPlan, SlotId, StateDecl, StateId};

use crate::gpu::{Gpu, Pipeline};
use crate::params::{Params, params};
use crate::shader::Variant;

params!(CopyParams { source: u32, dest: u32, count: u32 });

/// Threads of a copy's workgroup.
const WG: u32 = 256;
/// Words that each copies: several loads under way hide the memory's latency.
const PER_THREAD: u32 = 4;

/// A recurrent state: `[slot, len]`.
pub(crate) struct Recurrent {
    pub buffer: wgpu::Buffer,
    copies: wgpu::BindGroup,
    pub len: usize,
    /// Offset in a slot of the plan's layout.
    offset: usize,
}

/// A key/value state: `[page, token, head, d]` each.
pub(crate) struct KeyValue {
    pub group: usize,
    pub dims: KvDims,
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
    k_copies: wgpu::BindGroup,
    v_copies: wgpu::BindGroup,
    pub k_type: KvType,
    pub v_type: KvType,
}

impl KeyValue {
    /// Bytes of a page's keys, and of its values.
    fn page_bytes(&self) -> (u64, u64) {
        let tokens = PAGE_TOKENS as usize * self.dims.n_head_kv;
        (self.k_type.bytes(tokens * self.dims.d_k) as u64, self.v_type.bytes(tokens * self.dims.d_v_stored()) as u64)
    }
}

pub(crate) enum State {
    Recurrent(Recurrent),
    KeyValue(KeyValue),
}

pub(crate) struct WgpuPool {
    gpu: Arc<Gpu>,
    plan: PoolPlan,
    /// In graph order.
    states: Vec<State>,
    copy: wgpu::ComputePipeline,
}

fn copy_pipeline(gpu: &Gpu) -> Result<Pipeline, DeviceError> {
    let variant = Variant {
        name: "copy",
        flags: Vec::new(),
        constants: vec![("WG", WG), ("PER_THREAD", PER_THREAD)],
        format: None,
        params: CopyParams::wgsl(),
    };
    gpu.pipeline(&variant, &[true], size_of::<CopyParams>())
}

/// What a copy within a buffer binds.
fn bind_copies(gpu: &Gpu, buffer: &wgpu::Buffer) -> Result<wgpu::BindGroup, DeviceError> {
    let descriptor = wgpu::BindGroupDescriptor {
        label: Some("copy"),
        layout: &copy_pipeline(gpu)?.layout,
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    };
    Ok(gpu.device.create_bind_group(&descriptor))
}

fn make(gpu: &Gpu, plan: &PoolPlan, id: StateId, decl: &StateDecl) -> Result<State, DeviceError> {
    let layout = &plan.layout;
    let Some(dims) = KvDims::of(decl) else {
        let len = decl.recurrent_len();
        // Buffers are made zero, so slot 0 is.
        let buffer = gpu.storage(4 * plan.slots as u64 * len as u64, "recurrent states")?;
        let copies = bind_copies(gpu, &buffer)?;
        return Ok(State::Recurrent(Recurrent { buffer, copies, len, offset: layout.offset_of(id).unwrap_or(0) }));
    };
    let group = layout.group_of(id).ok_or_else(|| DeviceError::Invalid(format!("{} has no group", decl.name())))?;
    let odd = |ty: KvType, d: usize| ty == KvType::F16 && !(dims.n_head_kv * d).is_multiple_of(2);
    if odd(layout.k_type, dims.d_k) || odd(layout.v_type, dims.d_v_stored()) {
        return Err(DeviceError::Invalid(format!("{} has an odd size, which cannot be stored as f16", decl.name())));
    }
    let heads = plan.pages[group] as usize * PAGE_TOKENS as usize * dims.n_head_kv;
    let k = gpu.storage(layout.k_type.bytes(heads * dims.d_k) as u64, "keys")?;
    let v = gpu.storage(layout.v_type.bytes(heads * dims.d_v_stored()) as u64, "values")?;
    let (k_copies, v_copies) = (bind_copies(gpu, &k)?, bind_copies(gpu, &v)?);
    let (k_type, v_type) = (layout.k_type, layout.v_type);
    Ok(State::KeyValue(KeyValue { group, dims, k, v, k_copies, v_copies, k_type, v_type }))
}

impl WgpuPool {
    pub fn new(gpu: &Arc<Gpu>, plan: &PoolPlan) -> Result<Self, DeviceError> {
        plan.layout.check().map_err(DeviceError::Invalid)?;
        let states = plan.layout.states.iter().enumerate();
        let states = states.map(|(i, decl)| make(gpu, plan, StateId(i as u32), decl)).collect::<Result<_, _>>()?;
        Ok(WgpuPool { gpu: gpu.clone(), plan: plan.clone(), states, copy: copy_pipeline(gpu)?.pipeline })
    }

    pub fn state(&self, id: StateId) -> Option<&State> {
        self.states.get(id.0 as usize)
    }

    fn recurrent(&self) -> impl Iterator<Item = &Recurrent> {
        self.states.iter().filter_map(|s| if let State::Recurrent(r) = s { Some(r) } else { None })
    }

    /// Keys and values of a group's members: the buffer, what its copies bind, and bytes of a page.
    fn parts(&self, group: usize) -> impl Iterator<Item = (&wgpu::Buffer, &wgpu::BindGroup, u64)> {
        let members = self.states.iter().filter_map(move |s| match s {
            State::KeyValue(kv) if kv.group == group => Some(kv),
            _ => None,
        });
        members.flat_map(|kv| {
            let (k, v) = kv.page_bytes();
            [(&kv.k, &kv.k_copies, k), (&kv.v, &kv.v_copies, v)]
        })
    }

    /// Copies words within buffers by a kernel: `(buffer, from, to, count)` each, in order. What is in other buffers
    /// need not wait.
    fn copy<'a>(&self, copies: impl Iterator<Item = (&'a wgpu::BindGroup, u64, u64, u64)>) -> Result<(), DeviceError> {
        self.gpu.record(|encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.copy);
            for (buffer, from, to, count) in copies {
                pass.set_bind_group(0, buffer, &[]);
                let params = CopyParams { source: from as u32, dest: to as u32, count: count as u32 };
                pass.set_immediates(0, bytemuck::bytes_of(&params));
                let groups = count.div_ceil((WG * PER_THREAD).into()) as u32;
                pass.dispatch_workgroups(groups.min(65_535), groups.div_ceil(65_535), 1);
            }
        });
        self.gpu.submit();
        self.gpu.check()
    }

    /// Puts bytes into buffers after all that was issued: `(buffer, offset, bytes)` each.
    fn write<'a>(&self, pieces: impl Iterator<Item = (&'a wgpu::Buffer, u64, &'a [u8])>) -> Result<(), DeviceError> {
        self.gpu.submit();
        for (buffer, offset, bytes) in pieces {
            self.gpu.queue.write_buffer(buffer, offset, bytes);
        }
        self.gpu.queue.submit([]);
        self.gpu.check()
    }

    /// Reads pieces of buffers, joined: `(buffer, offset, bytes)` each.
    fn read<T: Send + 'static>(
        &self,
        pieces: &[(&wgpu::Buffer, u64, u64)],
        f: impl FnMut(&[u8]) -> T + Send + 'static,
    ) -> Pending<T> {
        let total = pieces.iter().map(|p| p.2).sum::<u64>();
        let buffer = match self.gpu.readback(total) {
            Ok(buffer) => buffer,
            Err(error) => return Pending::failed(error),
        };
        self.gpu.record(|encoder| {
            let mut at = 0;
            for &(from, offset, bytes) in pieces {
                encoder.copy_buffer_to_buffer(from, offset, &buffer, at, bytes);
                at += bytes;
            }
        });
        self.gpu.promise(buffer, total).then(f)
    }
}

impl Pool for WgpuPool {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn finish(&self, timeout: Duration) -> Result<(), DeviceError> {
        self.gpu.finish(timeout)
    }

    fn plan(&self) -> &PoolPlan {
        &self.plan
    }

    fn copy_slots(&self, pairs: &[(SlotId, SlotId)]) -> Result<(), DeviceError> {
        self.copy(self.recurrent().flat_map(|state| {
            let place = |slot: SlotId| slot.0 as u64 * state.len as u64;
            pairs.iter().map(move |&(from, to)| (&state.copies, place(from), place(to), state.len as u64))
        }))
    }

    fn copy_pages(&self, group: usize, pairs: &[(PageId, PageId)], tokens: u32) -> Result<(), DeviceError> {
        self.copy(self.parts(group).flat_map(|(_, buffer, bytes)| {
            // A token's blocks may end within a word.
            let (page, words) = (bytes / 4, (bytes / 4 * tokens as u64).div_ceil(PAGE_TOKENS as u64));
            pairs.iter().map(move |&(from, to)| (buffer, from.0 as u64 * page, to.0 as u64 * page, words))
        }))
    }

    fn read_slot(&self, slot: SlotId) -> Pending<Vec<f32>> {
        let bytes = |r: &Recurrent| 4 * r.len as u64;
        let pieces: Vec<_> = self.recurrent().map(|r| (&r.buffer, slot.0 as u64 * bytes(r), bytes(r))).collect();
        // Of each state: where its floats are in the slot.
        let places: Vec<_> = self.recurrent().map(|r| r.offset..r.offset + r.len).collect();
        let n = self.plan.layout.slot_floats;
        self.read(&pieces, move |mut bytes| {
            let mut floats = vec![0.0; n];
            for place in &places {
                let piece = bytes.split_off(..4 * place.len()).unwrap_or_default();
                bytemuck::cast_slice_mut(&mut floats[place.clone()]).copy_from_slice(piece);
            }
            floats
        })
    }

    fn write_slot(&self, slot: SlotId, values: &[f32]) -> Result<(), DeviceError> {
        if values.len() != self.plan.layout.slot_floats || slot == SlotId::ZERO || slot.0 >= self.plan.slots {
            return Err(DeviceError::Invalid(format!("{} floats written to {slot:?}", values.len())));
        }
        self.write(self.recurrent().map(|r| {
            let bytes = bytemuck::cast_slice(&values[r.offset..r.offset + r.len]);
            (&r.buffer, 4 * slot.0 as u64 * r.len as u64, bytes)
        }))
    }

    fn read_page(&self, group: usize, page: PageId) -> Pending<Vec<u8>> {
        let pieces: Vec<_> = self.parts(group).map(|(buffer, _, n)| (buffer, page.0 as u64 * n, n)).collect();
        self.read(&pieces, <[u8]>::to_vec)
    }

    fn write_page(&self, group: usize, page: PageId, bytes: &[u8]) -> Result<(), DeviceError> {
        if self.plan.layout.groups.get(group).is_none_or(|g| g.page_bytes != bytes.len()) {
            return Err(DeviceError::Invalid(format!("{} bytes written to a page of group {group}", bytes.len())));
        }
        let mut rest = bytes;
        self.write(self.parts(group).map(|(buffer, _, n)| {
            let (piece, tail) = rest.split_at(n as usize);
            rest = tail;
            (buffer, page.0 as u64 * n, piece)
        }))
    }
}

/// The parameter struct's text, for the translation tests.
#[cfg(test)]
pub(crate) fn copy_params() -> String {
    CopyParams::wgsl()
}
