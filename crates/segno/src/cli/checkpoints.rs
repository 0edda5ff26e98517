//! Flags about what is remembered, and what a reply's report says about it.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use segno::{CheckpointMode, CheckpointOptions, LoadOptions, Model, Place, Precision, Report, StoreOptions};

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Mode {
    Tree,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Compress {
    Off,
    Bf16,
    Int8,
}

/// What is remembered between prompts.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Checkpoints")]
pub struct CheckpointArgs {
    /// tree: any edit goes on from where it parts from what was read; off: only prompts that continue the last reply do
    #[arg(long, default_value = "tree", value_name = "MODE")]
    checkpoints: Mode,
    /// Memory for checkpoints on the device: bytes, with K, M or G, or auto: two contexts' worth
    #[arg(long, default_value = "auto", value_name = "BYTES", value_parser = bytes)]
    checkpoint_budget: Budget,
    /// The host's memory for what the device has no room for: bytes, with K, M or G, 0, or auto: a quarter of what is
    /// free, if the device is a GPU with memory of its own
    #[arg(long, default_value = "auto", value_name = "BYTES", value_parser = bytes)]
    checkpoint_ram: Budget,
    /// Keep checkpoints in this folder too: they outlive the program. As private as what is said
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Most bytes of the folder, with K, M or G
    #[arg(long, default_value = "16G", value_name = "BYTES", value_parser = bytes, requires = "checkpoint_dir")]
    checkpoint_disk: Budget,
    /// How states are stored in the folder; anything but off changes replies a little
    #[arg(long, default_value = "off", value_name = "HOW", requires = "checkpoint_dir")]
    checkpoint_compress: Compress,
    /// Restore only states whose bits are a cold run's
    #[arg(long)]
    exact: bool,
    /// Keep a checkpoint at every multiple of N tokens, at least 32; with --hybridcheckpointslots: only those
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true)]
    hybridcheckpointinterval: i64,
    /// Keep M of them and one near the prompt's end, of one conversation, as hybrid-cpp does
    #[arg(long, default_value_t = 0, value_name = "M", allow_negative_numbers = true)]
    hybridcheckpointslots: i64,
}

/// Bytes; `None`: `auto`.
#[derive(Clone, Copy, Debug)]
pub struct Budget(pub Option<u64>);

pub fn bytes(text: &str) -> Result<Budget, String> {
    if text == "auto" {
        return Ok(Budget(None));
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[split..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => Some(1u64),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        _ => None,
    };
    let number: Option<u64> = text[..split].parse().ok();
    let product = number.zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    product.map(|n| Budget(Some(n))).ok_or_else(|| format!("'{text}' is no number of bytes: 800M, 2G, auto"))
}

impl CheckpointArgs {
    /// Puts the flags into `options`.
    pub fn apply(&self, options: &mut LoadOptions) -> anyhow::Result<()> {
        let count = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        let (interval, slots) = (count(self.hybridcheckpointinterval), count(self.hybridcheckpointslots));
        anyhow::ensure!(
            interval == 0 || interval >= 32,
            "--hybridcheckpointinterval is {interval}, expected 0 (off) or at least 32"
        );
        let mode = match self.checkpoints {
            Mode::Off => CheckpointMode::Off,
            Mode::Tree if interval > 0 && slots > 0 => CheckpointMode::Hybrid { interval, slots },
            Mode::Tree => CheckpointMode::Tree,
        };
        options.checkpoints = CheckpointOptions { mode, interval, exact: self.exact, ..Default::default() };
        options.checkpoint_bytes = self.checkpoint_budget.0;
        options.checkpoint_ram = self.checkpoint_ram.0;
        anyhow::ensure!(
            mode == CheckpointMode::Tree || options.checkpoint_ram.is_none_or(|bytes| bytes == 0),
            "--checkpoint-ram is for the tree: leave --checkpoints off and --hybridcheckpointslots away"
        );
        let precision = match self.checkpoint_compress {
            Compress::Off => Precision::F32,
            Compress::Bf16 => Precision::Bf16,
            Compress::Int8 => Precision::Int8,
        };
        anyhow::ensure!(
            !self.exact || precision == Precision::F32,
            "--exact never restores rounded states; leave --checkpoint-compress off"
        );
        let Budget(Some(max_bytes)) = self.checkpoint_disk else {
            anyhow::bail!("--checkpoint-disk is auto, expected a number of bytes: 16G");
        };
        options.store = self
            .checkpoint_dir
            .clone()
            .map(|folder| {
                anyhow::ensure!(
                    mode == CheckpointMode::Tree,
                    "--checkpoint-dir is for the tree: leave --checkpoints off and --hybridcheckpointslots away"
                );
                Ok((folder, StoreOptions { max_bytes, precision, ..StoreOptions::default() }))
            })
            .transpose()?;
        Ok(())
    }
}

/// What was reused for a reply and why not more: for people. `prompt`: its tokens.
pub fn explain(model: &Model, prompt: &[u32], report: &Report) -> String {
    let (reuse, stats) = (&report.reuse, &report.checkpoints);
    let mut text = format!(
        "prompt {} tokens: {} reused, {} read",
        report.prompt_tokens,
        report.reused_tokens,
        report.prompt_tokens - report.reused_tokens
    );
    if let Some(why) = reuse.why {
        let took = reuse.restore_time.as_secs_f64() * 1e3;
        let _ = write!(text, "; restored at {} ({why}, {:?}", reuse.restored_at, reuse.made);
        if reuse.place != Place::Device {
            let _ = write!(text, ", from {}", reuse.place);
        }
        let _ = write!(text, ") in {took:.2} ms");
    }
    if reuse.common < report.prompt_tokens && reuse.common > 0 {
        let around = |range: std::ops::Range<usize>| {
            let ids = prompt.get(range).unwrap_or_default();
            model.tokenizer().decode(ids, true)
        };
        let (at, end) = (reuse.common, (reuse.common + 8).min(prompt.len()));
        let what = if reuse.diverged { "parts from what is remembered" } else { "goes on from what is remembered" };
        let _ = write!(text, "\n{what} at token {at}: {:?} | {:?}", around(at.saturating_sub(8)..at), around(at..end));
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let _ = write!(
        text,
        "\n{} checkpoints saved in {:.2} ms; {} on the device: {:.1} of {:.1} MiB, {:.1} MiB of logits on the host",
        report.saved,
        report.save_time.as_secs_f64() * 1e3,
        stats.on_device,
        mib(stats.device_bytes),
        mib(stats.budget),
        mib(stats.host_bytes)
    );
    if stats.ram_budget > 0 {
        let (bytes, budget) = (mib(stats.ram_bytes), mib(stats.ram_budget));
        let _ = write!(text, "; {} in the host's memory: {bytes:.1} of {budget:.1} MiB", stats.in_ram);
    }
    if stats.on_disk.1 > 0 {
        let _ = write!(text, "; {} in the folder of {:.1} MiB", stats.on_disk.0, mib(stats.on_disk.1));
    }
    text
}
