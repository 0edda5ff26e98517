//! Models of the Hugging Face hub in its local cache, where its own tools and llama.cpp put them:
//! `models--USER--REPO/refs/main` names a commit, `snapshots/COMMIT` has its files.

mod download;

pub use download::{Hub, Transfer};

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What `-hf` takes: `user/repo`, or `user/repo:quant`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    user: String,
    repo: String,
    quant: Option<String>,
}

/// Why a model of the hub was not found, or not downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a name.
    #[error("'{0}' is not a model of the hub; expected user/repo or user/repo:quant, as in user/repo:Q4_K_M")]
    Name(String),
    /// No variable says where the cache is.
    #[error("the hub's local cache is nowhere: set HF_HUB_CACHE, HF_HOME or HOME to a folder")]
    NoCache,
    /// The cache has nothing of the model.
    #[error("{name} is not in the hub's local cache, {}", cache.display())]
    NotCached {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The cache has other files of the model.
    #[error("{name} is not in the hub's local cache; of that repository {}", offered(found))]
    NoQuant {
        /// What was asked for.
        name: String,
        /// What there is, without files of which a part is missing.
        found: Vec<String>,
    },
    /// The cache lacks it, and the hub must not be asked.
    #[error("{0}; HF_HUB_OFFLINE is set, so nothing is downloaded")]
    Offline(Box<HubError>),
    /// The variable says something else.
    #[error("HF_ENDPOINT leads to '{0}', expected a URL such as https://huggingface.co")]
    Endpoint(String),
    /// No connection.
    #[error(
        "cannot reach {host}: {cause}; check the network and HTTPS_PROXY, or set HF_ENDPOINT to a mirror. \
         A model file that is on this machine needs no network: give its path instead of -hf"
    )]
    Unreachable {
        /// Who was called.
        host: String,
        /// What went wrong.
        cause: String,
    },
    /// The hub does not hand the model out.
    #[error("{host} answers {status} for {name}: {why}")]
    Refused {
        /// Who.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What was asked for.
        name: String,
        /// What it means and what to do.
        why: String,
    },
    /// The repository has other files.
    #[error("the hub has no model file for {name}; {}", offered(found))]
    NotOffered {
        /// What was asked for.
        name: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The hub's answer makes no sense.
    #[error("the answer of {host} to {path} cannot be used: {what}")]
    Answer {
        /// Who.
        host: String,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The connection broke, again and again.
    #[error(
        "the download of {file} broke off at {done} of {total} bytes: {host}: {cause}. \
         What came is kept; the same command goes on from there"
    )]
    Broken {
        /// Which file.
        file: String,
        /// Where from.
        host: String,
        /// What went wrong.
        cause: String,
        /// Bytes that came.
        done: u64,
        /// Bytes of the file.
        total: u64,
    },
    /// Other bytes than the hub's.
    #[error("{file} arrived damaged: its hash is {found}, the hub's is {expected}. It was removed; try again")]
    Checksum {
        /// Which file.
        file: String,
        /// The hub's hash.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// The disk is too full.
    #[error(
        "{} has {:.1} GiB free, the download needs {:.1} GiB; make room, or set HF_HUB_CACHE to another folder",
        folder.display(), *free as f64 / GIB, *needed as f64 / GIB
    )]
    Space {
        /// Where it would go.
        folder: PathBuf,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The cache cannot be read or written.
    #[error("the hub's local cache, {}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

const GIB: f64 = (1u64 << 30) as f64;

/// Files to choose from, for people.
fn offered(files: &[String]) -> String {
    const SHOWN: usize = 30;
    match files.len() {
        0 => "the repository has no GGUF model at all".into(),
        n => format!("there are: {}{}", files[..n.min(SHOWN)].join(", "), if n > SHOWN { ", …" } else { "" }),
    }
}

impl std::str::FromStr for HubName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let (path, quant) = text.split_once(':').map_or((text, None), |(path, quant)| (path, Some(quant)));
        // Names become folders.
        let is_name = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            (1..=96).contains(&part.len()) && part.chars().all(known) && !part.starts_with('.') && !part.contains("..")
        };
        match path.split_once('/') {
            Some((user, repo)) if is_name(user) && is_name(repo) && quant.is_none_or(is_name) => {
                Ok(HubName { user: user.into(), repo: repo.into(), quant: quant.map(str::to_string) })
            }
            _ => Err(HubError::Name(text.into())),
        }
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.user, self.repo)?;
        self.quant.iter().try_for_each(|quant| write!(f, ":{quant}"))
    }
}

/// The hub's cache folder: `LLAMA_CACHE`, `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `hub` in `HF_HOME`,
/// `huggingface/hub` in `XDG_CACHE_HOME` or in the home folder's `.cache`.
pub fn hub_cache() -> Result<PathBuf, HubError> {
    let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
    [
        ("LLAMA_CACHE", ""),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        (home, ".cache/huggingface/hub"),
    ]
    .into_iter()
    .find_map(|(variable, below)| {
        let folder = std::env::var_os(variable).filter(|value| !value.is_empty())?;
        Some(if below.is_empty() { folder.into() } else { Path::new(&folder).join(below) })
    })
    .ok_or(HubError::NoCache)
}

impl HubName {
    /// The repository's folder in the cache.
    fn folder(&self) -> String {
        format!("models--{}--{}", self.user, self.repo)
    }

