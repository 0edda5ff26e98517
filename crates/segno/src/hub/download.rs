//! Downloads files of the hub into its local cache, laid out as its own tools do, so that they share them:
//! `blobs/HASH` has the bytes, `snapshots/COMMIT/NAME` points there, `refs/main` names the commit. A download under way
//! is `blobs/HASH.incomplete`; it is gone on with, by whoever asks next, under the lock `.locks/REPO/HASH.lock`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::beside;

use super::{HubError, HubName, choose, complete, hub_cache, split_part};

/// Longest list of a repository's files that is read, in bytes.
const MAX_LIST: u64 = 16 << 20;
/// Redirects in a row.
const MAX_REDIRECTS: usize = 8;
/// Attempts in a row that bring no byte.
const MAX_ATTEMPTS: u32 = 4;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 18;
/// Header of a file's hash, in the answer that leads to its bytes.
const LINKED_TAG: &str = "x-linked-etag";

/// The hub, as the environment describes it.
pub struct Hub {
    cache: PathBuf,
    endpoint: Uri,
    token: Option<String>,
    offline: bool,
    agent: Agent,
}

/// How far a download is.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The file's name in its repository.
    pub file: &'a str,
    /// True while bytes of an earlier attempt are read again, for the checksum.
    pub checking: bool,
    /// Bytes that are there, of all files of the model.
    pub done: u64,
    /// Bytes of all files of the model.
    pub total: u64,
}

/// A file of the hub. Its hash is 64 digits, SHA-256, or 40, git's SHA-1 of a blob.
struct Remote {
    name: String,
    url: Uri,
    hash: String,
    size: u64,
    /// The entity tag, if the hub sends the bytes itself.
    tag: Option<String>,
}

/// An attempt that ended early.
enum Broken {
    /// Trying again may help.
    Off { host: String, cause: String },
    /// It may not.
    Error(HubError),
}

impl From<HubError> for Broken {
    fn from(error: HubError) -> Self {
        Broken::Error(error)
    }
}

impl From<Broken> for HubError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Off { host, cause } => HubError::Unreachable { host, cause },
            Broken::Error(error) => error,
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |error| HubError::Io { path: path.into(), error }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `HF_TOKEN`, or what the hub's own `hf auth login` has written.
fn token() -> Option<String> {
    let file = || {
        let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
            let folder = variable("HF_HOME").map(PathBuf::from);
            let folder = folder.or_else(|| Some(Path::new(&variable("XDG_CACHE_HOME")?).join("huggingface")));
            let folder = folder.or_else(|| Some(Path::new(&variable(home)?).join(".cache/huggingface")));
            Some(folder?.join("token"))
        })?;
        fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(file)?;
    // It becomes a header.
    let token = token.trim();
    let is_plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    is_plain.then(|| token.to_string())
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .user_agent(concat!("segno/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        // By hand: the token must not leave the hub, and what the hub says of a file is in its first answer.
        .max_redirects(0)
        .timeout_resolve(Some(Duration::from_secs(20)))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    // The system's own TLS where there is one: it needs no C compiler and knows the machine's certificates.
    #[cfg(any(windows, target_vendor = "apple"))]
    let config = config.tls_config(
        ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::NativeTls)
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build(),
    );
    config.build().into()
}

/// Scheme, host and port: what a token belongs to.
fn origin(url: &Uri) -> Option<(bool, String, u16)> {
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    Some((secure, url.host()?.to_ascii_lowercase(), port))
}

fn host(url: &Uri) -> String {
    url.authority().map_or_else(|| url.to_string(), |a| a.to_string())
}

/// Where a redirect leads: a whole URL or a path; never from https to http.
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = match location.starts_with('/') && !location.starts_with("//") {
        true => format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?,
        false => location.parse().ok()?,
    };
    let (old, new) = (origin(from)?, origin(&to)?);
    (matches!(to.scheme_str(), Some("http" | "https")) && new.0 >= old.0).then_some(to)
}

/// A name as a path of a URL.
fn escaped(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes().fold(String::new(), |mut text, b| {
        match b {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => text.push(b.into()),
            _ => drop(write!(text, "%{b:02X}")),
        }
        text
    })
}

