//! Checkpoints in a folder: written in the background, found again after a restart.
//!
//! ```text
//! DIR/images/NAME.image   keys, states, logits, names of pages; NAME = hash of fingerprint and keys
//! DIR/pages/HASH.page     a page, written once however many checkpoints see it
//! DIR/lock                held while files are written or removed
//! ```
//! A file is written beside its place (`.tmp`), synced and renamed, pages before the image that names them. So a kill
//! leaves whole files and temporary ones, and whoever next holds the lock removes those. Readers take no lock: a page
//! that another process has removed meanwhile is a checkpoint that is not there.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use memmap2::Mmap;
use twox_hash::XxHash3_128;

use crate::image::{
    Bytes, Fingerprint, Image, ImageError, Key, Made, Page, Pages, Precision, View, decode_page, encode_page,
    page_file_bytes,
};
use crate::tree::{EntryId, Tree};

/// How a folder of checkpoints is used.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Most bytes of all files together, those of other models included, temporary ones too.
    pub max_bytes: u64,
    /// How recurrent states are stored. Anything but [`Precision::F32`] gives other replies.
    pub precision: Precision,
    /// Checkpoints that may wait to be written; one more is dropped.
    pub queue: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { max_bytes: 16 << 30, precision: Precision::F32, queue: 4 }
    }
}

/// Names a stored checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(u128);

/// What is known of a stored checkpoint before it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub id: ImageId,
    /// Keys that it has read.
    pub position: u32,
    /// How.
    pub made: Made,
    /// How its states are stored.
    pub precision: Precision,
    /// Whether it has logits.
    pub has_logits: bool,
}

/// Checkpoints in a folder, of one model computed in one way. Several processes may share the folder.
pub struct Store {
    shared: Arc<Shared>,
    /// Images in the queue.
    waiting: Arc<AtomicUsize>,
    /// Both are there until the store is dropped.
    queue: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    fingerprint: Fingerprint,
    options: StoreOptions,
    index: Mutex<Index>,
}

enum Job {
    Save(Arc<Image>),
    /// Was loaded.
    Touch(ImageId),
    /// Was refused, with the pages that were.
    Discard(ImageId, Vec<(u128, usize)>),
    Flush(SyncSender<()>),
}

/// The images of a folder.
#[derive(Default)]
struct Index {
    files: HashMap<ImageId, Known>,
    trees: HashMap<Fingerprint, Tree<ImageId>>,
    /// Were not read; not tried again while they are there.
    refused: HashSet<ImageId>,
    /// Of all files, as of the last look.
    bytes: u64,
    /// Why the last file that cannot be used here cannot.
    refusal: Option<String>,
}

struct Known {
    fingerprint: Fingerprint,
    entry: EntryId,
    stored: Stored,
    bytes: u64,
    used: SystemTime,
    /// Each once, with its size.
    pages: HashMap<u128, u64>,
}

/// What the index needs of an image.
struct Header {
    fingerprint: Fingerprint,
    keys: Vec<Key>,
    stored: Stored,
    pages: HashMap<u128, u64>,
}

impl Index {
    fn remove(&mut self, id: ImageId) -> Option<Known> {
        let known = self.files.remove(&id)?;
        if let Some(tree) = self.trees.get_mut(&known.fingerprint) {
            tree.remove(known.entry);
        }
        Some(known)
    }

    /// Takes a file in, instead of the one of the same name.
    fn add(&mut self, header: Header, file: Found) {
        let Header { fingerprint, keys, stored, pages } = header;
        self.remove(stored.id);
        self.refused.remove(&stored.id);
        // An error would be another name with the same keys, which a header cannot have.
        if let Ok(entry) = self.trees.entry(fingerprint).or_insert_with(Tree::new).insert(&keys, stored.id) {
            let known = Known { fingerprint, entry, stored, bytes: file.bytes, used: file.modified, pages };
            self.files.insert(stored.id, known);
        }
    }

    /// How many images see each page.
    fn users(&self) -> HashMap<u128, u32> {
        let mut users = HashMap::new();
        for &page in self.files.values().flat_map(|known| known.pages.keys()) {
            *users.entry(page).or_default() += 1;
        }
        users
    }

