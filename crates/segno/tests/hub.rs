//! `-hf`: downloads from a hub that this test plays, on 127.0.0.1.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    cut: Option<usize>,
    /// So it does, but not before the server does.
    stall: bool,
}

impl Answer {
    fn status(status: u16) -> Self {
        Answer { status, ..Default::default() }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Answer { body, ..self }
    }
}

/// A server, the requests that came, and the bytes of bodies that went.
#[derive(Clone)]
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicU64>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Server { port, requests: Arc::default(), sent: Arc::default() };
        let (answer, copy) = (Arc::new(answer), server.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, server) = (answer.clone(), copy.clone());
                std::thread::spawn(move || server.serve(stream, &*answer));
            }
        });
        server
    }

    /// One request of a connection; a client that goes away is no failure here.
    fn serve(&self, mut stream: TcpStream, answer: &dyn Fn(&Request) -> Answer) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let first = lines.next()?.ok()?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
        let headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
        let headers = headers.filter_map(|l| l.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_string())));
        let request = Request { method, path, headers: headers.collect() };
        let answer = answer(&request);
        let is_head = request.method == "HEAD";
        self.requests.lock().expect("no panic").push(request);
        let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !answer.headers.iter().any(|(name, _)| *name == "Transfer-Encoding") {
            head += &format!("Content-Length: {}\r\n", answer.body.len());
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        let body = &answer.body[..if is_head { 0 } else { answer.cut.unwrap_or(answer.body.len()) }];
        for part in body.chunks(1 << 14) {
            stream.write_all(part).ok()?;
            self.sent.fetch_add(part.len() as u64, Ordering::SeqCst);
        }
        if answer.stall {
            // Until the client is gone.
            let _ = stream.read(&mut [0]);
        }
        Some(())
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The value of a header in every request of a method; empty where it was not given.
    fn header(&self, method: &str, name: &str) -> Vec<String> {
        let requests = self.requests.lock().expect("no panic");
        let of = requests.iter().filter(|r| r.method == method);
        of.map(|r| r.headers.get(name).cloned().unwrap_or_default()).collect()
    }

    fn count(&self) -> usize {
        self.requests.lock().expect("no panic").len()
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The list of a repository's files.
fn list(names: &[&str]) -> Answer {
    let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
    let all = serde_json::json!({ "id": "some/tiny-GGUF", "sha": COMMIT, "siblings": siblings, "tags": ["gguf"] });
    Answer::status(200).body(all.to_string())
}

fn is_list(request: &Request) -> bool {
    request.path == "/api/models/some/tiny-GGUF/revision/main"
}

/// A file's bytes, as far as they are asked for.
fn bytes(request: &Request, body: &[u8]) -> Answer {
    let range = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match range {
        None => Answer::status(200).body(body),
        Some(from) => Answer::status(206)
            .with("Content-Range", format!("bytes {from}-{}/{}", body.len() - 1, body.len()))
            .body(&body[from..]),
    }
}

/// A hub that sends files itself: name and bytes.
fn hub(files: Vec<(&'static str, Vec<u8>)>) -> impl Fn(&Request) -> Answer {
    move |request| {
        if is_list(request) {
            return list(&files.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        }
        let name = request.path.strip_prefix(&format!("/some/tiny-GGUF/resolve/{COMMIT}/"));
        match files.iter().find(|(n, _)| Some(*n) == name) {
            Some((_, body)) => bytes(request, body).with("ETag", format!("\"{}\"", sha256(body))),
            None => Answer::status(404),
        }
    }
}

/// As the hub does with large files: it tells of them, and sends the client to another host.
fn linking(hash: String, size: usize, to: String) -> impl Fn(&Request) -> Answer {
    move |request| match is_list(request) {
        true => list(&["README.md", "t-Q8_0.gguf", "t-Q4_K_M.gguf", "mmproj-t-Q4_K_M.gguf"]),
        false => Answer::status(302)
            .with("X-Linked-ETag", format!("\"{hash}\""))
            .with("X-Linked-Size", size)
            .with("ETag", "W/\"another\"")
            .with("Location", &to),
    }
}

fn model() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/qwen35/model-q4_k_m.gguf");
    std::fs::read(path).expect("a fixture")
}

/// A cache of a test's own.
struct Cache(PathBuf);

impl Cache {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        Cache(std::env::temp_dir().join(format!("segno-hub-{}-{n}", std::process::id())))
    }

    fn repo(&self) -> PathBuf {
        self.0.join("models--some--tiny-GGUF")
    }

    fn blob(&self, hash: &str) -> PathBuf {
        self.repo().join("blobs").join(hash)
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT).join(name)
    }

    fn command(&self, server: &Server, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segno"));
        command.args(arguments).stdin(Stdio::null());
        for name in [
            "LLAMA_CACHE",
            "HF_HOME",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "XDG_CACHE_HOME",
            "RUST_LOG",
            "http_proxy",
            "HTTP_PROXY",
            "https_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", &self.0).env("USERPROFILE", &self.0).env("HF_HUB_CACHE", &self.0);
        command.env("HF_ENDPOINT", server.url()).env("HF_TOKEN", "hf_secret");
        command
    }

    fn get(&self, server: &Server, name: &str) -> Output {
        self.command(server, &["tokenize", "-p", "a fox", "--ids", "-hf", name]).output().expect("runs")
    }

    fn start(&self, server: &Server, name: &str) -> Child {
        let mut command = self.command(server, &["tokenize", "-p", "a fox", "--ids", "-hf", name]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs")
    }

    fn works(&self, server: &Server, name: &str) {
        let output = self.get(server, name);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.starts_with('['), "{err}");
    }

    fn fails(&self, server: &Server, name: &str, expected: &str) {
        let output = self.get(server, name);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(expected), "expected {expected}: {message}");
        assert!(!message.contains("panicked") && !message.contains("hf_secret"), "{message}");
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn wait_for(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_model_is_downloaded_once_into_the_layout_of_the_hubs_tools() {
    let (cache, model) = (Cache::new(), model());
    let (hash, size) = (sha256(&model), model.len());
    let other = model.clone();
    let cdn = Server::start(move |request| bytes(request, &other));
    let server = Server::start(linking(hash.clone(), size, format!("{}/bytes?signed=1", cdn.url())));
    let output = cache.get(&server, "some/tiny-GGUF");
    let message = String::from_utf8_lossy(&output.stderr);
    // No terminal: one line, no bar.
    assert!(output.status.success(), "{message}");
    assert_eq!(message.trim(), "downloading some/tiny-GGUF: 572.34 KiB");
    assert_eq!(std::fs::read(cache.blob(&hash)).expect("a blob"), model);
    assert_eq!(std::fs::read(cache.snapshot("t-Q4_K_M.gguf")).expect("a file"), model);
    assert_eq!(std::fs::read_to_string(cache.repo().join("refs/main")).expect("a commit"), COMMIT);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(cache.snapshot("t-Q4_K_M.gguf")).expect("a link"),
        Path::new("../../blobs").join(&hash)
    );
    assert_eq!(std::fs::read_dir(cache.repo().join("blobs")).expect("a folder").count(), 1);
    // The token stays with the hub.
    for method in ["GET", "HEAD"] {
        assert!(server.header(method, "authorization").iter().all(|value| value == "Bearer hf_secret"));
    }
    assert_eq!((cdn.header("GET", "authorization"), cdn.header("HEAD", "range")), (vec![String::new()], vec![]));
    // Whatever is asked for again comes from the cache.
    let before = (server.count(), cdn.count());
    for name in ["some/tiny-GGUF", "some/tiny-GGUF:q4_k_m"] {
        cache.works(&server, name);
    }
    assert_eq!((server.count(), cdn.count()), before);
    assert_eq!(cdn.sent(), size as u64);
}

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    let (cache, model) = (Cache::new(), model());
    let (hash, size, count) = (sha256(&model), model.len(), AtomicU32::new(0));
    let cdn = Server::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Answer { cut: Some(100_000), ..bytes(request, &model) },
        1 => Answer::status(503),
        _ => bytes(request, &model),
    });
    let server = Server::start(linking(hash.clone(), size, format!("{}/bytes", cdn.url())));
    cache.works(&server, "some/tiny-GGUF:Q8_0");
    assert_eq!(cdn.header("GET", "range"), ["", "bytes=100000-", "bytes=100000-"]);
    assert_eq!(cdn.sent(), size as u64);
    assert_eq!(sha256(&std::fs::read(cache.snapshot("t-Q8_0.gguf")).expect("a file")), hash);
}

