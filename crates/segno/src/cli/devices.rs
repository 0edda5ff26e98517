//! `segno devices`.

use std::io::Write;

use clap::Args;
use segno::devices;

/// List the devices that models can run on.
#[derive(Args)]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: DevicesArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let devices = devices();
    if args.json {
        let list: Vec<_> = devices
            .iter()
            .map(|d| {
                let c = &d.capabilities;
                serde_json::json!({
                    "id": d.id, "name": c.name, "backend": c.backend, "kind": format!("{:?}", c.kind),
                    "driver": c.driver, "memory_bytes": c.memory_bytes, "features": c.features,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    for device in devices {
        let c = &device.capabilities;
        writeln!(out, "{:<12} {}", device.id, c.name)?;
        writeln!(out, "{:<12} kind {:?}, driver {}", "", c.kind, c.driver)?;
        if let Some(bytes) = c.memory_bytes {
            writeln!(out, "{:<12} memory {:.1} GiB", "", bytes as f64 / (1u64 << 30) as f64)?;
        }
        if !c.features.is_empty() {
            writeln!(out, "{:<12} features {}", "", c.features.join(", "))?;
        }
    }
    Ok(())
}
