//! Each op against its f64 reference.

mod common;

use std::sync::Arc;

use common::{Piece, Random, Rig, Setting, Source, TYPES, graph, weight};
use segno_ir::op::activate::Activation;
use segno_ir::op::delta_rule::{Decay, HeadMap};
use segno_ir::op::rope::{Pairing, Yarn};
use segno_ir::op::{
    Activate, Add, Attention, DeltaRule, L2Norm, Linear, Mul, RmsNorm, Rope, Scale, ShortConv, Slice, SoftCap, Softplus,
};
use segno_ir::reference::{RefState, Reference, decode_tensor};
use segno_ir::{Device, Graph, Input, KvType, Op, StateDecl, WeightSource};
use segno_quant::TensorType;

/// The largest difference relative to the largest size of each output, over two sequences that
/// travel in the same steps, cut in odd places.
fn worst(graph: &Graph, source: &Arc<Source>, inputs: [&[Input]; 2], setting: &Setting) -> f64 {
    let longest = inputs.iter().map(|i| i.len()).max().unwrap() as u32;
    let mut rig = Rig::new(graph, source, 2, longest, setting);
    let mut results: [Vec<Vec<f32>>; 2] =
        [vec![Vec::new(); graph.outputs.len()], vec![Vec::new(); graph.outputs.len()]];
    let widths: Vec<usize> = graph.outputs.iter().map(|(_, v)| graph.nodes[v.0 as usize].features).collect();
    let mut at = [0, 0];
    let cuts = [[5, 1], [1, 9], [63, 40], [usize::MAX, usize::MAX]];
    for cut in cuts {
        let parts = [0, 1].map(|s| &inputs[s][at[s]..(at[s] + cut[s].min(inputs[s].len())).min(inputs[s].len())]);
        let pieces: Vec<Piece<'_>> =
            (0..2).filter(|&s| !parts[s].is_empty()).map(|s| Piece::new(s, parts[s])).collect();
        if pieces.is_empty() {
            continue;
        }
        let outputs = rig.run(graph, &pieces);
        for (o, values) in outputs.iter().enumerate() {
            let mut rest = &values[..];
            for piece in &pieces {
                let (mine, after) = rest.split_at(piece.inputs.len() * widths[o]);
                results[piece.sequence][o].extend(mine);
                rest = after;
            }
        }
        (0..2).for_each(|s| at[s] += parts[s].len());
    }
    let mut worst = 0f64;
    for s in 0..2 {
        let mut reference = Reference::new(graph, &**source).unwrap();
        let rows: Vec<u32> = (0..inputs[s].len() as u32).collect();
        let exact = reference.run(inputs[s], &rows).unwrap();
        for (o, (_, exact)) in exact.iter().enumerate() {
            let size = exact.iter().fold(1e-30, |a: f64, b| a.max(b.abs()));
            assert_eq!(exact.len(), results[s][o].len());
            for (y, e) in results[s][o].iter().zip(exact) {
                // NaN must not pass for small.
                let error = (*y as f64 - e).abs() / size;
                worst = if error <= worst { worst } else { error };
                assert!(!error.is_nan(), "{y} for {e}");
            }
        }
        // The recurrent states, too.
        let state = rig.state(s);
        for &(id, offset) in &rig.plan.layout.recurrent {
            let RefState::Recurrent(exact) = &reference.states()[id.0 as usize] else { continue };
            let size = exact.iter().fold(1e-30, |a: f64, b| a.max(b.abs()));
            for (y, e) in state[offset..].iter().zip(exact) {
                worst = worst.max((*y as f64 - e).abs() / size);
            }
        }
    }
    worst
}

fn settings() -> Vec<Setting> {
    [(1, false), (3, false), (2, true)]
        .into_iter()
        .map(|(threads, portable)| Setting { threads, portable, ..Setting::default() })
        .collect()
}

fn check(name: &str, graph: &Graph, source: &Arc<Source>, rows: [usize; 2], bound: f64) {
    let width = graph.nodes[0].features;
    let mut random = Random(rows[0] as u64 + 1);
    let inputs = rows.map(|n| random.inputs(n, width));
    for setting in settings() {
        let worst = worst(graph, source, [&inputs[0], &inputs[1]], &setting);
        assert!(worst <= bound, "{name}: error {worst:.3e} of {bound:.1e}, {} threads", setting.threads);
    }
}

