//! Cases of a pool's own calls: slots and pages are read, written and copied, in issue order.
//!
//! No bound: bytes are moved.

use std::sync::Arc;

use segno_ir::op::{Attention, ShortConv};
use segno_ir::{
    Builder, Device, DeviceError, GraphError, KvType, PageId, Pool, PoolPlan, SlotId, StateDecl, StateLayout,
};
use segno_ir::{Graph, Output, op};
use segno_quant::TensorType;

use super::{Cases, kv_name};
use crate::random::Random;
use crate::report::{Check, Sink};
use crate::rig::{PATIENCE, members};
use crate::weight::{MemorySource, encode_float};

const SLOTS: u32 = 9;
const PAGES: u32 = 7;

/// A graph whose layout has two recurrent states and two groups of pages, one of them with two members.
fn graph(channels: usize, d: u32) -> Result<Graph, GraphError> {
    let mut source = MemorySource::default();
    let w = encode_float(TensorType::F32, &vec![0.5; 4 * channels]).unwrap_or_default();
    source.add("w", TensorType::F32, &[4, channels], &w);
    let mut b = Builder::new("case", &source);
    let mut x = b.push(op::Embed { weight: None, features: channels, scale: 1.0 }, &[])?;
    for i in 0..2 {
        let state = super::build::declare_state(&mut b, i, &[channels, 3]);
        let weight = b.weight("w", &[4, channels])?;
        x = b.push(ShortConv { state, weight, bias: None, silu: false }, &[x])?;
    }
    let n = d as usize;
    for (i, window) in [None, Some(100), None].into_iter().enumerate() {
        let part = |b: &mut Builder<'_>, offset| b.push(op::Slice { offset, width: n, stride: n, count: 1 }, &[x]);
        let (q, k, v) = (part(&mut b, 0)?, part(&mut b, n)?, part(&mut b, 1)?);
        let state = b.state(StateDecl::KeyValue {
            name: format!("kv.{i}"),
            n_head_kv: 1,
            d_k: d,
            d_v: d,
            v_in_k: false,
            window,
        });
        b.push(Attention { state, n_head: 1, scale: 1.0, sinks: None, soft_cap: None, temperature: None }, &[q, k, v])?;
    }
    let y = b.push(op::SelectRows, &[x])?;
    b.finish(&[(Output::Hidden(0), y)])
}

/// A pool and what it should hold.
struct Mirror {
    pool: Arc<dyn Pool>,
    graph: Graph,
    slots: Vec<Vec<f32>>,
    pages: Vec<Vec<Vec<u8>>>,
}

impl Mirror {
    fn new(
        device: &dyn Device,
        rng: &mut Random,
        channels: usize,
        d: u32,
        kv: (KvType, KvType),
    ) -> Result<Self, DeviceError> {
        let graph =
            graph(channels, d).map_err(|e| DeviceError::Invalid(format!("the case could not be built: {e}")))?;
        let layout = StateLayout::new(&graph, kv.0, kv.1);
        let pool = device.pool(&PoolPlan { slots: SLOTS, pages: vec![PAGES; layout.groups.len()], layout })?;
        let mut mirror = Mirror { pool, graph, slots: Vec::new(), pages: Vec::new() };
        mirror.slots.push(vec![0.0; mirror.pool.layout().slot_floats]);
        for slot in 1..SLOTS {
            let values: Vec<f32> = (0..mirror.pool.layout().slot_floats).map(|_| rng.normal()).collect();
            mirror.pool.write_slot(SlotId(slot), &values)?;
            mirror.slots.push(values);
        }
        let sizes: Vec<usize> = mirror.pool.layout().groups.iter().map(|g| g.page_bytes).collect();
        for (group, bytes) in sizes.into_iter().enumerate() {
            mirror.pages.push(Vec::new());
            for page in 0..PAGES {
                let content = random_page(rng, bytes, kv);
                mirror.pool.write_page(group, PageId(page), &content)?;
                mirror.pages[group].push(content);
            }
        }
        Ok(mirror)
    }

    /// Indices of a slot's floats that are part of a state: what lies between them is nobody's.
    fn state_floats(&self) -> impl Iterator<Item = usize> {
        let n = self.graph.states.iter().map(StateDecl::recurrent_len).collect::<Vec<_>>();
        let places = self.pool.layout().recurrent.iter();
        places.flat_map(move |&(state, offset)| offset..offset + n[state.0 as usize])
    }

    /// The first slot or page that does not hold what it should.
    fn difference(&self) -> Result<Option<String>, DeviceError> {
        for (i, want) in self.slots.iter().enumerate() {
            let got = self.pool.read_slot(SlotId(i as u32)).wait(PATIENCE)?;
            let differs = |&f: &usize| got.get(f).is_none_or(|v| v.to_bits() != want[f].to_bits());
            if let Some(float) = self.state_floats().find(differs) {
                return Ok(Some(format!("float {float} of slot {i} is not what was written last")));
            }
        }
        for (group, pages) in self.pages.iter().enumerate() {
            for (i, want) in pages.iter().enumerate() {
                if self.pool.read_page(group, PageId(i as u32)).wait(PATIENCE)? != *want {
                    return Ok(Some(format!("page {i} of group {group} does not hold what was written last")));
                }
            }
        }
        Ok(None)
    }
}

/// Bytes that are numbers in the page's type.
fn random_page(rng: &mut Random, bytes: usize, kv: (KvType, KvType)) -> Vec<u8> {
    let ty = if kv.0 == kv.1 { kv.0 } else { KvType::F32 };
    let values: Vec<f32> = (0..bytes / ty.bytes(1) * ty.block_len()).map(|_| rng.normal()).collect();
    ty.encode(&values)
}

