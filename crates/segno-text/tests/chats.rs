//! The demo model's chats: prompt text and prompt ids equal to llama.cpp's.

mod common;

use std::path::Path;

use segno_text::{ChatTemplate, Message, RenderOptions, Tokenizer};
use serde_json::Value;

#[test]
fn prompts_of_the_demo_model() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../segno/models/segno-demo-q8_0.gguf");
    let source = common::vocab_source(Path::new(model));
    let chat_template = source.chat_template.clone().unwrap();
    let tokenizer = Tokenizer::from_source(source).unwrap();
    let special = tokenizer.special();
    let template =
        ChatTemplate::new(&chat_template, tokenizer.template_text(special.bos), tokenizer.template_text(special.eos))
            .unwrap();
    let im_end = tokenizer.find("<|im_end|>").unwrap();
    assert!(tokenizer.is_end_of_generation(im_end));

    let fixture = std::fs::read(common::fixture("greedy.json")).unwrap();
    let fixture: Value = serde_json::from_slice(&fixture).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let rendered = template.render(&messages, &options).unwrap();
        assert_eq!(rendered.text, case["prompt"].as_str().unwrap());
        assert_eq!(rendered.borders.len(), messages.len());

        let prompt = tokenizer.encode_prompt(&rendered.text, &rendered.borders);
        let want: Vec<u32> = serde_json::from_value(case["prompt_tokens"].clone()).unwrap();
        assert_eq!(prompt.ids, want);
        assert_eq!(prompt.borders.len(), messages.len());
        for (&ids, &bytes) in prompt.borders.iter().zip(&rendered.borders) {
            assert_eq!(tokenizer.decode(&prompt.ids[..ids], true), rendered.text[..bytes]);
        }

        // The reply streams to the text llama.cpp printed.
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let mut stream = tokenizer.decode_stream(false);
        let reply: String = tokens.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        assert_eq!(reply + &stream.finish(), case["text"].as_str().unwrap());
    }
}