#[test]
fn elementwise_ops() {
    let mut random = Random(1);
    let mut source = Source::default();
    let n = 37;
    for name in ["bias", "factor"] {
        source.add(&mut random, name, TensorType::F32, &[n]);
    }
    let source = Arc::new(source);
    let graph = graph(&source, 2 * n, |b, x| {
        let part =
            |b: &mut segno_ir::Builder<'_>, offset| b.push(Slice { offset, width: n, stride: n, count: 1 }, &[x]);
        let (a, c) = (part(b, 0)?, part(b, n)?);
        let (bias, factor) = (Some(weight(b, "bias", &[n])), Some(weight(b, "factor", &[n])));
        let big = b.push(Scale { factor: 9.0 }, &[a])?;
        let functions = [
            Activation::Silu,
            Activation::Gelu,
            Activation::Relu2,
            Activation::Sigmoid,
            Activation::Tanh,
            Activation::Exp,
            Activation::ClampedSwiglu { limit: 2.0, alpha: 1.702 },
        ];
        let mut ends = vec![
            b.push(Add, &[a, c])?,
            b.push(Mul { weight: None }, &[a, c])?,
            b.push(Mul { weight: factor }, &[c])?,
            b.push(SoftCap { cap: 3.0 }, &[big])?,
            b.push(Softplus { bias, factor }, &[big])?,
            b.push(Softplus { bias: None, factor: None }, &[a])?,
            b.push(Slice { offset: 3, width: 5, stride: 11, count: 4 }, &[x])?,
        ];
        for function in functions {
            ends.push(b.push(Activate { function }, &[big, c])?);
            if !matches!(function, Activation::ClampedSwiglu { .. }) {
                ends.push(b.push(Activate { function }, &[big])?);
            }
        }
        Ok(ends)
    });
    check("elementwise", &graph, &source, [12, 70], 1e-6);
}

#[test]
fn norms() {
    let mut random = Random(2);
    let mut source = Source::default();
    source.add(&mut random, "all", TensorType::F32, &[90]);
    source.add(&mut random, "group", TensorType::F16, &[15]);
    let source = Arc::new(source);
    let graph = graph(&source, 90, |b, x| {
        let (all, group) = (Some(weight(b, "all", &[90])), Some(weight(b, "group", &[15])));
        Ok(vec![
            b.push(RmsNorm { group: 90, weight: all, eps: 1e-5 }, &[x])?,
            b.push(RmsNorm { group: 15, weight: group, eps: 1e-6 }, &[x])?,
            b.push(RmsNorm { group: 45, weight: all, eps: 1e-6 }, &[x])?,
            b.push(RmsNorm { group: 30, weight: None, eps: 0.1 }, &[x])?,
            b.push(L2Norm { group: 18, eps: 1e-6 }, &[x])?,
        ])
    });
    check("norms", &graph, &source, [9, 66], 2e-6);
}

#[test]
fn rotations() {
    let mut random = Random(3);
    let mut source = Source::default();
    source.add_between(&mut random, "factors", &[8], 1.0, 4.0);
    let source = Arc::new(source);
    let graph = graph(&source, 80, |b, x| {
        let factors = Some(weight(b, "factors", &[8]));
        let plain = Rope {
            head_dim: 20,
            n_rot: 16,
            pairing: Pairing::Norm,
            base: 10_000.0,
            freq_scale: 1.0,
            yarn: None,
            magnitude: 1.0,
            factors: None,
        };
        let neox = Rope { pairing: Pairing::Neox, head_dim: 16, base: 1e6, ..plain.clone() };
        let yarn = Yarn { original_context: 64, beta_fast: 32.0, beta_slow: 1.0, truncate: true };
        let yarn = Rope { yarn: Some(yarn), freq_scale: 0.25, magnitude: 1.1, ..neox.clone() };
        let scaled = Rope { factors, ..neox.clone() };
        [plain.clone(), neox, yarn, scaled, plain].into_iter().map(|rope| b.push(rope, &[x])).collect()
    });
    check("rope", &graph, &source, [130, 5], 1e-6);
}

