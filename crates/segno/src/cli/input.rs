//! The text that a command works on.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Context as _;

/// The text of `-p`, of `-f` (`-`: standard input), or of a standard input that is not a terminal.
pub fn read(text: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    match (text, file) {
        (Some(text), _) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(path)) if path.as_os_str() != "-" => {
            Ok(Some(std::fs::read(path).with_context(|| format!("cannot read the prompt in {}", path.display()))?))
        }
        (None, None) if std::io::stdin().is_terminal() => Ok(None),
        _ => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).context("cannot read the prompt from standard input")?;
            Ok(Some(text))
        }
    }
}