    /// The image that is worth least. First by the time since its last use, in classes that double from a minute on;
    /// then by tokens that need not be read again, per byte that would be free.
    fn least(&self, users: &HashMap<u128, u32>, stuck: &HashSet<ImageId>) -> Option<ImageId> {
        let now = SystemTime::now();
        let mut least: Option<(u32, f64, ImageId)> = None;
        for tree in self.trees.values() {
            for placed in tree.placed() {
                let Some((id, known)) = tree.get(placed.id).and_then(|id| Some((*id, self.files.get(id)?))) else {
                    continue;
                };
                let minutes = now.duration_since(known.used).unwrap_or_default().as_secs() / 60;
                let class = (1 + minutes).ilog2();
                let alone = known.pages.iter().filter(|(page, _)| users.get(page) == Some(&1)).map(|(_, bytes)| bytes);
                let bytes = known.bytes + alone.sum::<u64>();
                let worth = f64::from(placed.position - placed.previous) / bytes as f64;
                let less = least.is_none_or(|(c, w, _)| class > c || (class == c && worth < w));
                if less && !stuck.contains(&id) {
                    least = Some((class, worth, id));
                }
            }
        }
        least.map(|(_, _, id)| id)
    }
}

/// What a look into the folder found beside images.
#[derive(Default)]
struct Folder {
    pages: HashMap<u128, u64>,
    /// Files that cannot be read here.
    others: Vec<(PathBuf, u64)>,
    /// Of all files.
    bytes: u64,
}

/// Bytes and time of last use of a file.
#[derive(Clone, Copy, PartialEq)]
struct Found {
    bytes: u64,
    modified: SystemTime,
}

/// Releases the folder's lock.
struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs4::FileExt::unlock(self.0) {
            log::warn!("the lock of the checkpoint folder cannot be released: {error}");
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |error| ImageError::Io { place: path.display().to_string(), error }
}

/// Whether a file with this error can never be read, by any version.
fn is_damage(error: &ImageError) -> bool {
    matches!(error, ImageError::Truncated { .. } | ImageError::Checksum { .. } | ImageError::Malformed { .. })
}

/// Maps a file.
fn map(path: &Path) -> Result<Bytes, ImageError> {
    let file = File::open(path).map_err(io_error(path))?;
    // SAFETY: the mapping is read-only and lives as long as its users. Files of the folder are never written in place
    // (they are renamed to where they are); that nobody else truncates them is documented at `Store::open`.
    match unsafe { Mmap::map(&file) } {
        Ok(map) => Ok(Arc::new(map)),
        Err(error) => {
            log::debug!("{} cannot be mapped ({error}); it is read instead", path.display());
            Ok(Arc::new(fs::read(path).map_err(io_error(path))?))
        }
    }
}

fn name_of(fingerprint: Fingerprint, keys: &[Key]) -> ImageId {
    let mut hash = XxHash3_128::new();
    hash.write(&fingerprint.content.to_le_bytes());
    hash.write(&fingerprint.numerics.to_le_bytes());
    keys.iter().for_each(|key| hash.write(&key.0.to_le_bytes()));
    ImageId(hash.finish_128())
}

/// Reads an image without its states.
fn read_header(path: &Path, id: ImageId) -> Result<Header, ImageError> {
    let file = map(path)?;
    let view = View::parse((*file).as_ref())?;
    let keys = view.keys()?;
    check_name(id, view.fingerprint, &keys)?;
    let tables = view.tables(keys.len())?;
    let pages = tables.iter().flat_map(|t| t.hashes.iter().map(|&hash| (hash, page_file_bytes(t.page_bytes))));
    let stored = Stored {
        id,
        position: keys.len() as u32,
        made: view.made,
        precision: view.precision,
        has_logits: view.has_logits(),
    };
    Ok(Header { fingerprint: view.fingerprint, pages: pages.collect(), keys, stored })
}

fn check_name(id: ImageId, fingerprint: Fingerprint, keys: &[Key]) -> Result<(), ImageError> {
    match name_of(fingerprint, keys) == id {
        true => Ok(()),
        false => Err(ImageError::Malformed {
            place: "section keys".into(),
            reason: "the file has another checkpoint's name".into(),
        }),
    }
}