#[test]
fn linear_with_every_type() {
    for ty in TYPES {
        let mut random = Random(ty.id() as u64 + 4);
        let mut source = Source::default();
        let n = if ty.block_len() == 1 { 83 } else { 2 * ty.block_len() };
        for (name, outs) in [("a", 21), ("b", 1), ("c", 64)] {
            source.add(&mut random, name, ty, &[n, outs]);
        }
        source.add(&mut random, "bias", TensorType::F32, &[21]);
        let source = Arc::new(source);
        let graph = graph(&source, n, |b, x| {
            let bias = Some(weight(b, "bias", &[21]));
            let w = weight(b, "a", &[n, 21]);
            let a = b.push(Linear { weight: w, bias }, &[x])?;
            let w = weight(b, "b", &[n, 1]);
            let one = b.push(Linear { weight: w, bias: None }, &[x])?;
            let w = weight(b, "c", &[n, 64]);
            let c = b.push(Linear { weight: w, bias: None }, &[x])?;
            Ok(vec![a, one, c])
        });
        let mut inputs = [11, 70].map(|rows| random.inputs(rows, n));
        for setting in settings().into_iter().chain([Setting { exact: true, ..Setting::default() }]) {
            // With the device's own rounding only the additions differ.
            let device = setting.device();
            for input in inputs.iter_mut().flatten() {
                let Input::Row { values, .. } = input else { continue };
                let mut rounded = values.to_vec();
                device.round_input(
                    &Op::from(Linear { weight: segno_ir::WeightId(1), bias: None }),
                    &graph.weights,
                    &mut rounded,
                );
                let again = {
                    let mut again = rounded.clone();
                    let op = Op::from(Linear { weight: segno_ir::WeightId(1), bias: None });
                    device.round_input(&op, &graph.weights, &mut again);
                    again
                };
                // Rounding a rounded row changes it by no more than the scale's own rounding.
                assert!(rounded.iter().zip(&again).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()));
                *values = rounded.into();
            }
            let worst = worst(&graph, &source, [&inputs[0], &inputs[1]], &setting);
            assert!(worst < 3e-6, "{}: {worst:.2e}", ty.name());
        }
    }
}

#[test]
fn embedding_rows_are_decoded_and_scaled() {
    use segno_ir::op::{Embed, SelectRows};
    use segno_ir::{Builder, Output};
    for ty in TYPES {
        let mut random = Random(5);
        let mut source = Source::default();
        let n = if ty.block_len() == 1 { 24 } else { ty.block_len() };
        source.add(&mut random, "embedding", ty, &[n, 30]);
        let source = Arc::new(source);
        let mut b = Builder::new("test", &*source);
        let table = weight(&mut b, "embedding", &[n, 30]);
        let x = b.push(Embed { weight: Some(table), features: n, scale: 3.0 }, &[]).unwrap();
        let end = b.push(SelectRows, &[x]).unwrap();
        let graph = b.finish(&[(Output::Hidden(0), end)]).unwrap();
        let inputs = [Input::Token(7), random.input(n), Input::Token(29)];
        let mut rig = Rig::new(&graph, &source, 1, 8, &Setting::default());
        let y = rig.run(&graph, &[Piece::new(0, &inputs)]).remove(0);
        let all = decode_tensor("embedding", &source.tensor("embedding").unwrap()).unwrap();
        let row = |id: usize| all[id * n..(id + 1) * n].iter().map(|v| v * 3.0);
        let Input::Row { values, .. } = &inputs[1] else { continue };
        assert!(row(7).chain(values.iter().copied()).chain(row(29)).eq(y));
        let mut refused = rig.step(&[Piece::new(0, &[Input::Token(30)])]);
        assert!(matches!(rig.program.forward(&refused), Err(segno_ir::DeviceError::Invalid(_))));
        refused.spans[0].inputs = vec![random.input(n + 1)];
        assert!(matches!(rig.program.forward(&refused), Err(segno_ir::DeviceError::Invalid(_))));
    }
}

#[test]
fn short_convolutions() {
    for kernel in [2, 3, 4] {
        let mut random = Random(6);
        let mut source = Source::default();
        source.add(&mut random, "w", TensorType::F32, &[kernel, 37]);
        source.add(&mut random, "bias", TensorType::F32, &[37]);
        let source = Arc::new(source);
        let graph = graph(&source, 37, |b, x| {
            let w = weight(b, "w", &[kernel, 37]);
            let bias = Some(weight(b, "bias", &[37]));
            let mut ends = Vec::new();
            for (silu, bias) in [(true, bias), (false, None)] {
                let state = b.state(StateDecl::Recurrent { name: "conv".into(), shape: vec![37, kernel as u32 - 1] });
                ends.push(b.push(ShortConv { state, weight: w, bias, silu }, &[x])?);
            }
            Ok(ends)
        });
        check("short_conv", &graph, &source, [20, 71], 1e-6);
    }
}

