//! `segno tokenize`: the tokens of a text.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use segno::{EncodeOptions, Model, open_tokenizer};

use super::input;
use super::model::ModelArgs;

const EXAMPLES: &str = "\
Examples:
  segno tokenize MODEL.gguf -p 'Hi, fox'
  segno tokenize MODEL.gguf -f TEXT.txt --ids";

/// Show the tokens of a text.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct TokenizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// A file with the text (- is standard input, which is also read without -p and -f)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print ids only, as a list: [1, 2, 3]
    #[arg(long)]
    ids: bool,
    /// Add no token at the beginning or the end, whatever the vocabulary asks for
    #[arg(long)]
    no_bos: bool,
    /// Take special tokens such as <|im_end|> as plain text
    #[arg(long)]
    no_parse_special: bool,
}

pub fn run(args: TokenizeArgs) -> anyhow::Result<()> {
    let text = input::read(args.prompt.as_deref(), args.file.as_deref())?;
    let text = text.context("there is no text; give some with -p, -f or standard input")?;
    let demo;
    let opened;
    let tokenizer = match args.model.path()? {
        Some(path) => {
            opened = open_tokenizer(path)?;
            &opened
        }
        None => {
            demo = Model::demo()?;
            demo.tokenizer()
        }
    };
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: !args.no_parse_special };
    let ids = tokenizer.encode(text, options);
    let mut out = std::io::stdout().lock();
    if args.ids {
        writeln!(out, "{ids:?}")?;
        return Ok(());
    }
    for id in ids {
        write!(out, "{id:>6} -> '")?;
        // A piece may be part of a character.
        out.write_all(tokenizer.token_bytes(id))?;
        writeln!(out, "'")?;
    }
    Ok(())
}