    /// The model's file in `cache`, of a split one the first part. Without a quant: Q4_K_M, else Q8_0, else the first.
    pub fn find(&self, cache: &Path) -> Result<PathBuf, HubError> {
        let repo = cache.join(self.folder());
        let snapshots = repo.join("snapshots");
        let mut commits: Vec<PathBuf> = entries(&snapshots);
        // The one that main names first; no order of time holds for the others.
        let main = std::fs::read_to_string(repo.join("refs/main")).unwrap_or_default();
        commits.sort_by_key(|path| (path.file_name().is_none_or(|name| name != main.trim()), path.clone()));
        let mut found: Vec<String> = Vec::new();
        for commit in commits {
            let mut files = Vec::new();
            list(&commit, "", 0, &mut files);
            let files = complete(files);
            if let Some(file) = choose(&files, self.quant.as_deref()) {
                return Ok(commit.join(file));
            }
            found.extend(files);
        }
        found.sort();
        found.dedup();
        match found.is_empty() {
            true => Err(HubError::NotCached { name: self.to_string(), cache: cache.into() }),
            false => Err(HubError::NoQuant { name: self.to_string(), found }),
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Files below `folder`, as `folder/name`. A link whose blob is gone is not a file.
fn list(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    for path in entries(folder) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        if path.is_file() {
            files.push(name);
        } else if path.is_dir() && depth < 4 {
            list(&path, &format!("{name}/"), depth + 1, files);
        }
    }
}

/// `(stem, part, parts)` of a name such as `stem-00001-of-00003.gguf`.
fn split_part(file: &str) -> Option<(&str, u32, u32)> {
    let (rest, parts) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((stem, number(part)?, number(parts)?))
}

/// Models among files: no projectors, importance matrices or drafts; of split ones the first part, if all are there.
fn complete(files: Vec<String>) -> Vec<String> {
    const OTHERS: [&str; 3] = ["mmproj", "imatrix", "mtp-"];
    let names: HashSet<&str> = files.iter().map(String::as_str).collect();
    let is_model = |file: &&String| {
        let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
        let part = |stem: &str, i: u32, n: u32| names.contains(&*format!("{stem}-{i:05}-of-{n:05}.gguf"));
        name.ends_with(".gguf")
            && !OTHERS.iter().any(|other| name.contains(other))
            && split_part(file).is_none_or(|(stem, i, n)| i == 1 && (1..=n).all(|i| part(stem, i, n)))
    };
    let mut models: Vec<String> = files.iter().filter(is_model).cloned().collect();
    models.sort();
    models
}

fn choose<'a>(files: &'a [String], quant: Option<&str>) -> Option<&'a String> {
    // The plain name rather than one with more in it, such as `UD-Q4_K_M`.
    let of = |quant: &str| files.iter().filter(|file| has_quant(file, quant)).min_by_key(|file| file.len());
    match quant {
        Some(quant) => of(quant),
        None => of("Q4_K_M").or_else(|| of("Q8_0")).or(files.first()),
    }
}

/// Whether a path names the quant as a word of its own: Q4_0 is not in `IQ4_0`, nor Q4_K in `Q4_K_M`.
fn has_quant(file: &str, quant: &str) -> bool {
    let (file, quant) = (file.to_ascii_uppercase(), quant.to_ascii_uppercase());
    let in_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    file.match_indices(&quant)
        .any(|(at, _)| !in_word(file[..at].chars().next_back()) && !in_word(file[at + quant.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folders_of_the_cache_and_nothing_else() {
        let name: HubName = "unsloth/Qwen3.5-0.8B-GGUF:Q4_K_M".parse().expect("a name");
        assert_eq!(name.to_string(), "unsloth/Qwen3.5-0.8B-GGUF:Q4_K_M");
        for wrong in [
            "repo", "/repo", "user/", "../repo", "user/..", "a/b/c", "a/b:", "a/b:../c", "a\\b/c", "a/b:c:d", "a/b c",
            "é/b",
        ] {
            assert!(matches!(wrong.parse::<HubName>(), Err(HubError::Name(_))), "{wrong}");
        }
    }

    #[test]
    fn quants_are_chosen_as_words_and_split_files_are_whole() {
        let files = |names: &[&str]| complete(names.iter().map(|n| n.to_string()).collect());
        let all = files(&[
            "m-UD-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "m-IQ4_0.gguf",
            "m-Q4_K_M.gguf",
            "mmproj-BF16.gguf",
            "BF16/m-00001-of-00002.gguf",
            "BF16/m-00002-of-00002.gguf",
            "m-Q6_K-00001-of-00002.gguf",
            "README.md",
        ]);
        let chosen = |quant| choose(&all, quant).map(String::as_str);
        assert_eq!(chosen(None), Some("m-Q4_K_M.gguf"));
        assert_eq!(chosen(Some("ud-q4_k_m")), Some("m-UD-Q4_K_M.gguf"));
        assert_eq!(chosen(Some("bf16")), Some("BF16/m-00001-of-00002.gguf"));
        for missing in ["Q4_0", "Q4_K", "Q6_K", "Q2_K"] {
            assert_eq!(chosen(Some(missing)), None);
        }
        assert_eq!(choose(&files(&["b-F16.gguf", "a-F16.gguf"]), None).map(String::as_str), Some("a-F16.gguf"));
        assert_eq!(choose(&files(&["b-F16.gguf", "c-Q8_0.gguf"]), None).map(String::as_str), Some("c-Q8_0.gguf"));
    }
}
