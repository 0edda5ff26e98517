//! The demo model on `--device dx12`: `cargo run --release --example dx12`

mod backend;

fn main() -> std::process::ExitCode {
    backend::ask("dx12", "Windows")
}
