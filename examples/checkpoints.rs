//! A chat of ten turns with a note four messages before the end that changes every turn: what is read again, from which
//! checkpoint on, and how long a turn takes with checkpoints and without.
//!
//! `cargo run --release --example checkpoints [MODEL.gguf [DEVICE]]`

use std::time::Instant;

use segno::{Chat, CheckpointMode, CheckpointOptions, Error, GenerateOptions, LoadOptions, Model, Reply};

/// The reply, and how long it took in milliseconds.
fn ask<'s>(chat: &Chat<'s>, options: &GenerateOptions) -> Result<(Reply<'s>, f64), Error> {
    let begun = Instant::now();
    let mut reply = chat.reply(options)?;
    reply.try_for_each(|piece| piece.map(drop))?;
    Ok((reply, begun.elapsed().as_secs_f64() * 1e3))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().map_or_else(Model::demo, Model::open)?;
    let load = LoadOptions { device: arguments.next().unwrap_or_else(|| "auto".into()), ..LoadOptions::default() };
    let off = CheckpointOptions { mode: CheckpointMode::Off, ..CheckpointOptions::default() };
    let with = model.load(&load)?;
    let without = model.load(&LoadOptions { checkpoints: off, ..load })?;
    println!("{} on {}", model.name(), with.device().name);
    println!("turn  prompt  changed from  reused  read  restored at               turn, ms  without, ms");

    let options = GenerateOptions { max_tokens: Some(24), ..GenerateOptions::greedy() };
    let mut chats = [with.chat(), without.chat()];
    let story = "The fox has a red lantern. It walks to the old bridge and meets a small owl. ".repeat(40);
    chats.iter_mut().for_each(|chat| chat.push("system", &story));
    for turn in 1..=10 {
        let noted = chats.each_mut().map(|chat| {
            chat.user(&format!("What is {turn} + {turn}?"));
            let mut noted = chat.clone();
            noted.insert(chat.messages().len().saturating_sub(4).max(1), "user", &format!("It is day {turn}."));
            noted
        });
        let (reply, ms) = ask(&noted[0], &options)?;
        let (same, cold_ms) = ask(&noted[1], &options)?;
        if same.tokens() != reply.tokens() {
            return Err("a restored state gave another reply".into());
        }
        let report = reply.report().ok_or("the reply did not end")?;
        let (prompt, reuse) = (report.prompt_tokens, &report.reuse);
        println!(
            "{turn:>4}  {prompt:>6}  {:>12}  {:>6}  {:>4}  {:<24}  {ms:>8.1}  {cold_ms:>11.1}",
            reuse.common,
            report.reused_tokens,
            prompt - report.reused_tokens,
            reuse.why.map_or("the beginning".into(), |why| format!("the {why}")),
        );
        chats.iter_mut().for_each(|chat| chat.assistant(reply.text()));
    }
    Ok(())
}
