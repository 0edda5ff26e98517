//! `segno conformance`: is every kernel of a device right?

use std::io::Write;

use clap::{Args, ValueEnum};
use segno::open_device;
use segno_conformance::Filter;

use super::progress;

const EXAMPLES: &str = "\
Examples:
  segno conformance --device vulkan
  segno conformance --device cpu --op '^linear/' --format json";

/// Compare every kernel of a device with the f64 reference.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct ConformanceArgs {
    /// Device: auto, cpu, or an entry of `segno devices`
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
    /// Only cases whose name matches, e.g. '^linear/'
    #[arg(long, default_value = "", value_name = "REGEX")]
    op: String,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Md,
}

pub fn run(args: ConformanceArgs) -> anyhow::Result<()> {
    let filter = Filter::new(&args.op)?;
    let device = open_device(&args.device, None)?;
    let bar = progress::bar("{bar:30} {pos}/{len} {msg}");
    let report = segno_conformance::run(&*device, &filter, &mut |p| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
        bar.set_message(p.case.to_string());
    });
    bar.finish_and_clear();
    let text = match args.format {
        Format::Text => report.text(),
        Format::Json => report.json(),
        Format::Md => report.markdown(),
    };
    writeln!(std::io::stdout(), "{text}")?;
    anyhow::ensure!(!report.failed(), "{} has failing cases", device.describe().name);
    Ok(())
}