/// Writes a file beside its place, syncs it, and moves it there.
fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let written = File::create(&beside).and_then(|file| {
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // What stays is removed by whoever holds the lock next.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Makes renames last; only Unix can.
fn sync_folder(path: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(path)?.sync_all(),
        false => Ok(()),
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image_path(&self, id: ImageId) -> PathBuf {
        self.folder.join("images").join(format!("{:032x}.image", id.0))
    }

    fn page_path(&self, hash: u128) -> PathBuf {
        self.folder.join("pages").join(format!("{hash:032x}.page"))
    }

    /// Calls `each` with path, hash in the name, and metadata of the files of a kind. Others go to `folder`;
    /// temporary ones are removed if nobody can be writing them.
    fn list(
        &self,
        kind: &str,
        locked: bool,
        folder: &mut Folder,
        mut each: impl FnMut(&mut Folder, PathBuf, u128, Found),
    ) -> Result<(), ImageError> {
        let path = self.folder.join(format!("{kind}s"));
        for entry in fs::read_dir(&path).map_err(io_error(&path))? {
            let path = entry.map_err(io_error(&path))?.path();
            // Another process may have removed it meanwhile.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let found =
                Found { bytes: metadata.len(), modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH) };
            let extension = path.extension().and_then(|e| e.to_str());
            if locked && extension == Some("tmp") && fs::remove_file(&path).is_ok() {
                log::info!("removed {}, which was not finished", path.display());
                continue;
            }
            folder.bytes += found.bytes;
            let stem = path.file_stem().and_then(|s| s.to_str()).filter(|s| s.len() == 32 && extension == Some(kind));
            match stem.and_then(|s| u128::from_str_radix(s, 16).ok()).filter(|_| metadata.is_file()) {
                Some(hash) => each(folder, path, hash, found),
                None => folder.others.push((path, found.bytes)),
            }
        }
        Ok(())
    }

    /// Looks into the folder and brings the index up to date. `locked`: whether the caller holds the lock, so that
    /// what is unfinished or damaged may be removed.
    fn scan(&self, locked: bool) -> Result<Folder, ImageError> {
        let mut folder = Folder::default();
        let mut seen = HashSet::new();
        self.list("image", locked, &mut folder, |folder, path, name, found| {
            let id = ImageId(name);
            seen.insert(id);
            let (known, refused) = {
                let index = self.index();
                (index.files.get(&id).map(|k| Found { bytes: k.bytes, modified: k.used }), index.refused.contains(&id))
            };
            if refused {
                return folder.others.push((path, found.bytes));
            }
            if known == Some(found) {
                return;
            }
            match read_header(&path, id) {
                Ok(header) => {
                    if let Err(error) = header.fingerprint.expect(self.fingerprint) {
                        log::info!("checkpoint {} is not for here: {error}", path.display());
                        self.index().refusal = Some(error.to_string());
                    }
                    self.index().add(header, found);
                }
                Err(error) => {
                    log::warn!("checkpoint {} is not used: {error}", path.display());
                    self.index().refusal = Some(error.to_string());
                    if locked && is_damage(&error) && fs::remove_file(&path).is_ok() {
                        folder.bytes -= found.bytes;
                        seen.remove(&id);
                    } else {
                        self.index().refused.insert(id);
                        folder.others.push((path, found.bytes));
                    }
                }
            }
        })?;
        self.list("page", locked, &mut folder, |folder, _, hash, found| {
            folder.pages.insert(hash, found.bytes);
        })?;
        let mut index = self.index();
        let gone: Vec<ImageId> = index.files.keys().filter(|id| !seen.contains(id)).copied().collect();
        gone.into_iter().for_each(|id| drop(index.remove(id)));
        index.refused.retain(|id| seen.contains(id));
        index.bytes = folder.bytes;
        Ok(folder)
    }

    /// Whether what is stored makes a state superfluous that would be stored with this `precision`.
    fn covers(&self, id: ImageId, made: Made, precision: Precision, has_logits: bool) -> bool {
        self.index().files.get(&id).is_some_and(|known| {
            let stored = known.stored;
            stored.made <= made
                && (stored.precision == Precision::F32 || stored.precision == precision)
                && (stored.has_logits || !has_logits)
        })
    }

    fn covers_image(&self, image: &Image, id: ImageId) -> bool {
        self.covers(id, image.made, image.stored_as(self.options.precision), image.logits.is_some())
    }

    /// Removes what is worth least until `need` bytes fit; pages in `pinned` stay. The lock must be held.
    fn make_room(&self, folder: &mut Folder, need: u64, pinned: &HashMap<u128, u64>) -> bool {
        let max = self.options.max_bytes;
        let remove = |folder: &mut Folder, path: &Path, bytes: u64| match fs::remove_file(path) {
            Ok(()) => {
                folder.bytes = folder.bytes.saturating_sub(bytes);
                true
            }
            Err(error) => {
                log::warn!("{} cannot be removed: {error}", path.display());
                false
            }
        };
        let mut stuck = HashSet::new();
        loop {
            let mut users = self.index().users();
            pinned.keys().for_each(|&page| *users.entry(page).or_default() += 1);
            // Pages that no image sees: of a killed writer, or of the image that went last.
            let unused: Vec<(u128, u64)> =
                folder.pages.iter().filter(|(page, _)| !users.contains_key(page)).map(|(&p, &b)| (p, b)).collect();
            for (page, bytes) in unused {
                if folder.bytes + need > max {
                    remove(folder, &self.page_path(page), bytes);
                    folder.pages.remove(&page);
                }
            }
            while folder.bytes + need > max
                && let Some((path, bytes)) = folder.others.pop()
            {
                remove(folder, &path, bytes);
            }
            if folder.bytes + need <= max {
                return true;
            }
            let Some(id) = self.index().least(&users, &stuck) else { return false };
            let bytes = self.index().files.get(&id).map_or(0, |known| known.bytes);
            match remove(folder, &self.image_path(id), bytes) {
                true => drop(self.index().remove(id)),
                false => drop(stuck.insert(id)),
            }
        }
    }

    /// Writes an image and those of its pages that are not there. The lock must be held.
    fn write(&self, image: &Image) -> Result<(), ImageError> {
        let mut folder = self.scan(true)?;
        let id = name_of(image.fingerprint, &image.keys);
        if self.covers_image(image, id) {
            return Ok(());
        }
        let path = self.image_path(id);
        let mut bytes = Vec::new();
        image.encode(&mut bytes, self.options.precision, Pages::Elsewhere).map_err(io_error(&path))?;
        let all: HashMap<u128, &Page> = image.tables.iter().flat_map(|t| &t.pages).map(|p| (p.hash(), p)).collect();
        let pages: HashMap<u128, u64> = all.iter().map(|(&hash, page)| (hash, page_file_bytes(page.len()))).collect();
        let most = bytes.len() as u64 + pages.values().sum::<u64>();
        // A page of another length is damaged; it is written again.
        let new: Vec<u128> = pages.keys().filter(|hash| folder.pages.get(hash) != pages.get(hash)).copied().collect();
        let need = bytes.len() as u64 + new.iter().map(|hash| pages[hash]).sum::<u64>();
        if most > self.options.max_bytes || !self.make_room(&mut folder, need, &pages) {
            log::warn!(
                "a checkpoint of {} tokens needs {need} bytes more than fit into {}; it is not kept",
                image.keys.len(),
                self.folder.display()
            );
            return Ok(());
        }
        for hash in &new {
            let path = self.page_path(*hash);
            write_file(&path, |file| encode_page(all[hash], file)).map_err(io_error(&path))?;
        }
        if !new.is_empty() {
            let pages = self.folder.join("pages");
            sync_folder(&pages).map_err(io_error(&pages))?;
        }
        write_file(&path, |file| file.write_all(&bytes)).map_err(io_error(&path))?;
        let images = self.folder.join("images");
        sync_folder(&images).map_err(io_error(&images))?;
        let modified = fs::metadata(&path).and_then(|m| m.modified()).map_err(io_error(&path))?;
        let stored = Stored {
            id,
            position: image.keys.len() as u32,
            made: image.made,
            precision: image.stored_as(self.options.precision),
            has_logits: image.logits.is_some(),
        };
        let file = Found { bytes: bytes.len() as u64, modified };
        let mut index = self.index();
        index.add(Header { fingerprint: image.fingerprint, keys: image.keys.clone(), stored, pages }, file);
        index.bytes = folder.bytes + need;
        Ok(())
    }

    /// Says in the file itself that it was used.
    fn touch(&self, id: ImageId) {
        let now = SystemTime::now();
        if let Some(known) = self.index().files.get_mut(&id) {
            known.used = now;
        }
        let touched = File::options().append(true).open(self.image_path(id)).and_then(|f| f.set_modified(now));
        if let Err(error) = touched {
            log::debug!("the use of a checkpoint is not noted: {error}");
        }
    }

    fn load_page(&self, hash: u128, page_bytes: usize) -> Result<Page, ImageError> {
        decode_page(&map(&self.page_path(hash))?, hash, page_bytes)
    }

    /// Removes a refused image, and those of the pages that were refused with it. The lock must be held.
    fn discard(&self, id: ImageId, pages: &[(u128, usize)]) {
        for &(hash, page_bytes) in pages {
            // Another process may have written it again.
            if self.load_page(hash, page_bytes).is_err_and(|error| is_damage(&error)) {
                let _ = fs::remove_file(self.page_path(hash));
            }
        }
        let _ = fs::remove_file(self.image_path(id));
    }

    fn run(&self, lock: &File, jobs: &Receiver<Job>, waiting: &AtomicUsize) {
        let locked = || match fs4::FileExt::lock(lock) {
            Ok(()) => Some(Locked(lock)),
            Err(error) => {
                log::warn!("the checkpoint folder {} cannot be locked: {error}", self.folder.display());
                None
            }
        };
        for job in jobs {
            match job {
                Job::Save(image) => {
                    if let Some(_locked) = locked()
                        && let Err(error) = self.write(&image)
                    {
                        log::warn!("a checkpoint of {} tokens is not kept: {error}", image.keys.len());
                    }
                    waiting.fetch_sub(1, Ordering::AcqRel);
                }
                Job::Discard(id, pages) => {
                    if let Some(_locked) = locked() {
                        self.discard(id, &pages);
                    }
                }
                Job::Touch(id) => self.touch(id),
                // An error means that nobody waits any more.
                Job::Flush(done) => drop(done.send(())),
            }
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.shared.folder.display())
    }
}

impl Store {
    /// Opens a folder, which is made if it is not there, and reads the headers of its images; states and pages are
    /// checked when they are loaded. Images of other models, versions or byte orders stay where they are and are not
    /// found; damaged ones are removed; the log says why. What killed writers have left is removed.
    ///
    /// The folder is as private as the conversations in it. Nobody may truncate its files while they are mapped.
    pub fn open(folder: &Path, fingerprint: Fingerprint, options: StoreOptions) -> Result<Self, ImageError> {
        for part in ["images", "pages"] {
            let path = folder.join(part);
            create_folder(&path).map_err(io_error(&path))?;
        }
        let path = folder.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(io_error(&path))?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let shared = Shared { folder: folder.to_owned(), fingerprint, options, index: Mutex::default() };
        // If somebody is writing, that one cleans up.
        let locked = fs4::FileExt::try_lock(&lock).is_ok().then(|| Locked(&lock));
        shared.scan(locked.is_some())?;
        drop(locked);
        let shared = Arc::new(shared);
        let (queue, jobs) = channel();
        let (writer_shared, writer_waiting) = (shared.clone(), waiting.clone());
        let writer = std::thread::Builder::new().name("segno-store".into());
        let writer =
            writer.spawn(move || writer_shared.run(&lock, &jobs, &writer_waiting)).map_err(io_error(folder))?;
        Ok(Store { shared, queue: Some(queue), waiting, writer: Some(writer) })
    }

    fn send(&self, job: Job) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.send(job).is_ok())
    }

    /// Of the images whose keys `keys` begin with and that `fits` takes, the one with most.
    pub fn find(&self, keys: &[Key], fits: impl Fn(&Stored) -> bool) -> Option<Stored> {
        let index = self.shared.index();
        let tree = index.trees.get(&self.shared.fingerprint)?;
        let within = tree.find(keys).within.into_iter().rev();
        within.filter_map(|entry| Some(index.files.get(tree.get(entry)?)?.stored)).find(fits)
    }

    /// An image that shares at least `common` keys with `keys` and goes on differently.
    pub fn find_beyond(&self, keys: &[Key], common: u32) -> Option<Stored> {
        let index = self.shared.index();
        let tree = index.trees.get(&self.shared.fingerprint)?;
        let found = tree.find(keys);
        let entry = found.beyond.filter(|_| found.common >= common as usize)?;
        Some(index.files.get(tree.get(entry)?)?.stored)
    }

    /// Reads an image and checks all of it. Its pages are views of mapped files.
    ///
    /// # Errors
    /// It is not found again; what is damaged is removed in the background.
    pub fn load(&self, id: ImageId) -> Result<Image, ImageError> {
        let mut bad = Vec::new();
        let mut fetch =
            |hash, page_bytes| self.shared.load_page(hash, page_bytes).inspect_err(|_| bad.push((hash, page_bytes)));
        let image = map(&self.shared.image_path(id)).and_then(|file| {
            let image = Image::decode(&file, self.shared.fingerprint, &mut fetch)?;
            check_name(id, image.fingerprint, &image.keys)?;
            Ok(image)
        });
        match &image {
            Ok(_) => drop(self.send(Job::Touch(id))),
            Err(error) => {
                log::warn!("checkpoint {} is not used: {error}", self.shared.image_path(id).display());
                let mut index = self.shared.index();
                index.remove(id);
                index.refused.insert(id);
                let gone = matches!(error, ImageError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound);
                if is_damage(error) || gone {
                    self.send(Job::Discard(id, bad));
                }
            }
        }
        image
    }

    /// Whether a state after `keys` need not be saved: one at least as good is there.
    pub fn covers(&self, keys: &[Key], made: Made, has_logits: bool) -> bool {
        let id = name_of(self.shared.fingerprint, keys);
        let covered = self.shared.covers(id, made, self.shared.options.precision, has_logits);
        covered && self.send(Job::Touch(id))
    }

    /// All images that [`find`](Self::find) can find, by ascending position.
    pub fn list(&self) -> Vec<Stored> {
        let index = self.shared.index();
        let own = index.files.values().filter(|known| known.fingerprint == self.shared.fingerprint);
        let mut all: Vec<Stored> = own.map(|known| known.stored).collect();
        all.sort_by_key(|stored| (stored.position, stored.id));
        all
    }

    /// Why the last image that is not for here was refused, if there is one.
    pub fn refusal(&self) -> Option<String> {
        self.shared.index().refusal.clone()
    }

    /// Hands an image to the writer; says whether it took it. Never waits: an image that finds the queue full, or
    /// that is of another model than the store, is dropped with a line in the log.
    pub fn save(&self, image: impl Into<Arc<Image>>) -> bool {
        let image = image.into();
        let id = name_of(image.fingerprint, &image.keys);
        if image.fingerprint != self.shared.fingerprint {
            log::warn!("a checkpoint of another model is not kept");
            return false;
        }
        if self.shared.covers_image(&image, id) {
            return self.send(Job::Touch(id));
        }
        let room = |n| (n < self.shared.options.queue).then_some(n + 1);
        if self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            let n = image.keys.len();
            log::warn!("a checkpoint of {n} tokens is not kept: the disk is slower than they come");
            return false;
        }
        self.send(Job::Save(image))
    }

    /// Whether nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Waits until all that was handed over is written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.send(Job::Flush(done)) {
            // An error means that the writer is gone, and with it all it had to do.
            let _ = wait.recv();
        }
    }

    /// Bytes of all files in the folder, as of the last time it was looked at.
    pub fn bytes(&self) -> u64 {
        self.shared.index().bytes
    }

    /// Images that [`find`](Self::find) can find.
    pub fn len(&self) -> usize {
        self.shared.index().trees.get(&self.shared.fingerprint).map_or(0, Tree::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Writes what is waiting, then ends.
impl Drop for Store {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            log::error!("the writer of checkpoints has panicked");
        }
    }
}
