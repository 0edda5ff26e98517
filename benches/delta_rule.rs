//! What share of reading a prompt the sequential delta rule has: one layer of a Qwen3.5-shaped model with and without
//! it, steps of many rows and of one.
//!
//! `cargo run --release --example delta_rule [DEVICE [WIDTH [KEY_HEADS [VALUE_HEADS [D_HEAD [ROWS [REPEATS]]]]]]]`

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use segno_ir::op::activate::Activation;
use segno_ir::op::delta_rule::{Decay, HeadMap};
use segno_ir::op::{Activate, Add, DeltaRule, Embed, L2Norm, Linear, Mul, SelectRows, ShortConv, Slice};
use segno_ir::{Builder, Cancel, Graph, GraphError, Input, Output, SpanKind, StateDecl, Tensor, ValueId, WeightSource};
use segno_quant::{TensorType, encode_row};
use segno_runtime::{Executor, ExecutorOptions, Work};

/// Matrices whose rows are all alike: what they hold costs nothing and decides no time.
#[derive(Default)]
struct Weights(HashMap<String, (TensorType, Vec<u64>, Vec<u8>)>);

impl Weights {
    fn add(&mut self, name: &str, ty: TensorType, shape: &[usize]) {
        let n = shape[0];
        let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0 / n as f32).collect();
        let mut row = vec![0; n / ty.block_len() * ty.block_bytes()];
        encode_row(ty, &values, &mut row).expect("whole blocks");
        let bytes = row.repeat(shape[1..].iter().product());
        self.0.insert(name.into(), (ty, shape.iter().map(|&n| n as u64).collect(), bytes));
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.0.get(name).map(|(ty, shape, bytes)| Tensor { ty: *ty, shape, bytes })
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

struct Shape {
    width: usize,
    n_head_k: usize,
    n_head_v: usize,
    d_head: usize,
}

impl Shape {
    fn weights(&self) -> Weights {
        let (keys, values) = (self.n_head_k * self.d_head, self.n_head_v * self.d_head);
        let n_ff = (self.width * 18 / 5).next_multiple_of(64);
        let mut weights = Weights::default();
        for (name, from, to) in [
            ("qkv", self.width, 2 * keys + values),
            ("gate", self.width, values),
            ("small", self.width, 2 * self.n_head_v),
            ("out", values, self.width),
            ("ffn_gate", self.width, n_ff),
            ("ffn_up", self.width, n_ff),
            ("ffn_down", n_ff, self.width),
        ] {
            weights.add(name, TensorType::Q8_0, &[from, to]);
        }
        weights.add("conv", TensorType::F32, &[4, 2 * keys + values]);
        weights
    }

