//! What storing recurrent states in fewer bits does to logits, for docs/checkpoint-format.md:
//! `cargo test -p segno-runtime --test precision -- --nocapture`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use segno_cpu::{CpuDevice, CpuOptions};
use segno_gguf::Gguf;
use segno_ir::sample::philox;
use segno_ir::{
    Cancel, Device, Input, KvType, Output, PAGE_TOKENS, PageId, PageTable, PoolPlan, ProgramLimits, SlotId, Span,
    SpanKind, StateLayout, Step,
};
use segno_runtime::image::{Bytes, Fingerprint, Image, ImageTable, Key, Made, Pages, Precision};

/// A checkpoint's file keeps the rest of the reply: with f32 to the bit, else within what is measured here.
#[test]
fn rounded_states_move_logits_a_little() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen35/model-f16.gguf"));
    let model = segno_models::build(&Gguf::open(path).expect("opens")).expect("builds");
    let device = CpuDevice::new(CpuOptions { threads: Some(1), ..CpuOptions::default() });
    let (at, end) = (150u32, 250u32);
    let layout = StateLayout::new(&model.graph, KvType::F32, KvType::F32);
    let n_pages = end.div_ceil(PAGE_TOKENS);
    let plan = PoolPlan { slots: 4, pages: vec![n_pages; layout.groups.len()], layout };
    let limits = ProgramLimits { max_rows: 256, max_spans: 1, max_outputs: 256, max_context: 256, guard: false };
    let weights = device.weights(model.source.clone(), &model.graph).expect("weights");
    let pool = device.pool(&plan).expect("a pool");
    let mut program = device.compile(&model.graph, &weights, &pool, &limits).expect("compiles");
    let n_tokens = model.graph.n_tokens() as u32;
    let ids: Vec<u32> = (0..end).map(|i| philox([i, 0, 0, 0], [7, 8])[0] % n_tokens).collect();
    let table = |n: u32| PageTable { first: 0, pages: (0..n.div_ceil(PAGE_TOKENS)).map(PageId).collect() };
    let mut run = |from: u32, to: u32, start: u32, end: u32| {
        let span = Span {
            from: SlotId(from),
            to: SlotId(to),
            tables: plan.layout.groups.iter().map(|_| table(end)).collect(),
            start,
            kind: SpanKind::Prefill,
            inputs: ids[start as usize..end as usize].iter().map(|&t| Input::Token(t)).collect(),
            outputs: (0..end - start).collect(),
            snapshots: Vec::new(),
        };
        let rows = program.forward(&Step { spans: vec![span], cancel: Cancel::new() }).expect("runs");
        program.read(&rows, Output::Logits, 0, end - start).wait(Duration::MAX).expect("logits")
    };
    run(0, 1, 0, at);
    let page =
        |group, i| Arc::<[u8]>::from(pool.read_page(group, PageId(i)).wait(Duration::MAX).expect("a page")).into();
    let pages = |group| (0..at.div_ceil(PAGE_TOKENS)).map(|i| page(group, i)).collect();
    let image = Image {
        fingerprint: Fingerprint::default(),
        keys: ids[..at as usize].iter().map(|&t| Key::from(t)).collect(),
        made: Made::Prefill,
        precision: Precision::F32,
        slot: pool.read_slot(SlotId(1)).wait(Duration::MAX).expect("a slot"),
        tables: (0..plan.layout.groups.len()).map(|g| ImageTable { first: 0, pages: pages(g) }).collect(),
        logits: None,
    };
    let cold = run(1, 2, at, end);
    let std = (cold.iter().map(|l| f64::from(*l).powi(2)).sum::<f64>() / cold.len() as f64).sqrt();
    println!("qwen35, {} values a slot, logits over {} rows: RMS {std:.4}", image.slot.len(), end - at);

    let mut rms_of = |precision| {
        let mut bytes = Vec::new();
        image.encode(&mut bytes, precision, Pages::Inside).expect("a vector takes it");
        let n_bytes = bytes.len();
        let file: Bytes = Arc::new(bytes);
        let read = Image::decode(&file, Fingerprint::default(), &mut |_, _| unreachable!("pages are inside"));
        let read = read.expect("reads");
        read.check(&plan.layout, n_tokens as usize).expect("fits the model");
        // What was there is overwritten: everything comes from the file.
        pool.write_slot(SlotId(3), &read.slot).expect("writes");
        for (group, table) in read.tables.iter().enumerate() {
            for i in 0..n_pages {
                let bytes = table.pages.get(i as usize).map_or(vec![0xff; table.pages[0].len()], |page| page.to_vec());
                pool.write_page(group, PageId(i), &bytes).expect("writes");
            }
        }
        let logits = run(3, 2, at, end);
        let errors = logits.iter().zip(&cold).map(|(a, b)| f64::from((a - b).abs()));
        let most = errors.clone().fold(0.0, f64::max);
        let rms = (errors.map(|e| e * e).sum::<f64>() / cold.len() as f64).sqrt();
        println!("{precision:?}: file {n_bytes} bytes, logits off by at most {most:.2e}, RMS {rms:.2e}");
        assert!(precision != Precision::F32 || logits.iter().zip(&cold).all(|(a, b)| a.to_bits() == b.to_bits()));
        rms
    };
    assert_eq!(rms_of(Precision::F32), 0.0);
    // Values of one rounding step: 2^-9 and 1/254 of a value of the size of its block's largest. The model may not
    // make more of them than they are.
    let (bf16, int8) = (rms_of(Precision::Bf16), rms_of(Precision::Int8));
    assert!(0.0 < bf16 && bf16 < std / 512.0, "{bf16}");
    assert!(bf16 < int8 && int8 < std / 127.0, "{int8}");
}
