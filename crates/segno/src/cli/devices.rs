//! `segno devices`.

use std::io::Write;

use clap::Args;
use segno::devices;

const EXAMPLES: &str = "\
Examples:
  segno devices                           what --device takes: cpu, vulkan:0, ...
  segno devices --json | jq '.[].name'";

/// List the devices that models can run on.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
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
            .map(|d| match &d.capabilities {
                Ok(c) => serde_json::json!({
                    "id": d.id, "name": c.name, "backend": c.backend, "kind": format!("{:?}", c.kind),
                    "driver": c.driver, "memory_bytes": c.memory_bytes, "features": c.features,
                }),
                Err(error) => serde_json::json!({ "id": d.id, "error": error }),
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    for device in devices {
        let c = match &device.capabilities {
            Ok(c) => c,
            Err(error) => {
                writeln!(out, "{:<12} cannot be used: {error}", device.id)?;
                continue;
            }
        };
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
