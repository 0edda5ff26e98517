//! Which model a command works on.

use std::path::PathBuf;

use clap::Args;
use segno::{HubName, Model, hub_cache};

/// A file, or a name of the hub.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelArgs {
    /// A GGUF file [default: the built-in demo model]
    #[arg(conflicts_with = "hf_repo")]
    model: Option<PathBuf>,
    /// Instead: a model in the Hugging Face hub's local cache (also -hf). Without QUANT: Q4_K_M, else Q8_0, else the first
    #[arg(long, value_name = "USER/REPO[:QUANT]")]
    hf_repo: Option<HubName>,
}

/// The file of a model of the hub.
pub fn cached(name: &HubName) -> anyhow::Result<PathBuf> {
    let path = name.find(&hub_cache()?)?;
    log::info!("{name} is {}", path.display());
    Ok(path)
}

impl ModelArgs {
    /// The model's file; `None`: the demo.
    pub fn path(&self) -> anyhow::Result<Option<PathBuf>> {
        match &self.hf_repo {
            Some(name) => cached(name).map(Some),
            None => Ok(self.model.clone()),
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
