//! Every form of a kernel against the portable one, and against f64.

use segno_quant::{TensorType, decode_row, store_row};

use super::block::{BlockKernels, WIDE, WeightRows};
use super::float::{DeltaToken, FloatRows, FloatType, Inputs, Outputs, Weighted};
use super::quant::{QuantMemory, QuantRow, Rounding};
use super::{Kernels, PAGE, PORTABLE, Softmax, best};
use crate::memory::Shared;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Between -1 and 1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Rows of blocks of any bits, their scales between -1 and 1.
    fn blocks(&mut self, ty: TensorType, rows: usize, n: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..rows * ty.row_bytes(n).unwrap()).map(|_| self.next() as u8).collect();
        let scales: &[usize] = match ty {
            TensorType::Q6_K => &[208],
            TensorType::Q2_K => &[80, 82],
            TensorType::Q3_K => &[108],
            TensorType::MXFP4 => &[],
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            _ => &[0],
        };
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            if ty == TensorType::MXFP4 {
                block[0] = 120 + block[0] % 16;
            }
            for &at in scales {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(self.float()).to_le_bytes());
            }
        }
        bytes
    }
}

const BLOCKS: [TensorType; 13] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::IQ4_NL,
    TensorType::MXFP4,
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::IQ4_XS,
];

fn levels() -> [&'static Kernels; 2] {
    [&PORTABLE, best()]
}

fn rounded(kernels: &Kernels, rounding: Rounding, x: &[f32], n: usize) -> QuantMemory {
    let mut memory = QuantMemory::new(rounding, x.len() / n, n).unwrap();
    let rows = memory.rows(rounding);
    for (r, x) in x.chunks_exact(n).enumerate() {
        // SAFETY: one thread.
        let row = unsafe { rows.get_mut(r, n) };
        match rounding {
            Rounding::Groups32 => (kernels.quantize_32)(x, row),
            Rounding::Groups256 => (kernels.quantize_256)(x, row),
        }
    }
    memory
}

