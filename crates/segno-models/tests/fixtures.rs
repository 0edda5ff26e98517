//! The f64 reference of every family against logits computed by transformers and llama.cpp.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use segno_gguf::{Gguf, GgufWriter};
use segno_ir::reference::Reference;
use segno_ir::{Graph, Input, WeightSource};

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

fn numbers<T, const N: usize>(file: &[u8], name: &str, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let tensors = SafeTensors::deserialize(file).expect("a safetensors file");
    let bytes = tensors.tensor(name).expect(name).data().to_vec();
    bytes.chunks_exact(N).map(|b| read(b.try_into().expect("N bytes"))).collect()
}

fn reference_logits(graph: &Graph, source: &dyn WeightSource, tokens: &[i32]) -> Vec<f32> {
    let mut reference = Reference::new(graph, source).expect("decodes");
    let inputs: Vec<Input> = tokens.iter().map(|&t| Input::Token(t as u32)).collect();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    reference.run(&inputs, &rows).expect("runs").remove(0).1.into_iter().map(|v| v as f32).collect()
}

/// Largest absolute difference, and the smallest cosine of any position.
fn compare(found: &[f32], expected: &[f32], n_vocab: usize) -> (f32, f64) {
    assert_eq!(found.len(), expected.len());
    let max = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| *x as f64 * *y as f64).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let min = found.chunks(n_vocab).zip(expected.chunks(n_vocab)).map(cosine).fold(1.0, f64::min);
    (max, min)
}

/// `(folder, plain file, quantised files)`.
const FOLDERS: &[(&str, &str, &[&str])] = &[
    ("qwen35", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    ("qwen35moe", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    ("qwen3next", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    ("lfm2", "model-f16.gguf", &["q8_0", "q4_k_m"]),
    ("lfm2moe", "model-f32.gguf", &[]),
    ("qwen3moe", "model-f32.gguf", &[]),
    ("gemma3", "model-f16.gguf", &[]),
    ("llama", "model-f32.gguf", &[]),
    ("qwen2", "model-f32.gguf", &[]),
    ("qwen3", "model-f32.gguf", &[]),
];

#[test]
fn plain_files_give_the_logits_of_transformers() {
    for (folder, file, _) in FOLDERS {
        let gguf = Gguf::open(fixture(folder).join(file)).expect("opens");
        let model = segno_models::build(&gguf).expect("builds");
        let expected = std::fs::read(fixture(folder).join("expected.safetensors")).expect("expected logits");
        let tokens = numbers(&expected, "tokens", i32::from_le_bytes);
        let logits = numbers(&expected, "logits", f32::from_le_bytes);
        let found = reference_logits(&model.graph, &*model.source, &tokens);
        let (max, cosine) = compare(&found, &logits, model.graph.n_vocab());
        println!("{folder}: max abs {max:.2e}, min cosine {cosine:.9}");
        assert!(max <= 1e-3 && cosine >= 0.99999, "{folder}: max abs {max}, min cosine {cosine}");
    }
}

#[test]
fn quantised_files_give_the_logits_of_their_decoded_weights() {
    for (folder, _, kinds) in FOLDERS.iter().filter(|(_, _, kinds)| !kinds.is_empty()) {
        let expected = std::fs::read(fixture(folder).join("expected-quantised.safetensors")).expect("expected logits");
        let plain = std::fs::read(fixture(folder).join("expected.safetensors")).expect("expected logits");
        let tokens = numbers(&plain, "tokens", i32::from_le_bytes);
        for kind in *kinds {
            let gguf = Gguf::open(fixture(folder).join(format!("model-{kind}.gguf"))).expect("opens");
            let model = segno_models::build(&gguf).expect("builds");
            let logits = numbers(&expected, &format!("logits_{kind}_dequantised"), f32::from_le_bytes);
            let found = reference_logits(&model.graph, &*model.source, &tokens);
            let (max, _) = compare(&found, &logits, model.graph.n_vocab());
            println!("{folder} {kind}: max abs {max:.2e}");
            assert!(max <= 1e-3, "{folder} {kind}: max abs {max}");
        }
    }
}

/// The file of an older converter of Qwen3-Next: queries, keys, values and gates in one tensor, interleaved by key
/// head.
fn with_interleaved_inputs(gguf: &Gguf) -> Gguf {
    let size = |key: &str| gguf.u32(&format!("qwen3next.ssm.{key}")).expect(key) as usize;
    let (n_head_k, n_head_v, d) = (size("group_count"), size("time_step_rank"), size("state_size"));
    let per_key = n_head_v / n_head_k;
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.set(key, value.clone());
    }
    let mut contents = Vec::new();
    for info in gguf.tensors() {
        let bytes = gguf.tensor_bytes(info);
        let Some(block) = info.name.strip_suffix(".attn_qkv.weight") else {
            let gate = info.name.strip_suffix(".attn_gate.weight");
            if gate.is_none() {
                writer.tensor(&*info.name, &info.shape, info.ty).expect("a tensor");
                contents.push(bytes.to_vec());
            }
            continue;
        };
        let gate = gguf.tensor(&format!("{block}.attn_gate.weight")).expect("a gate beside it");
        assert_eq!(gate.ty, info.ty);
        let row_bytes = bytes.len() / info.shape[1] as usize;
        let rows = |bytes: &[u8], from: usize, n: usize| bytes[from * row_bytes..(from + n) * row_bytes].to_vec();
        let mut all = Vec::new();
        for head in 0..n_head_k {
            all.extend(rows(bytes, head * d, d));
            all.extend(rows(bytes, (n_head_k + head) * d, d));
            all.extend(rows(bytes, (2 * n_head_k + head * per_key) * d, per_key * d));
            all.extend(rows(gguf.tensor_bytes(gate), head * per_key * d, per_key * d));
        }
        let n_rows = info.shape[1] + gate.shape[1];
        writer.tensor(format!("{block}.ssm_in.weight"), &[info.shape[0], n_rows], info.ty).expect("a tensor");
        contents.push(all);
    }
    let mut sink = writer.begin(Vec::new()).expect("begins");
    contents.iter().for_each(|bytes| sink.write(bytes).expect("writes"));
    Gguf::from_bytes(sink.finish().expect("ends")).expect("opens")
}

#[test]
fn interleaved_inputs_of_older_files_give_the_same_logits() {
    for file in ["model-f16.gguf", "model-q8_0.gguf"] {
        let gguf = Gguf::open(fixture("qwen3next").join(file)).expect("opens");
        let older = with_interleaved_inputs(&gguf);
        assert!(older.tensor("blk.0.ssm_in.weight").is_some() && older.tensor("blk.0.attn_qkv.weight").is_none());
        let logits = [gguf, older].map(|gguf| {
            let model = segno_models::build(&gguf).expect("builds");
            let tokens: Vec<i32> = (0..20).map(|i| i * 37 % 300).collect();
            reference_logits(&model.graph, &*model.source, &tokens)
        });
        assert!(logits[0].iter().all(|l| l.is_finite()));
        assert_eq!(logits[0], logits[1], "{file}");
    }
}
