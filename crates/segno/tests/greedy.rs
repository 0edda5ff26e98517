//! The demo model's twelve chats as llama.cpp continued them: prompt text, prompt tokens, greedy tokens.

use std::time::Duration;

use segno::{LoadOptions, Model, open_device};
use segno_ir::{Cancel, Input, Output, SpanKind};
use segno_runtime::{ExecutorOptions, Work};
use segno_text::{Message, RenderOptions};
use serde_json::Value;

fn chats() -> Vec<Value> {
    let text = include_str!("../../../tests/fixtures/greedy.json");
    let all: Value = serde_json::from_str(text).expect("JSON");
    all["cases"].as_array().expect("cases").clone()
}

fn numbers<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().expect("an array").iter().map(|v| read(v).expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value, |v| v.as_u64().map(|n| n as u32))
}

#[test]
fn prompts_are_llama_cpps() {
    let model = Model::demo().expect("opens");
    for chat in chats() {
        let text = |v: &Value| v.as_str().expect("text").to_string();
        let messages: Vec<Message> = chat["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|m| Message::new(text(&m["role"]), text(&m["content"])))
            .collect();
        let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
        let rendered = model.template().render(&messages, &options).expect("renders");
        assert_eq!(rendered.text, text(&chat["prompt"]));
        assert_eq!(rendered.borders.len(), messages.len(), "a border after each message");
        let encoded = model.tokenizer().encode_prompt(&rendered.text, &rendered.borders);
        assert_eq!(encoded.ids, ids(&chat["prompt_tokens"]));
        assert_eq!(encoded.borders.len(), messages.len());
    }
}

#[test]
fn the_top_choice_is_llama_cpps_wherever_its_gap_is_clear() {
    let model = Model::demo().expect("opens");
    let device = open_device("cpu", Some(2)).expect("the CPU");
    let n_vocab = model.graph().graph.n_vocab();
    let (mut steps, mut clear, mut equal) = (0, 0, 0);
    for chat in chats() {
        let (prompt, reply) = (ids(&chat["prompt_tokens"]), ids(&chat["tokens"]));
        let gaps = numbers(&chat["top2_gap"], Value::as_f64);
        let tokens = [&prompt[..], &reply].concat();
        let rows = tokens.len() as u32;
        let options = ExecutorOptions { n_ctx: rows, max_rows: rows.max(64), max_outputs: rows, ..Default::default() };
        let mut executor = model.executor(device.clone(), options).expect("loads");
        let sequence = executor.create().expect("a sequence");
        let inputs = tokens.iter().map(|&t| Input::Token(t)).collect();
        let outputs = (prompt.len() as u32 - 1..rows - 1).collect();
        let work = Work { sequence, kind: SpanKind::Prefill, inputs, outputs, snapshots: Vec::new() };
        let issued = executor.issue(vec![work], &Cancel::new()).expect("issues");
        let logits = executor.read(&issued.rows, Output::Logits, 0, issued.rows.n).wait(Duration::MAX).expect("logits");
        executor.confirm(issued);
        for ((row, &expected), gap) in logits.chunks(n_vocab).zip(&reply).zip(gaps) {
            let top = (0..n_vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a vocabulary") as u32;
            steps += 1;
            equal += u32::from(top == expected);
            if gap >= 0.05 {
                clear += 1;
                assert_eq!(top, expected, "where llama.cpp's gap is {gap}");
            }
        }
    }
    println!("{steps} steps, {clear} with a gap of at least 0.05 and all of those equal; {equal} equal in all");
    assert!(clear * 10 > steps * 9, "the test looks at too few of {steps} steps: {clear}");
}

#[test]
fn the_demo_model_replies_and_remembers() {
    let session = Model::demo().expect("opens").load(&LoadOptions { device: "cpu".into(), ..Default::default() });
    let session = session.expect("loads");
    let options = segno::GenerateOptions::greedy();
    let mut chat = session.chat();
    for (question, word) in
        [("Hello! My name is Ruth.", "Ruth"), ("What is 7 + 8?", "15"), ("What is my name?", "Ruth")]
    {
        chat.user(question);
        let mut reply = chat.reply(&options).expect("a reply");
        for piece in &mut reply {
            piece.expect("text");
        }
        let text = reply.text().to_string();
        assert!(text.contains(word), "{question}: {text}");
        let report = reply.report().expect("a report");
        assert_eq!(report.reused_tokens > 0, chat.messages().len() > 1, "{report:?}");
        chat.assistant(&text);
    }
}

/// The fixture's first 16 tokens, continued by the reference that was made with transformers.
#[test]
fn the_fixture_continues_as_transformers_does() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen35"));
    let bytes = std::fs::read(folder.join("expected.safetensors")).expect("a fixture");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let ids = |name: &str| -> Vec<u32> {
        let data = tensors.tensor(name).expect("a tensor").data().chunks_exact(4);
        data.map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()
    };
    let model = Model::open(folder.join("model-f16.gguf")).expect("opens");
    for device in ["cpu", "vulkan"] {
        let options = LoadOptions { device: device.into(), context: Some(64), batch: 64, ..Default::default() };
        let session = model.load(&options).expect("loads");
        let greedy = segno_runtime::Request {
            prompt: ids("tokens")[..16].to_vec(),
            max_tokens: 32,
            params: segno_ir::SampleParams::greedy(),
            ..Default::default()
        };
        let (reply, _) = session.engine().generate(greedy).collect_blocking().expect("a reply");
        assert_eq!(reply, ids("greedy"), "on {device}");
    }
}