/// Products of each row with each output, one by one.
fn dots(block: &BlockKernels, w: &[u8], stride: usize, x: &[QuantRow<'_>]) -> Vec<f32> {
    let mut all = Vec::new();
    for x in x {
        for bytes in w.chunks(WIDE * stride) {
            let mut y = [f32::NAN; WIDE];
            let n = bytes.len() / stride;
            (block.dot)(&WeightRows { bytes, stride, n }, *x, &mut y);
            all.extend(&y[..n]);
        }
    }
    all
}

#[test]
fn block_products_agree_with_f64_and_each_other() {
    let mut random = Random(7);
    for ty in BLOCKS {
        let (n, outs, rows) = (768, 11, 7);
        let stride = ty.row_bytes(n).unwrap();
        let w = random.blocks(ty, outs, n);
        let x = random.floats(rows * n);
        let mut decoded = vec![0.0; outs * n];
        decode_row(ty, &w, &mut decoded).unwrap();
        for kernels in levels() {
            let block = (kernels.block)(ty).unwrap();
            let mut memory = rounded(kernels, block.rounding, &x, n);
            let quantized = memory.rows(block.rounding);
            // SAFETY: nobody writes.
            let q: Vec<QuantRow<'_>> = (0..rows).map(|r| unsafe { quantized.get(r, n) }).collect();
            let y = dots(&block, &w, stride, &q);
            for (r, q) in q.iter().enumerate() {
                let group = n / q.d.len();
                for o in 0..outs {
                    let term = |i: usize| decoded[o * n + i] as f64 * q.d[i / group] as f64 * q.q[i] as f64;
                    let exact: f64 = (0..n).map(term).sum();
                    let size: f64 = (0..n).map(|i| term(i).abs()).sum();
                    let (got, bound) = (y[r * outs + o] as f64, size * 40.0 * f32::EPSILON as f64);
                    assert!((got - exact).abs() <= bound, "{} {}: {got} is not {exact}", kernels.level, ty.name());
                }
            }
            let Some(panel) = block.panel else { continue };
            let mut packed = vec![0; (panel.bytes)(n)];
            for (group, bytes) in w.chunks(WIDE * stride).enumerate() {
                let width = bytes.len() / stride;
                (panel.pack)(&WeightRows { bytes, stride, n: width }, &mut packed);
                for r in (0..rows).step_by(4) {
                    let mut tile = [[f32::NAN; WIDE]; 4];
                    let some = &q[r..(r + 4).min(rows)];
                    (panel.product)(&packed, some, &mut tile);
                    for (i, tile) in tile[..some.len()].iter().enumerate() {
                        for (o, y_panel) in tile[..width].iter().enumerate() {
                            let y_dot = y[(r + i) * outs + group * WIDE + o];
                            assert_eq!(y_panel.to_bits(), y_dot.to_bits(), "{}: panel and dot", ty.name());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_integers_do_not_overflow() {
    let n = 256;
    for ty in BLOCKS {
        for fill in [0x00u8, 0x7f, 0x80, 0xff] {
            let stride = ty.row_bytes(n).unwrap();
            let mut w = vec![fill; stride];
            for block in w.chunks_exact_mut(ty.block_bytes()) {
                let one = half::f16::ONE.to_le_bytes();
                match ty {
                    TensorType::Q6_K => block[208..].copy_from_slice(&one),
                    TensorType::Q3_K => block[108..].copy_from_slice(&one),
                    TensorType::Q2_K => [80, 82].into_iter().for_each(|at| block[at..at + 2].copy_from_slice(&one)),
                    TensorType::MXFP4 => block[0] = 128,
                    TensorType::Q8_0
                    | TensorType::Q4_0
                    | TensorType::Q5_0
                    | TensorType::IQ4_NL
                    | TensorType::IQ4_XS => block[..2].copy_from_slice(&one),
                    _ => [0, 2].into_iter().for_each(|at| block[at..at + 2].copy_from_slice(&one)),
                }
            }
            for sign in [1.0, -1.0] {
                let x = vec![sign; n];
                let ys = levels().map(|kernels| {
                    let block = (kernels.block)(ty).unwrap();
                    let mut memory = rounded(kernels, block.rounding, &x, n);
                    // SAFETY: nobody writes.
                    let row = unsafe { memory.rows(block.rounding).get(0, n) };
                    dots(&block, &w, stride, &[row])[0]
                });
                assert!((ys[0] - ys[1]).abs() <= ys[0].abs() * 1e-5, "{} {fill:#x}: {ys:?}", ty.name());
            }
        }
    }
}

#[test]
fn rounding_keeps_nan_and_zero() {
    for kernels in levels() {
        for (rounding, n) in [(Rounding::Groups32, 32), (Rounding::Groups256, 256)] {
            for (value, expected_nan) in [(f32::NAN, true), (0.0, false), (1e-38, false)] {
                let mut x = vec![0.0; n];
                x[n / 2] = value;
                let mut memory = rounded(kernels, rounding, &x, n);
                // SAFETY: nobody writes.
                let row = unsafe { memory.rows(rounding).get(0, n) };
                assert_eq!(row.d[0].is_nan(), expected_nan);
                assert!(expected_nan || (row.d[0] == 0.0 && row.q.iter().all(|&q| q == 0)));
            }
        }
    }
}

#[test]
fn stored_blocks_have_the_bits_of_their_definition() {
    let mut random = Random(19);
    let mut rows: Vec<Vec<f32>> = (0..200).map(|_| random.floats(64)).collect();
    for (row, size) in rows.iter_mut().zip([1e-9, 1e-7, 1e-5, 1e-3, 10.0, 1e5, 1e8].into_iter().cycle()) {
        row.iter_mut().for_each(|x| *x *= size);
    }
    for (i, special) in [0.0, -0.0, f32::MAX, f32::INFINITY, -1.0].into_iter().enumerate() {
        rows[i][7..20].fill(special);
        rows[10 + i].fill(special);
    }
    rows.push((0..64).map(|i| (i as f32 - 32.0) / 4.0).collect());
    for kernels in levels() {
        let forms = [
            (TensorType::Q8_0, kernels.store_q8_0 as fn(&[f32], &mut [u8]), kernels.load_q8_0 as fn(&[u8], &mut [f32])),
            (TensorType::Q4_0, kernels.store_q4_0, kernels.load_q4_0),
        ];
        for (ty, store, load) in forms {
            let mut bytes = vec![0xaa; ty.row_bytes(64).unwrap()];
            for row in &rows {
                let mut want = bytes.clone();
                store_row(ty, row, &mut want).unwrap();
                store(row, &mut bytes);
                assert_eq!(bytes, want, "{} {}: {row:?}", kernels.level, ty.name());
                let (mut want, mut got) = ([0.0; 64], [f32::NAN; 64]);
                decode_row(ty, &bytes, &mut want).unwrap();
                load(&bytes, &mut got);
                assert_eq!(got, want, "{} {}", kernels.level, ty.name());
            }
            let mut back = [0.0; 64];
            store(&[f32::NAN; 64], &mut bytes);
            load(&bytes, &mut back);
            assert!(back.iter().all(|x| x.is_nan()));
        }
    }
}

fn stored(ty: FloatType, values: &[f32]) -> Vec<u8> {
    match ty {
        FloatType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        FloatType::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        FloatType::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
    }
}

fn products(kernels: &Kernels, w: &FloatRows<'_>, x: &[f32], rows: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * w.rows];
    let outputs = Outputs { y: Shared::new(&mut y), offset: 0, stride: w.rows };
    (kernels.products)(w, &Inputs { x, stride: w.n, rows }, &outputs);
    y
}

#[test]
fn float_products_have_one_order_in_every_tile() {
    let mut random = Random(9);
    for ty in [FloatType::F32, FloatType::F16, FloatType::BF16] {
        for n in [1, 7, 8, 65, 130] {
            let (outs, rows) = (10, 9);
            let (w, x) = (stored(ty, &random.floats(outs * n)), random.floats(rows * n));
            let stride = n * ty.bytes();
            let all = FloatRows { ty, bytes: &w, stride, rows: outs, n };
            let portable = products(&PORTABLE, &all, &x, rows);
            for kernels in levels() {
                let together = products(kernels, &all, &x, rows);
                for r in 0..rows {
                    for o in 0..outs {
                        let alone = products(kernels, &all.part(o, o + 1), &x[r * n..(r + 1) * n], 1)[0];
                        assert_eq!(alone.to_bits(), together[r * outs + o].to_bits());
                        let bound = 1e-6 * n as f32;
                        assert!((alone - portable[r * outs + o]).abs() <= bound, "{n}: {alone}");
                    }
                }
            }
        }
    }
}

#[test]
fn weighted_sums_have_one_order_in_every_tile() {
    let mut random = Random(11);
    for (ty, n) in [(FloatType::F32, 29), (FloatType::F16, 64), (FloatType::F32, 8), (FloatType::F16, 18)] {
        let queries = 7;
        let v = stored(ty, &random.floats(PAGE * n));
        let v = FloatRows { ty, bytes: &v, stride: n * ty.bytes(), rows: PAGE, n };
        let weights: Vec<[f32; PAGE]> = (0..queries).map(|_| std::array::from_fn(|_| random.float().abs())).collect();
        let (shrink, before) = (random.floats(queries), random.floats(queries * n));
        let run = |kernels: &Kernels, q: std::ops::Range<usize>| {
            let mut y = before[q.start * n..q.end * n].to_vec();
            let sums = Weighted { v, seen: (3, 61), weights: &weights[q.clone()], shrink: &shrink[q] };
            (kernels.weighted_sums)(&sums, &mut y);
            y
        };
        let portable = run(&PORTABLE, 0..queries);
        for kernels in levels() {
            let together = run(kernels, 0..queries);
            let alone: Vec<f32> = (0..queries).flat_map(|q| run(kernels, q..q + 1)).collect();
            assert_eq!(together, alone);
            assert!(together.iter().zip(&portable).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }
}

#[test]
fn delta_rows_agree_for_any_number_of_rows() {
    let mut random = Random(13);
    for d_k in [1, 5, 16, 64] {
        for channel in [false, true] {
            let rows = 7;
            let (k, q, v) = (random.floats(d_k), random.floats(d_k), random.floats(rows));
            let decay: Vec<f32> = random.floats(if channel { d_k } else { 1 }).iter().map(|d| d.abs()).collect();
            let before = random.floats(rows * d_k);
            let run = |kernels: &Kernels, part: std::ops::Range<usize>| {
                let token = DeltaToken { decay: &decay, k: &k, q: &q, v: &v[part.clone()], beta: 0.7, scale: 0.5 };
                let (mut s, mut y) = (before[part.start * d_k..part.end * d_k].to_vec(), vec![f32::NAN; part.len()]);
                (kernels.delta_rows)(&token, &mut s, &mut y);
                s.extend(y);
                s
            };
            let portable = run(&PORTABLE, 0..rows);
            for kernels in levels() {
                let together = run(kernels, 0..rows);
                let alone: Vec<Vec<f32>> = (0..rows).map(|i| run(kernels, i..i + 1)).collect();
                let states = alone.iter().flat_map(|a| &a[..d_k]);
                let results = alone.iter().map(|a| &a[d_k]);
                assert!(states.chain(results).eq(&together));
                assert!(together.iter().zip(&portable).all(|(a, b)| (a - b).abs() < 1e-5 * d_k as f32));
            }
        }
    }
}

#[test]
fn softmax_blocks_join_to_a_softmax() {
    let mut random = Random(17);
    for kernels in levels() {
        let scores: Vec<f32> = random.floats(2 * PAGE).iter().map(|s| s * 30.0).collect();
        let mut sum = Softmax { max: f32::NEG_INFINITY, total: 0.0 };
        let mut blocks: Vec<[f32; PAGE]> = scores.as_chunks().0.to_vec();
        let first = (kernels.softmax_block)(&mut blocks[0], (5, PAGE), 0.5, Some(20.0), &mut sum);
        let second = (kernels.softmax_block)(&mut blocks[1], (0, 40), 0.5, Some(20.0), &mut sum);
        assert_eq!(first, 0.0);
        let exact = |i: usize| (20.0 * (scores[i] as f64 * 0.5 / 20.0).tanh()).exp();
        let total: f64 = (5..PAGE + 40).map(exact).sum();
        for i in 0..2 * PAGE {
            let weight = blocks[i / PAGE][i % PAGE] * if i < PAGE { second } else { 1.0 } / sum.total;
            let expected = if (5..PAGE + 40).contains(&i) { exact(i) / total } else { 0.0 };
            assert!((weight as f64 - expected).abs() <= 1e-5 * expected, "{i}: {weight} {expected}");
        }
    }
}
