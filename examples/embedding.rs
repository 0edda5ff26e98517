//! Segno in a program of your own: open, load, chat, stream.
//!
//! `cargo run --release --example embedding [MODEL.gguf]`

use std::io::Write;

use segno::{Error, GenerateOptions, LoadOptions, Model};

fn main() -> Result<(), Error> {
    let model = std::env::args().nth(1).map_or_else(Model::demo, Model::open)?;
    let session = model.load(&LoadOptions::default())?;
    let mut chat = session.chat();
    chat.user("Tell me a story about a fox and a lantern.");
    for piece in chat.reply(&GenerateOptions::default())? {
        print!("{}", piece?);
        let _ = std::io::stdout().flush();
    }
    println!();
    Ok(())
}