    fn graph(&self, source: &Weights, scan: bool) -> Result<Graph, GraphError> {
        let Shape { width, n_head_k, n_head_v, d_head } = *self;
        let (keys, values) = (n_head_k * d_head, n_head_v * d_head);
        let mut b = Builder::new("delta_rule", source);
        let linear = |b: &mut Builder<'_>, x: ValueId, name: &str| {
            let shape: Vec<usize> = source.0[name].1.iter().map(|&n| n as usize).collect();
            let weight = b.weight(name, &shape)?;
            b.push(Linear { weight, bias: None }, &[x])
        };
        let part =
            |b: &mut Builder<'_>, x, offset, width| b.push(Slice { offset, width, stride: width, count: 1 }, &[x]);
        let x = b.push(Embed { weight: None, features: width, scale: 1.0 }, &[])?;
        let qkv = linear(&mut b, x, "qkv")?;
        let gate = linear(&mut b, x, "gate")?;
        let small = linear(&mut b, x, "small")?;
        let channels = 2 * keys + values;
        let state = b.state(StateDecl::Recurrent { name: "conv".into(), shape: vec![channels as u32, 3] });
        let weight = b.weight("conv", &[4, channels])?;
        let qkv = b.push(ShortConv { state, weight, bias: None, silu: true }, &[qkv])?;
        let q = part(&mut b, qkv, 0, keys)?;
        let k = part(&mut b, qkv, keys, keys)?;
        let v = part(&mut b, qkv, 2 * keys, values)?;
        let q = b.push(L2Norm { group: d_head, eps: 1e-6 }, &[q])?;
        let k = b.push(L2Norm { group: d_head, eps: 1e-6 }, &[k])?;
        let decay = part(&mut b, small, 0, n_head_v)?;
        let beta = part(&mut b, small, n_head_v, n_head_v)?;
        let beta = b.push(Activate { function: Activation::Sigmoid }, &[beta])?;
        let y = match scan {
            true => {
                let shape = vec![n_head_v as u32, d_head as u32, d_head as u32];
                let state = b.state(StateDecl::Recurrent { name: "delta".into(), shape });
                let op = DeltaRule {
                    state,
                    n_head_k,
                    n_head_v,
                    d_k: d_head,
                    d_v: d_head,
                    head_map: HeadMap::Tiled,
                    decay: Decay::Head,
                    scale: 1.0 / (d_head as f32).sqrt(),
                };
                b.push(op, &[q, k, v, decay, beta])?
            }
            false => v,
        };
        let y = b.push(Activate { function: Activation::Silu }, &[gate, y])?;
        let y = linear(&mut b, y, "out")?;
        let x = b.push(Add, &[x, y])?;
        let up = linear(&mut b, x, "ffn_up")?;
        let gate = linear(&mut b, x, "ffn_gate")?;
        let gate = b.push(Activate { function: Activation::Silu }, &[gate])?;
        let y = b.push(Mul { weight: None }, &[gate, up])?;
        let y = linear(&mut b, y, "ffn_down")?;
        let y = b.push(SelectRows, &[y])?;
        b.finish(&[(Output::Logits, y)])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let device = segno::open_device(&arguments.next().unwrap_or_else(|| "vulkan".into()), None)?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |n| n.parse::<usize>());
    let shape = Shape { width: number(2560)?, n_head_k: number(16)?, n_head_v: number(32)?, d_head: number(128)? };
    let (rows, repeats) = (number(512)?, number(20)?);
    println!(
        "{}: width {}, {} key and {} value heads of {}",
        device.describe().name,
        shape.width,
        shape.n_head_k,
        shape.n_head_v,
        shape.d_head
    );
    let weights = Arc::new(shape.weights());
    for n in [rows, 1] {
        let mut times = Vec::new();
        for scan in [false, true] {
            let graph = shape.graph(&weights, scan)?;
            let options =
                ExecutorOptions { n_ctx: (n * (repeats + 4)) as u32, max_rows: n.max(64) as u32, ..Default::default() };
            let mut executor = Executor::load(device.clone(), &graph, weights.clone(), options)?;
            let sequence = executor.create()?;
            let values: Arc<[f32]> = (0..shape.width).map(|i| (i % 17) as f32 / 17.0 - 0.5).collect();
            let kind = if n == 1 { SpanKind::Decode } else { SpanKind::Prefill };
            let mut each = Vec::new();
            for i in 0..repeats + 3 {
                let inputs = vec![Input::Row { values: values.clone(), content: 0 }; n];
                let work = Work { sequence, kind, inputs, outputs: vec![n as u32 - 1], snapshots: Vec::new() };
                let begun = Instant::now();
                let issued = executor.issue(vec![work], &Cancel::new())?;
                executor.read(&issued.rows, Output::Logits, 0, 1).wait(Duration::from_secs(600))?;
                if i >= 3 {
                    each.push(begun.elapsed().as_secs_f64() * 1e6);
                }
                executor.confirm(issued);
            }
            each.sort_by(f64::total_cmp);
            times.push(each[each.len() / 2]);
        }
        let scan = times[1] - times[0];
        println!(
            "{n} rows: {:.0} us with the scan, {:.0} without: {:.1} % of the layer, {:.2} us a row",
            times[1],
            times[0],
            100.0 * scan / times[1],
            scan / n as f64
        );
    }
    Ok(())
}