/// Whether a name of the hub may become a path below a folder, here and on Windows, and be printed.
fn is_harmless(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 200;
    let known = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    name.split('/').count() <= 4 && name.split('/').all(part) && name.chars().all(known)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// An entity tag as a hash: without quotes and the mark of weak ones.
fn hash(tag: &str) -> Option<String> {
    let hash = tag.trim().trim_start_matches("W/").trim_matches('"');
    let is_hash = matches!(hash.len(), 40 | 64) && hash.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| hash.to_ascii_lowercase())
}

impl Remote {
    fn hasher(&self) -> Box<dyn DynDigest> {
        if self.hash.len() == 64 {
            return Box::new(Sha256::new());
        }
        let mut hasher = Sha1::new();
        Digest::update(&mut hasher, format!("blob {}\0", self.size));
        Box::new(hasher)
    }
}

impl Hub {
    /// `HF_ENDPOINT`, `HF_TOKEN` or the token's file, `HF_HUB_OFFLINE`, and [`hub_cache`].
    pub fn from_env() -> Result<Hub, HubError> {
        let text = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = text.trim_end_matches('/').parse::<Uri>().ok();
        let endpoint =
            endpoint.filter(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.query().is_none());
        let offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].iter().any(|truth| value.eq_ignore_ascii_case(truth)));
        let endpoint = endpoint.ok_or(HubError::Endpoint(text))?;
        Ok(Hub { cache: hub_cache()?, endpoint, token: token(), offline, agent: agent() })
    }

    /// The model's file, of a split one the first part. What the cache has is taken as it is and the hub is not asked;
    /// what it lacks is downloaded.
    pub fn get(&self, name: &HubName, mut progress: impl FnMut(Transfer<'_>)) -> Result<PathBuf, HubError> {
        match name.find(&self.cache) {
            Ok(path) => return Ok(path),
            Err(error) if self.offline => return Err(HubError::Offline(Box::new(error))),
            Err(_) => {}
        }
        let (commit, files) = self.list(name)?;
        let models = complete(files);
        let Some(first) = choose(&models, name.quant.as_deref()) else {
            return Err(HubError::NotOffered { name: name.to_string(), found: models });
        };
        let parts = match split_part(first) {
            Some((stem, _, n)) => (1..=n).map(|i| format!("{stem}-{i:05}-of-{n:05}.gguf")).collect(),
            None => vec![first.clone()],
        };
        let remotes =
            parts.into_iter().map(|part| self.describe(name, &commit, part)).collect::<Result<Vec<_>, _>>()?;
        let repo = self.cache.join(name.folder());
        let blobs = repo.join("blobs");
        fs::create_dir_all(&blobs).map_err(io_error(&blobs))?;
        self.check_space(&blobs, &remotes)?;
        let total = remotes.iter().map(|r| r.size).sum();
        let snapshot = repo.join("snapshots").join(&commit);
        let mut before = 0;
        for remote in &remotes {
            let blob = self.blob(name, &blobs, remote, &mut |checking, done| {
                progress(Transfer { file: &remote.name, checking, done: before + done, total });
            })?;
            link(&blob, &snapshot, &remote.name)?;
            before += remote.size;
        }
        let refs = repo.join("refs");
        fs::create_dir_all(&refs).map_err(io_error(&refs))?;
        let new = beside(&refs.join("main"));
        fs::write(&new, &commit).and_then(|()| fs::rename(&new, refs.join("main"))).map_err(io_error(&refs))?;
        Ok(snapshot.join(first))
    }

    fn url(&self, path: &str) -> Result<Uri, HubError> {
        let text = format!("{}/{path}", self.endpoint.to_string().trim_end_matches('/'));
        text.parse().map_err(|_| HubError::Endpoint(text))
    }

    fn send(&self, head: bool, url: &Uri, from: u64, tag: Option<&str>) -> Result<Response<Body>, ureq::Error> {
        let mut request = if head { self.agent.head(url) } else { self.agent.get(url) };
        request = request.header("accept-encoding", "identity");
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        if origin(url) == origin(&self.endpoint) {
            if let Some(token) = &self.token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(tag) = tag.filter(|_| from > 0) {
                request = request.header("if-range", tag);
            }
        }
        request.call()
    }

    /// Asks for the bytes of `url` beginning with `from`, and follows redirects; a head is taken where it tells of the file.
    fn ask(&self, head: bool, url: &Uri, from: u64, tag: Option<&str>) -> Result<Response<Body>, Broken> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self
                .send(head, &url, from, tag)
                .map_err(|error| Broken::Off { host: host(&url), cause: cause(error) })?;
            if !response.status().is_redirection() || head && response.headers().contains_key(LINKED_TAG) {
                return Ok(response);
            }
            let to = header(&response, "location").and_then(|to| redirected(&url, to));
            url = to.ok_or_else(|| wrong(&url, "it redirects to no address that can be used"))?;
        }
        Err(wrong(&url, "it redirects without end").into())
    }

    /// What a refusal means.
    fn refused(&self, name: &HubName, response: &Response<Body>) -> HubError {
        let status = response.status();
        let code = header(response, "x-error-code").unwrap_or_default();
        let why = match status.as_u16() {
            401 | 403 if code == "GatedRepo" => {
                let page = format!("{}{}/{}", self.endpoint, name.user, name.repo);
                format!("its authors give access on request; ask for it at {page}, then set HF_TOKEN to your token")
            }
            401 | 403 if self.token.is_some() => {
                "the token in HF_TOKEN or its file is wrong, or may not read it".into()
            }
            401 | 403 | 404 => {
                "there is no such model, or it is private; check the name, for a private one set HF_TOKEN".into()
            }
            429 => "too many requests came from here; wait a while, or set HF_TOKEN".into(),
            500.. => "it has trouble; try again later".into(),
            _ => "that is no answer to work with".into(),
        };
        HubError::Refused { host: host(&self.endpoint), status: status.as_u16(), name: name.to_string(), why }
    }

    /// The commit of `main`, and its files.
    fn list(&self, name: &HubName) -> Result<(String, Vec<String>), HubError> {
        #[derive(serde::Deserialize)]
        struct Listed {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let url = self.url(&format!("api/models/{}/{}/revision/main", name.user, name.repo))?;
        let mut response = self.ask(false, &url, 0, None)?;
        if !response.status().is_success() {
            return Err(self.refused(name, &response));
        }
        let body = response.body_mut().with_config().limit(MAX_LIST).read_to_vec();
        let body = body.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => wrong(&url, "its list of files is longer than 16 MiB"),
            error => HubError::Unreachable { host: host(&url), cause: cause(error) },
        })?;
        let listed: Listed = serde_json::from_slice(&body)
            .map_err(|error| wrong(&url, &format!("it sends no list of files: {error}")))?;
        let commit = hash(&listed.sha).ok_or_else(|| wrong(&url, "it names no commit"))?;
        let names = listed.siblings.into_iter().map(|sibling| sibling.rfilename);
        let (files, others): (Vec<_>, Vec<_>) = names.partition(|name| is_harmless(name));
        if let Some(first) = others.first() {
            log::warn!("{} names of files are passed over, such as {first:?}: they are no plain paths", others.len());
        }
        Ok((commit, files))
    }

    fn describe(&self, name: &HubName, commit: &str, file: String) -> Result<Remote, HubError> {
        let url = self.url(&format!("{}/{}/resolve/{commit}/{}", name.user, name.repo, escaped(&file)))?;
        let response = self.ask(true, &url, 0, None)?;
        let linked = header(&response, LINKED_TAG);
        if !response.status().is_success() && linked.is_none() {
            return Err(self.refused(name, &response));
        }
        let tag = header(&response, "etag");
        let hash = linked.or(tag).and_then(hash).ok_or_else(|| wrong(&url, "it tells no checksum"))?;
        let size = header(&response, "x-linked-size").or_else(|| header(&response, "content-length"));
        let size = size.and_then(|n| n.parse().ok()).ok_or_else(|| wrong(&url, "it tells no size"))?;
        // Only a strong tag may go with a range.
        let tag = tag.filter(|tag| response.status().is_success() && tag.starts_with('"')).map(String::from);
        Ok(Remote { name: file, url, hash, size, tag })
    }

    fn check_space(&self, blobs: &Path, remotes: &[Remote]) -> Result<(), HubError> {
        let length = |name: &str| fs::metadata(blobs.join(name)).map_or(0, |m| m.len());
        let have = |r: &Remote| length(&r.hash).max(length(&format!("{}.incomplete", r.hash)));
        let needed = remotes.iter().fold(0u64, |sum, r| sum.saturating_add(r.size.saturating_sub(have(r))));
        let free = fs4::available_space(blobs).map_err(io_error(blobs))?;
        match needed > free {
            true => Err(HubError::Space { folder: blobs.into(), needed, free }),
            false => Ok(()),
        }
    }

    /// The file's place in the cache; it is there afterwards.
    fn blob(
        &self,
        name: &HubName,
        blobs: &Path,
        remote: &Remote,
        progress: &mut dyn FnMut(bool, u64),
    ) -> Result<PathBuf, HubError> {
        let blob = blobs.join(&remote.hash);
        let is_there = || fs::metadata(&blob).is_ok_and(|m| m.is_file() && m.len() == remote.size);
        let locks = self.cache.join(".locks").join(name.folder());
        fs::create_dir_all(&locks).map_err(io_error(&locks))?;
        let path = locks.join(format!("{}.lock", remote.hash));
        let lock = File::options().create(true).append(true).open(&path).map_err(io_error(&path))?;
        if fs4::FileExt::try_lock(&lock).is_err() {
            log::warn!("{} is being downloaded by another program; waiting for it", remote.name);
            fs4::FileExt::lock(&lock).map_err(io_error(&path))?;
        }
        if !is_there() {
            let partial = blobs.join(format!("{}.incomplete", remote.hash));
            self.transfer(name, remote, &partial, progress)?;
            fs::rename(&partial, &blob).map_err(io_error(&blob))?;
        }
        Ok(blob)
    }

    /// Completes the file at `partial` and checks its hash.
    fn transfer(
        &self,
        name: &HubName,
        remote: &Remote,
        partial: &Path,
        progress: &mut dyn FnMut(bool, u64),
    ) -> Result<(), HubError> {
        let mut begun = Begun::open(remote, partial, progress)?;
        let (mut most, mut attempts) = (0, 0);
        while begun.done < remote.size {
            let (host, cause) = match self.receive(name, remote, &mut begun, progress) {
                Ok(()) => break,
                Err(Broken::Error(error)) => return Err(error),
                Err(Broken::Off { host, cause }) => (host, cause),
            };
            attempts = if begun.done > most { 1 } else { attempts + 1 };
            most = most.max(begun.done);
            if attempts == MAX_ATTEMPTS {
                let (file, done, total) = (remote.name.clone(), begun.done, remote.size);
                return Err(HubError::Broken { file, host, cause, done, total });
            }
            log::info!("{}: {host}: {cause}; trying again", remote.name);
            std::thread::sleep(Duration::from_millis(500 << attempts));
        }
        begun.file.sync_all().map_err(io_error(partial))?;
        let found: String = begun.hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found != remote.hash {
            drop(begun.file);
            fs::remove_file(partial).map_err(io_error(partial))?;
            return Err(HubError::Checksum { file: remote.name.clone(), expected: remote.hash.clone(), found });
        }
        Ok(())
    }

    /// One request for what is missing.
    fn receive(
        &self,
        name: &HubName,
        remote: &Remote,
        begun: &mut Begun<'_>,
        progress: &mut dyn FnMut(bool, u64),
    ) -> Result<(), Broken> {
        let response = self.ask(false, &remote.url, begun.done, remote.tag.as_deref())?;
        let off = |cause: String| Broken::Off { host: host(&remote.url), cause };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = header(&response, "content-range").unwrap_or_default();
                let (start, end) = (format!("bytes {}-", begun.done), format!("/{}", remote.size));
                if !range.starts_with(&start) || !range.ends_with(&end) {
                    return Err(wrong(&remote.url, "it sends another range than it was asked for").into());
                }
            }
            StatusCode::OK => {
                begun.restart()?;
                if response.body().content_length().is_some_and(|n| n != remote.size) {
                    return Err(wrong(&remote.url, "it sends a file of another size than it tells").into());
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                begun.restart()?;
                return Err(off("it has no such range".into()));
            }
            status if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
                return Err(off(format!("it answers {status}")));
            }
            _ => return Err(self.refused(name, &response).into()),
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        while begun.done < remote.size {
            match body.read(&mut buffer) {
                Ok(0) => return Err(off("the connection was closed early".into())),
                Ok(n) => begun.write(&buffer[..n])?,
                Err(error) => return Err(off(cause(error.into()))),
            }
            progress(false, begun.done);
        }
        Ok(())
    }
}

