//! A chat of ten turns with a note four messages before the end that changes every turn: what is read again, and how
//! long it takes.
//!
//! `cargo run --release --example checkpoints [MODEL.gguf]`

use std::time::Instant;

use segno::{GenerateOptions, LoadOptions, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).map_or_else(Model::demo, Model::open)?;
    let session = model.load(&LoadOptions::default())?;
    let options = GenerateOptions { max_tokens: Some(24), ..GenerateOptions::greedy() };
    let mut chat = session.chat();
    println!("turn  prompt  reused  read    ms");
    for turn in 1..=10 {
        chat.user(&format!("Tell me something about the number {turn}."));
        let mut with_note = chat.clone();
        with_note.insert(chat.messages().len().saturating_sub(4), "user", &format!("Note: it is day {turn}."));
        let begun = Instant::now();
        let mut reply = with_note.reply(&options)?;
        for piece in &mut reply {
            piece?;
        }
        let took = begun.elapsed().as_secs_f64() * 1e3;
        if let Some(report) = reply.report() {
            let (prompt, reused) = (report.prompt_tokens, report.reused_tokens);
            println!("{turn:>4}  {prompt:>6}  {reused:>6}  {:>4}  {took:>4.1}", prompt - reused);
        }
        let text = reply.text().to_string();
        drop(reply);
        chat.assistant(&text);
    }
    Ok(())
}