/// Waits until a program has `n` bytes, and kills it.
fn interrupt(cache: &Cache, server: &Server, name: &str, hash: &str, n: u64) {
    let mut child = cache.start(server, name);
    let partial = cache.blob(&format!("{hash}.incomplete"));
    wait_for(|| std::fs::metadata(&partial).is_ok_and(|m| m.len() == n));
    child.kill().expect("killed");
    child.wait().expect("ends");
}

#[test]
fn a_program_that_was_killed_goes_on_where_it_was() {
    let (cache, model) = (Cache::new(), model());
    let (hash, size, count) = (sha256(&model), model.len() as u64, AtomicU32::new(0));
    let files = hub(vec![("t-Q4_K_M.gguf", model)]);
    let server = Server::start(move |request| match request.method == "GET" && !is_list(request) {
        true if count.fetch_add(1, Ordering::SeqCst) == 0 => {
            Answer { cut: Some(123_456), stall: true, ..files(request) }
        }
        _ => files(request),
    });
    interrupt(&cache, &server, "some/tiny-GGUF", &hash, 123_456);
    assert!(!cache.snapshot("t-Q4_K_M.gguf").exists());
    let before = server.sent();
    cache.works(&server, "some/tiny-GGUF");
    assert_eq!(server.header("GET", "range").last().expect("a request"), "bytes=123456-");
    // The hub sends it itself: its tag guards the range.
    assert_eq!(*server.header("GET", "if-range").last().expect("a request"), format!("\"{hash}\""));
    let listed = list(&["t-Q4_K_M.gguf"]).body.len() as u64;
    assert_eq!(server.sent() - before, size - 123_456 + listed);
    assert_eq!(sha256(&std::fs::read(cache.blob(&hash)).expect("a blob")), hash);
}

