//! Checkpoints in a folder: found again after a restart, within the bytes allowed, and never wrong, whatever happens to
//! the files or to whoever writes them.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::Folder;
use segno_ir::sample::philox;
use segno_runtime::image::{Fingerprint, Image, ImageTable, Key, Made, Precision};
use segno_runtime::store::{Store, StoreOptions};

const FINGERPRINT: Fingerprint = Fingerprint { content: 3, numerics: 4 };
const PAGE_BYTES: usize = 1000;

fn folder_bytes(folder: &Folder) -> u64 {
    let files = folder.files("images").into_iter().chain(folder.files("pages"));
    files.map(|f| fs::metadata(f).map_or(0, |m| m.len())).sum()
}

fn open(path: &Path, fingerprint: Fingerprint, max_bytes: u64) -> Store {
    let options = StoreOptions { max_bytes, queue: 1000, ..StoreOptions::default() };
    Store::open(path, fingerprint, options).expect("opens")
}

/// The conversation, as far as its first `n` tokens tell: all begin with the same message.
fn at(conversation: u32, n: usize) -> u32 {
    if n <= 70 { 0 } else { conversation }
}

fn keys(conversation: u32, n: usize) -> Vec<Key> {
    (0..n).map(|i| Key::from(philox([i as u32, at(conversation, i + 1), 0, 0], [1, 1])[0])).collect()
}

/// What a conversation's checkpoint is, and nothing else may ever be loaded for its keys.
fn image_of(fingerprint: Fingerprint, conversation: u32, n: usize) -> Image {
    let random = |i: usize, end, what| philox([i as u32, at(conversation, end), what as u32, 9], [2, 2])[0];
    let page = |p: usize| {
        // The last page depends on how far it is filled.
        let what = if (p + 1) * 64 <= n { 0 } else { n };
        Arc::<[u8]>::from(
            (0..PAGE_BYTES).map(|i| random(i, n.min((p + 1) * 64), p * 10_000 + what) as u8).collect::<Vec<u8>>(),
        )
        .into()
    };
    Image {
        fingerprint,
        keys: keys(conversation, n),
        made: Made::Prefill,
        precision: Precision::F32,
        slot: (0..500).map(|i| random(i, n, n) as f32).collect(),
        tables: vec![ImageTable { first: 0, pages: (0..n.div_ceil(64)).map(page).collect() }],
        logits: n.is_multiple_of(2).then(|| vec![n as f32; 20].into()),
    }
}

fn image(conversation: u32, n: usize) -> Image {
    image_of(FINGERPRINT, conversation, n)
}

fn position(store: &Store, keys: &[Key]) -> Option<u32> {
    store.find(keys, |_| true).map(|stored| stored.position)
}

/// The images of all that is found for `keys`, the longest first.
fn load_all(store: &Store, keys: &[Key]) -> Vec<Image> {
    let (mut all, mut below) = (Vec::new(), u32::MAX);
    while let Some(stored) = store.find(keys, |s| s.position < below) {
        below = stored.position;
        if let Ok(image) = store.load(stored.id) {
            assert_eq!(image.keys.len(), below as usize);
            all.push(image);
        }
    }
    all
}

#[test]
fn checkpoints_are_found_again_and_pages_are_written_once() {
    let folder = Folder::new("again");
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    assert!(store.is_empty() && store.find(&keys(1, 100), |_| true).is_none());
    for n in [640, 100, 300, 641] {
        assert!(store.save(image(1, n)));
    }
    assert!(store.save(image(2, 200)));
    store.flush();
    for store in [store, open(&folder.0, FINGERPRINT, 1 << 30)] {
        assert_eq!((store.len(), store.bytes()), (5, folder_bytes(&folder)));
        let ask = |conversation, n| position(&store, &keys(conversation, n));
        assert_eq!((ask(1, 2000), ask(1, 641), ask(1, 640), ask(1, 639)), (Some(641), Some(641), Some(640), Some(300)));
        assert_eq!((ask(1, 99), ask(2, 199), ask(2, 200)), (None, None, Some(200)));
        let stored = store.find(&keys(1, 640), |s| !s.has_logits).map(|s| s.position);
        assert_eq!(stored, None, "all before 641 have logits");
        assert_eq!(load_all(&store, &keys(1, 641)), [641, 640, 300, 100].map(|n| image(1, n)));
        assert_eq!(load_all(&store, &keys(2, 641)), [image(2, 200)]);
    }
    // 10 whole ones of the first conversation and the unfinished ones of 100, 300 and 641; 3 of the other's, which
    // begins with the same page.
    assert_eq!(folder.files("pages").len(), 13 + 3);
}

