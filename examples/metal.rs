//! The demo model on `--device metal`: `cargo run --release --example metal`

mod backend;

fn main() -> std::process::ExitCode {
    backend::ask("metal", "macOS")
}
