//! Which model a command works on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use segno::{Hub, HubName, Model};

use super::progress;

/// A file, or a name of the hub.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelArgs {
    /// A GGUF file [default: the built-in demo model]
    #[arg(conflicts_with = "hf_repo")]
    model: Option<PathBuf>,
    /// The same as MODEL
    #[arg(short, long = "model", value_name = "FILE", conflicts_with_all = ["model", "hf_repo"])]
    model_file: Option<PathBuf>,
    /// Instead: a model of the Hugging Face hub, downloaded if its local cache lacks it (also -hf). Without QUANT:
    /// Q4_K_M, else Q8_0, else the first
    #[arg(long, value_name = "USER/REPO[:QUANT]")]
    hf_repo: Option<HubName>,
}

/// The file of a path that a user gave.
pub fn of_file(path: &Path) -> anyhow::Result<PathBuf> {
    let text = path.display();
    if path.is_dir() {
        let names = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        let mut models: Vec<String> = names.filter(|name| name.ends_with(".gguf")).take(20).collect();
        models.sort();
        anyhow::ensure!(!models.is_empty(), "{text} is a folder without GGUF files, expected a GGUF file");
        anyhow::bail!("{text} is a folder, expected a GGUF file; there are: {}", models.join(", "));
    }
    if std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let name = path.to_str().filter(|name| !name.ends_with(".gguf")).and_then(|name| name.parse::<HubName>().ok());
        match name {
            Some(name) => anyhow::bail!("there is no file {text}; for a model of the Hugging Face hub: -hf {name}"),
            None => anyhow::bail!("there is no file {text}; expected the path of a GGUF file"),
        }
    }
    Ok(path.into())
}

/// The file of a model of the hub, which is downloaded if it isn't here.
pub fn of_hub(name: &HubName) -> anyhow::Result<PathBuf> {
    let bar = progress::bar("{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
    let mut checking = false;
    let path = Hub::from_env()?.get(name, |now| {
        if bar.length() != Some(now.total) {
            bar.set_length(now.total);
            if bar.is_hidden() {
                eprintln!("downloading {name}: {}", indicatif::HumanBytes(now.total));
            }
        }
        // What was there already says nothing of the rate.
        if std::mem::replace(&mut checking, now.checking) {
            bar.set_position(now.done);
            bar.reset_eta();
        }
        bar.set_message(format!("{} {}", if now.checking { "checking" } else { "downloading" }, now.file));
        bar.set_position(now.done);
    })?;
    bar.finish_and_clear();
    log::info!("{name} is {}", path.display());
    Ok(path)
}

impl ModelArgs {
    /// The model's file; `None`: the demo.
    pub fn path(&self) -> anyhow::Result<Option<PathBuf>> {
        match &self.hf_repo {
            Some(name) => of_hub(name).map(Some),
            None => self.model.as_deref().or(self.model_file.as_deref()).map(of_file).transpose(),
        }
    }

    /// The model.
    pub fn open(&self) -> anyhow::Result<Model> {
        Ok(match self.path()? {
            Some(path) => Model::open(path)?,
            None => Model::demo()?,
        })
    }
}