#[test]
fn a_better_image_of_the_same_keys_takes_the_place() {
    let folder = Folder::new("better");
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    let mixed = Image { made: Made::Mixed, logits: None, ..image(1, 100) };
    store.save(mixed.clone());
    store.flush();
    assert_eq!(load_all(&store, &keys(1, 100)), std::slice::from_ref(&mixed));
    store.save(image(1, 100));
    store.save(mixed);
    store.flush();
    assert_eq!(load_all(&store, &keys(1, 100)), [image(1, 100)]);
    assert_eq!(folder.files("images").len(), 1);
}

#[test]
fn rounded_states_stay_marked() {
    let folder = Folder::new("rounded");
    let options = StoreOptions { precision: Precision::Int8, ..StoreOptions::default() };
    let store = Store::open(&folder.0, FINGERPRINT, options).expect("opens");
    store.save(image(1, 100));
    store.flush();
    let stored = store.find(&keys(1, 100), |_| true).expect("stored");
    assert_eq!(stored.precision, Precision::Int8);
    let rounded = store.load(stored.id).expect("loads");
    assert_eq!(rounded.precision, Precision::Int8);
    assert_ne!(rounded.slot, image(1, 100).slot);
    // Writing it elsewhere in full does not hide that; what is exact takes its place.
    drop(store);
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    assert!(store.find(&keys(1, 100), |s| s.precision == Precision::F32).is_none());
    store.save(rounded);
    store.flush();
    assert!(store.find(&keys(1, 100), |s| s.precision == Precision::F32).is_none());
    store.save(image(1, 100));
    store.flush();
    assert_eq!(load_all(&store, &keys(1, 100)), [image(1, 100)]);
}

#[test]
fn the_bytes_allowed_are_never_exceeded_and_the_least_used_go_first() {
    let folder = Folder::new("bytes");
    let max = 60_000;
    let store = open(&folder.0, FINGERPRINT, max);
    for i in 0..60 {
        store.save(image(i % 7, 50 + i as usize * 13));
        store.flush();
        assert!(folder_bytes(&folder) <= max && store.bytes() <= max, "{} bytes", folder_bytes(&folder));
        assert_eq!(position(&store, &keys(i % 7, 2000)), Some(50 + i * 13), "the last one is there");
        assert!(load_all(&store, &keys(i % 7, 2000)).iter().all(|got| *got == image(i % 7, got.keys.len())));
    }
    assert!(store.len() > 2, "{}", store.len());
    // One that can never fit leaves the others alone.
    let before = store.len();
    store.save(image(1, 64 * 70));
    store.flush();
    assert_eq!((store.len(), position(&store, &keys(1, 64 * 70)) < Some(4480)), (before, true));

    // Age decides first.
    let folder = Folder::new("age");
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    assert!((1..=3).all(|c| store.save(image(c, 320))));
    store.flush();
    let old = folder.files("images");
    drop(store);
    for (i, path) in old.iter().enumerate() {
        let hours = [10, 50, 0][i] * 3600;
        let file = fs::File::options().append(true).open(path).expect("opens");
        file.set_modified(SystemTime::now() - Duration::from_secs(hours)).expect("sets the time");
    }
    let store = open(&folder.0, FINGERPRINT, folder_bytes(&folder) + 3000);
    store.save(image(4, 320));
    store.flush();
    let left = folder.files("images");
    assert!(left.contains(&old[0]) && !left.contains(&old[1]) && left.contains(&old[2]));
    // Using the older one saves it: the other is now the oldest.
    let old_image = (1..=3).flat_map(|c| load_all(&store, &keys(c, 320))).count();
    assert_eq!(old_image, 2);
}