#[test]
fn delta_rules() {
    for (n_head_k, n_head_v, d_k, d_v) in [(2, 4, 16, 24), (3, 3, 5, 9), (1, 2, 64, 32)] {
        for decay in [Decay::Head, Decay::Channel] {
            let n_decay = if decay == Decay::Head { n_head_v } else { n_head_v * d_k };
            let sizes = [n_head_k * d_k, n_head_k * d_k, n_head_v * d_v, n_decay, n_head_v];
            let source = Arc::new(Source::default());
            let graph = graph(&source, sizes.iter().sum(), |b, x| {
                let mut parts = Vec::new();
                let mut offset = 0;
                for width in sizes {
                    parts.push(b.push(Slice { offset, width, stride: width, count: 1 }, &[x])?);
                    offset += width;
                }
                for part in &mut parts[..2] {
                    *part = b.push(L2Norm { group: d_k, eps: 1e-6 }, &[*part])?;
                }
                let negative = b.push(Softplus { bias: None, factor: None }, &[parts[3]])?;
                parts[3] = b.push(Scale { factor: -1.5 }, &[negative])?;
                parts[4] = b.push(Activate { function: Activation::Sigmoid }, &[parts[4]])?;
                let shape = vec![n_head_v as u32, d_v as u32, d_k as u32];
                let mut ends = Vec::new();
                for head_map in [HeadMap::Tiled, HeadMap::Grouped] {
                    let state = b.state(StateDecl::Recurrent { name: "s".into(), shape: shape.clone() });
                    let op = DeltaRule { state, n_head_k, n_head_v, d_k, d_v, head_map, decay, scale: 0.25 };
                    ends.push(b.push(op, &parts)?);
                }
                Ok(ends)
            });
            check("delta_rule", &graph, &source, [21, 70], 5e-6);
        }
    }
}

#[test]
fn attentions() {
    for (n_head, n_head_kv, d_k, d_v) in [(4, 2, 24, 16), (6, 1, 8, 10), (3, 3, 17, 33), (40, 1, 8, 8)] {
        for window in [None, Some(1), Some(65), Some(70)] {
            let mut random = Random(8);
            let mut source = Source::default();
            source.add(&mut random, "sinks", TensorType::F32, &[n_head]);
            let source = Arc::new(source);
            let sizes = [n_head * d_k, n_head_kv * d_k, n_head_kv * d_v];
            let graph = graph(&source, sizes.iter().sum(), |b, x| {
                let sinks = weight(b, "sinks", &[n_head]);
                let mut parts = Vec::new();
                let mut offset = 0;
                for width in sizes {
                    parts.push(b.push(Slice { offset, width, stride: width, count: 1 }, &[x])?);
                    offset += width;
                }
                let mut ends = Vec::new();
                for (sinks, soft_cap) in [(None, None), (Some(sinks), Some(5.0))] {
                    let (n_head_kv, d_k, d_v) = (n_head_kv as u32, d_k as u32, d_v as u32);
                    let state =
                        b.state(StateDecl::KeyValue { name: "kv".into(), n_head_kv, d_k, d_v, v_in_k: false, window });
                    let op = Attention { state, n_head, scale: 0.9, sinks, soft_cap, temperature: None };
                    ends.push(b.push(op.clone(), &parts)?);
                    // A reader of the same keys and values.
                    ends.push(b.push(Attention { scale: 0.3, ..op }, &parts[..1])?);
                }
                Ok(ends)
            });
            check("attention", &graph, &source, [140, 67], 5e-6);
        }
    }
}

#[test]
fn attention_sees_what_half_pages_store() {
    let source = Arc::new(Source::default());
    let graph = graph(&source, 3 * 32, |b, x| {
        let part = |b: &mut segno_ir::Builder<'_>, i: usize| {
            b.push(Slice { offset: 32 * i, width: 32, stride: 32, count: 1 }, &[x])
        };
        let parts = [part(b, 0)?, part(b, 1)?, part(b, 2)?];
        let state = b.state(StateDecl::KeyValue {
            name: "kv".into(),
            n_head_kv: 2,
            d_k: 16,
            d_v: 16,
            v_in_k: false,
            window: None,
        });
        Ok(vec![b.push(
            Attention { state, n_head: 2, scale: 1.0, sinks: None, soft_cap: None, temperature: None },
            &parts,
        )?])
    });
    let mut random = Random(10);
    // Keys and values that halves hold exactly: then only the additions differ.
    let mut row = || -> Input {
        let values = (0..96).map(|_| half::f16::from_f32(random.float()).to_f32()).collect();
        Input::Row { values, content: 0 }
    };
    let inputs: Vec<Input> = (0..100).map(|_| row()).collect();
    for setting in settings() {
        let setting = Setting { kv: KvType::F16, ..setting };
        let worst = worst(&graph, &source, [&inputs, &inputs[..66]], &setting);
        assert!(worst < 5e-6, "{worst:.2e}");
    }
}