#[test]
fn a_file_that_has_changed_is_begun_anew() {
    let (cache, old) = (Cache::new(), model());
    let mut new = old.clone();
    new[old.len() - 1] ^= 1;
    let changed = sha256(&new);
    let stalling = hub(vec![("t-Q4_K_M.gguf", old.clone())]);
    let before = Server::start(move |request| match request.method == "GET" && !is_list(request) {
        true => Answer { cut: Some(50_000), stall: true, ..stalling(request) },
        false => stalling(request),
    });
    interrupt(&cache, &before, "some/tiny-GGUF", &sha256(&old), 50_000);
    let after = Server::start(hub(vec![("t-Q4_K_M.gguf", new.clone())]));
    cache.works(&after, "some/tiny-GGUF");
    assert!(after.header("GET", "range").iter().all(String::is_empty));
    assert_eq!(std::fs::read(cache.snapshot("t-Q4_K_M.gguf")).expect("a file"), new);

    // It changes between the head and the bytes: the whole comes instead of the range, and is no part of the old one.
    let cache = Cache::new();
    interrupt(&cache, &before, "some/tiny-GGUF", &sha256(&old), 50_000);
    let files = hub(vec![("t-Q4_K_M.gguf", old.clone())]);
    let racing = Server::start(move |request| match request.headers.contains_key("if-range") {
        true => Answer::status(200).body(&new[..]),
        false => files(request),
    });
    cache.fails(&racing, "some/tiny-GGUF", &format!("its hash is {changed}"));
    assert!(!cache.blob(&format!("{}.incomplete", sha256(&old))).exists());
}