#[test]
fn use_is_remembered_over_a_restart() {
    let folder = Folder::new("use");
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    assert!((1..=2).all(|c| store.save(image(c, 320))));
    store.flush();
    drop(store);
    for path in folder.files("images") {
        let file = fs::File::options().append(true).open(path).expect("opens");
        file.set_modified(SystemTime::now() - Duration::from_secs(10_000)).expect("sets the time");
    }
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    assert_eq!(load_all(&store, &keys(1, 320)).len(), 1);
    drop(store);
    let store = open(&folder.0, FINGERPRINT, folder_bytes(&folder) + 3000);
    store.save(image(3, 320));
    store.flush();
    assert_eq!([1, 2, 3].map(|c| load_all(&store, &keys(c, 320)).len()), [1, 0, 1]);
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = Folder::new("others");
    let other = Fingerprint { content: 9, numerics: 4 };
    let store = open(&folder.0, other, 1 << 30);
    store.save(image_of(other, 1, 100));
    store.flush();
    drop(store);
    let name = |n: u8| folder.0.join("images").join(format!("{:032x}.image", n));
    let newer = fs::read(&folder.files("images")[0]).expect("reads");
    for (n, at, value) in [(1, 12, 2), (2, 8, 1)] {
        let mut bytes = newer.clone();
        bytes[at] = value;
        fs::write(name(n), bytes).expect("writes");
    }
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    assert!(store.is_empty() && store.find(&keys(1, 100), |_| true).is_none());
    assert!(!store.save(image_of(other, 1, 200)));
    store.save(image(1, 100));
    store.flush();
    assert_eq!((store.len(), folder.files("images").len()), (1, 4));
    assert_eq!(load_all(&open(&folder.0, other, 1 << 30), &keys(1, 100)), [image_of(other, 1, 100)]);
    // Under another one's name a file is refused, whatever it says.
    fs::copy(&folder.files("images")[2], name(7)).expect("copies");
    assert_eq!(open(&folder.0, FINGERPRINT, 1 << 30).len(), 1);
    assert!(!name(7).exists(), "it can never be read");
    // Only when there is no room they go.
    let store = open(&folder.0, FINGERPRINT, 14_000);
    store.save(image(2, 300));
    store.flush();
    assert!(folder_bytes(&folder) <= 14_000 && !name(1).exists());
    assert_eq!(load_all(&store, &keys(2, 300)), [image(2, 300)]);
}

#[test]
fn damage_is_refused_and_mended_by_the_next_save() {
    let folder = Folder::new("damage");
    let store = open(&folder.0, FINGERPRINT, 1 << 30);
    store.save(image(1, 320));
    store.flush();
    let files = [folder.files("images"), folder.files("pages")].concat();
    for (i, path) in files.iter().enumerate() {
        for kind in 0..3 {
            let good = fs::read(path).expect("reads");
            let mut bad = good.clone();
            match kind {
                0 => bad[good.len() / 2] ^= 4,
                1 => bad.truncate(good.len() - 1),
                _ => bad.clear(),
            }
            // Maps of the file live on: it is replaced, not written.
            fs::remove_file(path).expect("removes");
            if kind < 2 || i % 2 == 0 {
                fs::write(path, bad).expect("writes");
            }
            for store in [&store, &open(&folder.0, FINGERPRINT, 1 << 30)] {
                let got = load_all(store, &keys(1, 320));
                assert!(got.is_empty(), "{}", path.display());
                assert!(store.find(&keys(1, 320), |_| true).is_none(), "not found again");
                store.flush();
            }
            store.save(image(1, 320));
            store.flush();
            assert_eq!(load_all(&store, &keys(1, 320)), [image(1, 320)]);
            assert!(fs::read(path).expect("reads") == good);
        }
    }
}

#[test]
fn a_full_queue_drops_and_never_waits() {
    let folder = Folder::new("queue");
    let options = StoreOptions { max_bytes: 1 << 30, queue: 3, ..StoreOptions::default() };
    let store = Store::open(&folder.0, FINGERPRINT, options).expect("opens");
    let lock = fs::File::open(folder.0.join("lock")).expect("opens");
    fs4::FileExt::lock(&lock).expect("locks");
    let images: Vec<Image> = (1..=10).map(|i| image(i, 100)).collect();
    let begun = Instant::now();
    let taken = images.into_iter().filter(|image| store.save(image.clone())).count();
    assert_eq!(taken, 3);
    assert!(begun.elapsed() < Duration::from_millis(200));
    fs4::FileExt::unlock(&lock).expect("unlocks");
    store.flush();
    assert_eq!(store.len(), 3);
    assert!(store.save(image(11, 100)));
}

