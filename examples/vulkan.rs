//! The demo model on `--device vulkan`: `cargo run --release --example vulkan`

mod backend;

fn main() -> std::process::ExitCode {
    backend::ask("vulkan", "Linux and Windows machines with a Vulkan driver (lavapipe counts)")
}
