//! The demo model on `--device cpu`: `cargo run --release --example cpu`

mod backend;

fn main() -> std::process::ExitCode {
    backend::ask("cpu", "every machine")
}