/// What is written is read, by slot and by page; slot 0 is zero; a read returns the bytes as of its issue.
fn reads(
    device: &dyn Device,
    rng: &mut Random,
    sink: &mut Sink,
    channels: usize,
    d: u32,
    kv: (KvType, KvType),
) -> Result<(), DeviceError> {
    let mut mirror = Mirror::new(device, rng, channels, d, kv)?;
    sink.exact(Check::Memory, true, mirror.difference()?);
    let before = (mirror.pool.read_slot(SlotId(3)), mirror.pool.read_page(0, PageId(2)));
    let values: Vec<f32> = mirror.slots[3].iter().map(|v| -v).collect();
    mirror.pool.write_slot(SlotId(3), &values)?;
    mirror.pool.copy_pages(0, &[(PageId(4), PageId(2))], segno_ir::PAGE_TOKENS)?;
    let (slot, page) = (before.0.wait(PATIENCE)?, before.1.wait(PATIENCE)?);
    let same = page == mirror.pages[0][2] && mirror.state_floats().all(|f| slot[f] == mirror.slots[3][f]);
    let wrong = (!same).then(|| "a read does not return the bytes as of its issue".to_string());
    sink.exact(Check::Memory, true, wrong);
    mirror.slots[3] = values;
    mirror.pages[0][2] = mirror.pages[0][4].clone();
    sink.exact(Check::Memory, true, mirror.difference()?);
    Ok(())
}

/// Copies of slots: from slot 0, several pairs at once, one source twice.
fn copies_slots(
    device: &dyn Device,
    rng: &mut Random,
    sink: &mut Sink,
    channels: usize,
    d: u32,
    kv: (KvType, KvType),
) -> Result<(), DeviceError> {
    let mut mirror = Mirror::new(device, rng, channels, d, kv)?;
    for pairs in [&[(5, 1)][..], &[(0, 2), (7, 4), (7, 3)], &[(SLOTS - 1, 6)], &[]] {
        let ids: Vec<(SlotId, SlotId)> = pairs.iter().map(|&(a, b)| (SlotId(a), SlotId(b))).collect();
        mirror.pool.copy_slots(&ids)?;
        for &(from, to) in pairs {
            mirror.slots[to as usize] = mirror.slots[from as usize].clone();
        }
    }
    // One after the other, in issue order.
    for (from, to) in [(1, 8), (8, 5), (2, 8)] {
        mirror.pool.copy_slots(&[(SlotId(from), SlotId(to))])?;
        mirror.slots[to as usize] = mirror.slots[from as usize].clone();
    }
    sink.exact(Check::Memory, true, mirror.difference()?);
    Ok(())
}

/// Copies of pages: the first entries of every member; what lies behind them in the copy is not looked at.
fn copies_pages(
    device: &dyn Device,
    rng: &mut Random,
    sink: &mut Sink,
    d: u32,
    kv: (KvType, KvType),
    tokens: u32,
) -> Result<(), DeviceError> {
    let mut mirror = Mirror::new(device, rng, 2 * d as usize, d, kv)?;
    let mut wrong = None;
    for group in 0..mirror.pages.len() {
        let pairs = [(PageId(6), PageId(0)), (PageId(2), PageId(5))];
        mirror.pool.copy_pages(group, &pairs, tokens)?;
        for (from, to) in pairs {
            let got = mirror.pool.read_page(group, to).wait(PATIENCE)?;
            let want = &mirror.pages[group][from.0 as usize];
            for member in members(&mirror.graph, mirror.pool.layout(), group) {
                for ((offset, size), ty) in [(member.k, kv.0), (member.v, kv.1)] {
                    let range = offset..offset + tokens as usize * size;
                    if got[range.clone()] != want[range.clone()] && wrong.is_none() {
                        let at = ty
                            .decode(&got[range.clone()])
                            .iter()
                            .zip(ty.decode(&want[range]))
                            .position(|(a, b)| *a != b);
                        wrong = Some(format!(
                            "group {group}, state {}, {to:?}: number {at:?} was not copied",
                            member.state.0
                        ));
                    }
                }
            }
            mirror.pages[group][to.0 as usize] = got;
        }
    }
    sink.exact(Check::Memory, true, wrong);
    sink.exact(Check::Memory, true, mirror.difference()?);
    Ok(())
}

pub(super) fn cases(out: &mut Cases) {
    for kv in KvType::ALL.map(|ty| (ty, ty)).into_iter().chain([(KvType::F32, KvType::F16)]) {
        let suits = |d: u32| (d as usize).is_multiple_of(kv.0.block_len());
        for (channels, d) in [(128, 16), (257, 40), (1024, 128)].into_iter().filter(|&(_, d)| suits(d)) {
            out.direct(
                kv_name(kv),
                format!("reads,channels={channels},d={d}"),
                Box::new(move |device, rng, sink| reads(device, rng, sink, channels, d, kv)),
            );
            out.direct(
                kv_name(kv),
                format!("slots,channels={channels},d={d}"),
                Box::new(move |device, rng, sink| copies_slots(device, rng, sink, channels, d, kv)),
            );
        }
        let sizes = [(16, 64), (16, 1), (40, 63), (128, 31), (64, 33), (32, 1), (96, 64)];
        for (d, tokens) in sizes.into_iter().filter(|&(d, _)| suits(d)) {
            out.direct(
                kv_name(kv),
                format!("pages,d={d},tokens={tokens}"),
                Box::new(move |device, rng, sink| copies_pages(device, rng, sink, d, kv, tokens)),
            );
        }
    }
}