#[test]
fn two_writers_in_one_folder_do_no_harm() {
    let folder = Folder::new("two");
    open(&folder.0, FINGERPRINT, 1);
    std::thread::scope(|scope| {
        for writer in 0..3u32 {
            let folder = &folder;
            scope.spawn(move || {
                // So little room that each removes what the others have written.
                let store = open(&folder.0, FINGERPRINT, 40_000);
                for i in 0..60u32 {
                    let (conversation, n) = ((i * 7 + writer) % 4, 60 + (i as usize * 37) % 300);
                    store.save(image(conversation, n));
                    for image_read in load_all(&store, &keys(i % 4, 400)) {
                        assert_eq!(image_read, image(i % 4, image_read.keys.len()));
                    }
                }
            });
        }
    });
    assert!(folder_bytes(&folder) <= 40_000);
    let store = open(&folder.0, FINGERPRINT, 40_000);
    assert!(!store.is_empty());
    for conversation in 0..4 {
        for image_read in load_all(&store, &keys(conversation, 400)) {
            assert_eq!(image_read, image(conversation, image_read.keys.len()));
        }
    }
}

const KILL_FOLDER: &str = "SEGNO_TEST_KILL_FOLDER";
const KILL_BYTES: u64 = 150_000;

/// Saves for ever.
#[test]
#[ignore = "is run, and killed, by a_killed_writer_leaves_nothing_wrong"]
fn writer_to_be_killed() {
    let folder = std::env::var_os(KILL_FOLDER).expect("set by the test that runs this one");
    let store = open(Path::new(&folder), FINGERPRINT, KILL_BYTES);
    let seed = std::process::id();
    println!("ready");
    for i in 0.. {
        let random = philox([i, seed, 0, 0], [3, 3]);
        store.save(image(random[0] % 5, 1 + random[1] as usize % 400));
        if i % 4 == 0 {
            store.flush();
        }
    }
}

#[test]
fn a_killed_writer_leaves_nothing_wrong() {
    let folder = Folder::new("kill");
    let (mut loaded, mut temporary) = (0, 0);
    for kill in 0..200u32 {
        let mut writer = Command::new(std::env::current_exe().expect("this test"))
            .args(["writer_to_be_killed", "--exact", "--ignored", "--nocapture"])
            .env(KILL_FOLDER, &folder.0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let stdout = std::io::BufReader::new(writer.stdout.take().expect("piped"));
        let ready = std::io::BufRead::lines(stdout).map_while(Result::ok).any(|line| line.contains("ready"));
        assert!(ready, "the writer has ended by itself");
        std::thread::sleep(Duration::from_micros(u64::from(philox([kill, 0, 0, 0], [4, 4])[0] % 60_000)));
        writer.kill().expect("is killed");
        writer.wait().expect("has ended");

        let is_temporary = |path: &&PathBuf| path.extension().is_some_and(|e| e == "tmp");
        let files = || [folder.files("images"), folder.files("pages")].concat();
        temporary += files().iter().filter(is_temporary).count();
        assert!(folder_bytes(&folder) <= KILL_BYTES);
        let store = open(&folder.0, FINGERPRINT, KILL_BYTES);
        assert_eq!(files().iter().filter(is_temporary).count(), 0);
        let mut images = HashMap::new();
        for conversation in 0..5 {
            for read in load_all(&store, &keys(conversation, 400)) {
                assert!(read == image(conversation, read.keys.len()), "after kill {kill}");
                images.insert(read.keys.clone(), read);
            }
        }
        loaded += images.len();
        // Nothing is renamed before it is whole.
        assert_eq!(images.len(), store.len(), "not all load after kill {kill}");
    }
    println!("{loaded} checkpoints loaded, {temporary} temporary files found");
    assert!(loaded > 200 && temporary > 0, "the kills came at useless moments: {loaded}, {temporary}");
}