/// A file under way.
struct Begun<'a> {
    remote: &'a Remote,
    path: &'a Path,
    file: File,
    hasher: Box<dyn DynDigest>,
    /// Bytes that were written and hashed.
    done: u64,
}

impl<'a> Begun<'a> {
    /// Opens it and hashes what it has.
    fn open(remote: &'a Remote, path: &'a Path, progress: &mut dyn FnMut(bool, u64)) -> Result<Self, HubError> {
        let error = io_error(path);
        let opened = || -> io::Result<(File, u64)> {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = opened().map_err(error)?;
        let mut begun = Begun { remote, path, file, hasher: remote.hasher(), done: 0 };
        if length > remote.size {
            begun.restart()?;
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = begun.file.read(&mut buffer).map_err(io_error(path))?;
            if n == 0 {
                return Ok(begun);
            }
            begun.hasher.update(&buffer[..n]);
            begun.done += n as u64;
            progress(true, begun.done);
        }
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(io_error(self.path))?;
        (self.hasher, self.done) = (self.remote.hasher(), 0);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        if bytes.len() as u64 > self.remote.size - self.done {
            return Err(wrong(&self.remote.url, "it sends more bytes than it tells"));
        }
        self.file.write_all(bytes).map_err(io_error(self.path))?;
        self.hasher.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }
}

fn wrong(url: &Uri, what: &str) -> HubError {
    HubError::Answer { host: host(url), path: url.path().into(), what: what.into() }
}

/// What went wrong on the way, in words.
fn cause(error: ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "no answer came in time".into(),
        ureq::Error::HostNotFound => "no host of that name was found".into(),
        error => error.to_string(),
    }
}