#[test]
fn damaged_bytes_are_refused_and_removed() {
    let (cache, model) = (Cache::new(), model());
    let (wrong, size) = (sha256(b"other bytes"), model.len());
    let cdn = Server::start(move |request| bytes(request, &model));
    let server = Server::start(linking(wrong.clone(), size, format!("{}/bytes", cdn.url())));
    cache.fails(&server, "some/tiny-GGUF", "t-Q4_K_M.gguf arrived damaged: its hash is ");
    assert_eq!(std::fs::read_dir(cache.repo().join("blobs")).expect("a folder").count(), 0);
    assert!(!cache.repo().join("snapshots").exists() && !cache.repo().join("refs").exists());
}

#[test]
fn small_files_have_the_hash_of_git() {
    let (cache, model) = (Cache::new(), model());
    // `git hash-object`.
    let hash = {
        use sha1::Sha1;
        let all = [format!("blob {}\0", model.len()).as_bytes(), &model].concat();
        Sha1::digest(all).iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let tag = hash.clone();
    let server = Server::start(move |request| match is_list(request) {
        true => list(&["t.gguf"]),
        false => bytes(request, &model).with("ETag", format!("\"{tag}\"")),
    });
    cache.works(&server, "some/tiny-GGUF");
    assert!(cache.blob(&hash).is_file());
}

#[test]
fn all_parts_of_a_split_model_come() {
    let cache = Cache::new();
    let parts: Vec<Vec<u8>> = (1..=3u8).map(|i| vec![i; 1000 * usize::from(i)]).collect();
    let server = Server::start(hub(vec![
        ("Q5_K_M/t-00001-of-00003.gguf", parts[0].clone()),
        ("Q5_K_M/t-00002-of-00003.gguf", parts[1].clone()),
        ("Q5_K_M/t-00003-of-00003.gguf", parts[2].clone()),
        ("t-Q6_K-00001-of-00002.gguf", Vec::new()),
        ("t-Q2_K.gguf", vec![0]),
    ]));
    // These are no models, and so the program fails, but not before it has them all.
    cache.fails(&server, "some/tiny-GGUF:q5_k_m", "Q5_K_M/t-00001-of-00003.gguf");
    for (i, part) in parts.iter().enumerate() {
        let name = format!("Q5_K_M/t-0000{}-of-00003.gguf", i + 1);
        assert_eq!(&std::fs::read(cache.snapshot(&name)).expect("a file"), part);
    }
    cache.fails(
        &server,
        "some/tiny-GGUF:Q6_K",
        "no model file for some/tiny-GGUF:Q6_K; there are: Q5_K_M/t-00001-of-00003.gguf, t-Q2_K.gguf",
    );
}

#[test]
fn refusals_say_what_to_do() {
    let cache = Cache::new();
    for (status, code, expected) in [
        (
            401,
            "GatedRepo",
            "answers 401 for some/tiny-GGUF: its authors give access on request; ask for it at http://127",
        ),
        (403, "GatedRepo", "/some/tiny-GGUF, then set HF_TOKEN"),
        (401, "RepoNotFound", "the token in HF_TOKEN or its file is wrong"),
        (404, "RepoNotFound", "there is no such model, or it is private; check the name"),
        (429, "", "too many requests"),
        (500, "", "try again later"),
    ] {
        let server = Server::start(move |_| Answer::status(status).with("X-Error-Code", code));
        cache.fails(&server, "some/tiny-GGUF", expected);
        // A file may be refused as well as the list.
        let server = Server::start(move |request| match is_list(request) {
            true => list(&["t-Q4_K_M.gguf"]),
            false => Answer::status(status).with("X-Error-Code", code),
        });
        cache.fails(&server, "some/tiny-GGUF", expected);
    }
    let server = Server::start(|_| Answer::status(401));
    let mut command = cache.command(&server, &["inspect", "-hf", "some/tiny-GGUF"]);
    let output = command.env_remove("HF_TOKEN").output().expect("runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("check the name, for a private one set HF_TOKEN"));
    assert_eq!(server.header("GET", "authorization"), [""]);
    // The token's file, as the hub's own tools write it.
    std::fs::create_dir_all(cache.0.join(".cache/huggingface")).expect("made");
    std::fs::write(cache.0.join(".cache/huggingface/token"), "hf_other\n").expect("written");
    let mut command = cache.command(&server, &["inspect", "-hf", "some/tiny-GGUF"]);
    command.env_remove("HF_TOKEN").output().expect("runs");
    assert_eq!(server.header("GET", "authorization"), ["", "Bearer hf_other"]);
}

#[test]
fn without_a_network_it_says_so() {
    let cache = Cache::new();
    let server = Server::start(hub(vec![("t-Q4_K_M.gguf", model())]));
    let mut command = cache.command(&server, &["run", "-p", "x", "-hf", "some/tiny-GGUF"]);
    let output = command.env("HF_HUB_OFFLINE", "1").output().expect("runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("some/tiny-GGUF is not in the hub's local cache"), "{message}");
    assert!(message.contains("HF_HUB_OFFLINE is set, so nothing is downloaded") && server.count() == 0, "{message}");
    for (endpoint, expected) in [
        // Port 9, discard, is open nowhere.
        ("http://127.0.0.1:9", "cannot reach 127.0.0.1:9: "),
        ("http://hub.invalid", "cannot reach hub.invalid: "),
        ("hub.example", "HF_ENDPOINT leads to 'hub.example', expected a URL such as https://huggingface.co"),
        ("ftp://hub.example", "HF_ENDPOINT leads to 'ftp://hub.example'"),
    ] {
        let mut command = cache.command(&server, &["run", "-p", "x", "-hf", "some/tiny-GGUF"]);
        let output = command.env("HF_ENDPOINT", endpoint).output().expect("runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(expected), "{message}");
        assert!(!expected.starts_with("cannot") || message.contains("give its path instead of -hf"), "{message}");
    }
    // With the model in the cache none of it matters.
    cache.works(&server, "some/tiny-GGUF");
    let mut command =
        cache.command(&server, &["run", "-p", "x", "-n", "1", "--device", "cpu", "-hf", "some/tiny-GGUF"]);
    let output = command.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", "http://127.0.0.1:9").output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn two_programs_share_one_download() {
    let (cache, model) = (Cache::new(), model());
    let (hash, size) = (sha256(&model), model.len());
    let cdn = Server::start(move |request| {
        std::thread::sleep(Duration::from_millis(500));
        bytes(request, &model)
    });
    let server = Server::start(linking(hash, size, format!("{}/bytes", cdn.url())));
    let children: Vec<Child> = (0..3).map(|_| cache.start(&server, "some/tiny-GGUF")).collect();
    for child in children {
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(cdn.sent(), size as u64);
}

#[test]
fn names_that_are_paths_are_passed_over() {
    let (cache, model) = (Cache::new(), model());
    let (tag, body) = (sha256(&model), model);
    let server = Server::start(move |request| match is_list(request) {
        true => list(&[
            "../../../../evil-Q4_K_M.gguf",
            "/tmp/evil-Q4_K_M.gguf",
            "a/../../evil-Q4_K_M.gguf",
            "..\\evil-Q4_K_M.gguf",
            "C:evil-Q4_K_M.gguf",
            "\u{1b}[31m-Q4_K_M.gguf",
            "a//Q4_K_M.gguf",
            "a b é-Q2_K.gguf",
        ]),
        false => bytes(request, &body).with("ETag", format!("\"{tag}\"")),
    });
    let output = cache.get(&server, "some/tiny-GGUF");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && message.contains("7 names of files are passed over"), "{message}");
    assert!(!message.contains('\u{1b}'), "{message}");
    assert!(cache.snapshot("a b é-Q2_K.gguf").is_file());
    let requests = server.requests.lock().expect("no panic");
    assert!(requests.iter().skip(1).all(|r| r.path.ends_with("/a%20b%20%C3%A9-Q2_K.gguf")));
}

#[test]
fn hostile_answers_are_bounded() {
    let (cache, model) = (Cache::new(), model());
    let (size, hash) = (model.len(), sha256(&model));
    let deep = "[".repeat(1 << 20);
    for (answer, expected) in [
        (Answer::status(200).body("<html>no</html>"), "it sends no list of files"),
        (Answer::status(200).body(deep), "it sends no list of files"),
        (Answer::status(200).body(vec![b' '; 17 << 20]), "its list of files is longer than 16 MiB"),
        (Answer::status(200).body(r#"{"sha":"../../x","siblings":[]}"#), "it names no commit"),
        (list(&["README.md"]), "the repository has no GGUF model at all"),
        (Answer::status(302).with("Location", "/api/models/some/tiny-GGUF/revision/main"), "it redirects without end"),
        (Answer::status(302).with("Location", "file:///etc/passwd"), "it redirects to no address that can be used"),
        (Answer::status(302), "it redirects to no address that can be used"),
    ] {
        let server = Server::start(move |_| answer.clone());
        cache.fails(&server, "some/tiny-GGUF", expected);
        assert!(server.count() <= 9);
    }
    let told =
        |hash: &str, size: &str| Answer::status(200).with("ETag", format!("\"{hash}\"")).with("X-Linked-Size", size);
    for (head, body, expected) in [
        (told("../../../evil", "10"), Answer::status(200), "it tells no checksum"),
        (told(&hash, "-1"), Answer::status(200), "it tells no size"),
        (told(&hash, "9000000000000000000"), Answer::status(200), "GiB free, the download needs 8381903171.5 GiB"),
        (told(&hash, "1000"), Answer::status(200).body(&model[..]), "it sends a file of another size than it tells"),
        // Without a length.
        (
            told(&hash, "1000"),
            Answer::status(200).with("Transfer-Encoding", "chunked").body(format!("7d0\r\n{:2000}\r\n0\r\n\r\n", "")),
            "it sends more bytes than it tells",
        ),
        (
            told(&hash, &size.to_string()),
            Answer::status(206).with("Content-Range", "bytes 5-9/10").body(&model[..]),
            "it sends another range than it was asked for",
        ),
    ] {
        let server = Server::start(move |request| match (is_list(request), &*request.method) {
            (true, _) => list(&["t-Q4_K_M.gguf"]),
            (_, "HEAD") => head.clone(),
            _ => body.clone(),
        });
        cache.fails(&server, "some/tiny-GGUF", expected);
    }
}

#[test]
fn a_download_that_never_gets_on_gives_up_and_keeps_what_came() {
    let (cache, model) = (Cache::new(), model());
    let (hash, size) = (sha256(&model), model.len());
    let cdn = Server::start(move |request| match request.headers.contains_key("range") {
        true => Answer::status(502),
        false => Answer { cut: Some(1000), ..bytes(request, &model) },
    });
    let server = Server::start(linking(hash.clone(), size, format!("{}/bytes", cdn.url())));
    cache.fails(&server, "some/tiny-GGUF", &format!("t-Q4_K_M.gguf broke off at 1000 of {size} bytes: "));
    assert_eq!(std::fs::metadata(cache.blob(&format!("{hash}.incomplete"))).expect("a file").len(), 1000);
    assert_eq!(cdn.count(), 4);
}
