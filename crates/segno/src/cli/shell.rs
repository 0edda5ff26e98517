//! `segno completions` and `segno man`: made from the same definition as the command line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  segno completions bash > ~/.local/share/bash-completion/completions/segno
  segno completions zsh > ~/.zfunc/_segno
  segno completions fish > ~/.config/fish/completions/segno.fish";

/// Print completions for a shell.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the man page.
#[derive(Args)]
#[command(after_help = "\
Examples:
  segno man | man -l -
  segno man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write the pages of all commands into this folder instead
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub fn completions(args: CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "segno", &mut text);
    Ok(std::io::stdout().lock().write_all(&text)?)
}

pub fn man(args: ManArgs, command: Command) -> anyhow::Result<()> {
    if let Some(folder) = args.out {
        return clap_mangen::generate_to(command, &folder)
            .with_context(|| format!("cannot write to {}", folder.display()));
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render(&mut text)?;
    Ok(std::io::stdout().lock().write_all(&text)?)
}