/// Makes `to`, below a snapshot, another name of the blob: a relative link, where there are none a hard one, or a copy.
fn link(blob: &Path, snapshot: &Path, name: &str) -> Result<(), HubError> {
    let to = snapshot.join(name);
    if to.is_file() {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
    }
    let mut target: PathBuf = std::iter::repeat_n("..", name.split('/').count() + 1).collect();
    target.extend([Path::new("blobs"), Path::new(blob.file_name().unwrap_or_default())]);
    // Another program may do the same now: a copy to a link that it has just made would empty the blob.
    let new = beside(&to);
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(&target, &new);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(&target, &new);
    let linked = linked.or_else(|_| fs::hard_link(blob, &new)).or_else(|_| fs::copy(blob, &new).map(drop));
    linked.and_then(|()| fs::rename(&new, &to)).map_err(io_error(&to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_urls_and_never_out_of_tls() {
        let from: Uri = "https://hub.example:444/a/b?c".parse().expect("a URL");
        let to = |location: &str| redirected(&from, location).map(|url| url.to_string());
        assert_eq!(to("/x?y=1").as_deref(), Some("https://hub.example:444/x?y=1"));
        assert_eq!(to("https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for wrong in ["http://cdn.example/x", "//cdn.example/x", "ftp://x/y", "x", "", "file:///etc/passwd"] {
            assert_eq!(to(wrong), None, "{wrong}");
        }
        // A token belongs to scheme, host and port.
        let of = |url: &str| origin(&url.parse().expect("a URL"));
        assert_eq!(of("https://Hub.example/a"), of("https://hub.example:443/b"));
        for other in
            ["http://hub.example/a", "https://hub.example.com/", "https://hub.example@x.com/", "https://hub.example:1/"]
        {
            assert_ne!(of(other), of("https://hub.example"), "{other}");
        }
    }

    #[test]
    fn names_and_tags_of_strangers() {
        assert_eq!(escaped("a b/é%.gguf"), "a%20b/%C3%A9%25.gguf");
        for good in ["a.gguf", "UD/a-00001-of-00002.gguf", "a b é.gguf", "..a..gguf"] {
            assert!(is_harmless(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/..", "./a", "a\\b", "C:a", "a\nb", "a\u{1b}b", "a/b/c/d/e", "a*"]
        {
            assert!(!is_harmless(bad), "{bad}");
        }
        assert!(!is_harmless(&"a".repeat(201)));
        let tag = "A".repeat(64);
        assert_eq!(hash(&format!("W/\"{tag}\"")), Some("a".repeat(64)));
        for wrong in ["", "\"abc\"", "../../x", &"g".repeat(64), &"a".repeat(63)] {
            assert_eq!(hash(wrong), None, "{wrong}");
        }
    }
}
