//! Keys and values stored in fewer bits: what the logits lose, and that the devices and the reference lose the same.

mod common;

use common::{FIXTURES, rms, run, with_pages};
use segno::{Model, open_device};
use segno_ir::reference::Reference;
use segno_ir::{Input, KvType, Output, SpanKind};

/// Largest root mean square difference of logits to those with f32 pages, in parts of the logits' own. About three
/// times what was measured on the fixtures, whose weights are random and whose heads are of 32 numbers.
const BOUNDS: [(KvType, f64); 3] = [(KvType::F16, 5e-4), (KvType::Q8_0, 2e-2), (KvType::Q4_0, 2e-1)];

#[test]
fn logits_are_close_to_those_with_f32() {
    for fixture in FIXTURES.iter().filter(|f| ["qwen35", "qwen3next", "lfm2"].contains(&f.name)) {
        let model = Model::open(fixture.path(fixture.plain)).expect("opens");
        let ids = fixture.tokens();
        let logits = |k, v| {
            let device = open_device("cpu", None).expect("the CPU");
            run(&mut with_pages(&model, device, k, v), &ids, 96, SpanKind::Prefill)
        };
        let plain = logits(KvType::F32, KvType::F32);
        let size = rms(&plain, &vec![0.0; plain.len()]);
        for (ty, bound) in BOUNDS {
            for (k, v) in [(ty, ty), (ty, KvType::F32), (KvType::F32, ty)] {
                let error = rms(&logits(k, v), &plain) / size;
                println!("{} {}/{}: {error:.2e}", fixture.name, k.name(), v.name());
                assert!(error > 0.0 && error < bound, "{} {}/{}: {error}", fixture.name, k.name(), v.name());
            }
        }
    }
}

#[test]
fn the_cpu_stores_what_the_reference_stores() {
    let fixture = &FIXTURES[0];
    let model = Model::open(fixture.path(fixture.plain)).expect("opens");
    let (graph, ids) = (&model.graph().graph, fixture.tokens());
    let inputs: Vec<Input> = ids.iter().map(|&id| Input::Token(id)).collect();
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    for (k, v) in [(KvType::Q8_0, KvType::Q8_0), (KvType::Q4_0, KvType::Q4_0)] {
        let mut reference = Reference::new(graph, &*model.graph().source).expect("decodes");
        reference.set_kv_types(k, v);
        let outputs = reference.run(&inputs, &rows).expect("runs");
        let expected = outputs.into_iter().find(|(output, _)| *output == Output::Logits).expect("logits").1;
        let expected: Vec<f32> = expected.into_iter().map(|x| x as f32).collect();
        let device = open_device("cpu", None).expect("the CPU");
        let found = run(&mut with_pages(&model, device, k, v), &ids, 96, SpanKind::Prefill);
        let error = rms(&found, &expected) / rms(&expected, &vec![0.0; expected.len()]);
        println!("{}: {error:.2e}", k.name());
        // Far below what the type itself loses: only numbers next to a half step fall on another one.
        assert!(error < 1e-3, "{}: {error}", k.name());
    }
}
