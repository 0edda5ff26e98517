//! What the backend examples share: ask one device a question, or say why it is not there.

use std::io::Write;
use std::process::ExitCode;

use segno::{Error, GenerateOptions, LoadOptions, Model, devices};

/// Talks to the demo model on `device`; `platform` says where such a device is found.
pub fn ask(device: &str, platform: &str) -> ExitCode {
    match talk(device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("no {device} here: {error}\n{device} is found on {platform}; this machine has:");
            for d in devices() {
                eprintln!("  {:<12} {}", d.id, d.capabilities.map_or_else(|error| error, |c| c.name));
            }
            ExitCode::FAILURE
        }
    }
}

fn talk(device: &str) -> Result<(), Error> {
    let session = Model::demo()?.load(&LoadOptions { device: device.into(), ..Default::default() })?;
    let capabilities = session.device();
    println!("{} ({}, {})", capabilities.name, capabilities.backend, capabilities.driver);
    let mut chat = session.chat();
    chat.user("What is a checkpoint?");
    let mut reply = chat.reply(&GenerateOptions::greedy())?;
    for piece in &mut reply {
        print!("{}", piece?);
        let _ = std::io::stdout().flush();
    }
    println!("\n{:?}", reply.report());
    Ok(())
}
