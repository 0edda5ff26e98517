//! The host's memory beside the device's: how much of it checkpoints hold, and the thread that brings them there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use segno_ir::DeviceError;

use crate::executor::Export;
use crate::image::{Coming, Image, ImageTable, WeakPage};

/// Counts bytes for as long as anybody holds them: also while they come, and until the folder has written them. A page
/// counts once, however many images see it.
#[derive(Default)]
pub(crate) struct Meter {
    pages: HashMap<usize, (WeakPage, u64)>,
    images: Vec<(Weak<Image>, u64)>,
    /// What images will hold that are on their way, by number.
    coming: HashMap<u64, u64>,
    peak: u64,
}

impl Meter {
    /// Bytes held now.
    pub fn bytes(&mut self) -> u64 {
        self.pages.retain(|_, (page, _)| page.is_held());
        self.images.retain(|(image, _)| image.strong_count() > 0);
        let pages: u64 = self.pages.values().map(|(_, bytes)| bytes).sum();
        pages + self.images.iter().map(|(_, bytes)| bytes).chain(self.coming.values()).sum::<u64>()
    }

    /// The most bytes that were ever held.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// Whether a page is counted.
    pub fn has(&self, page: &Coming) -> bool {
        self.pages.contains_key(&page.downgrade().address())
    }

    /// Counts what is on its way: its pages, and `bytes` beside them.
    pub fn begin(&mut self, number: u64, bytes: u64, export: &Export) {
        self.coming.insert(number, bytes);
        for page in export.pages() {
            let weak = page.downgrade();
            self.pages.entry(weak.address()).or_insert((weak, page.len() as u64));
        }
        self.peak = self.peak.max(self.bytes());
    }

    /// It has come, or never will.
    pub fn end(&mut self, number: u64, image: Option<&Arc<Image>>) {
        if let (Some(_), Some(image)) = (self.coming.remove(&number), image) {
            self.images.push((Arc::downgrade(image), image.own_bytes()));
        }
    }
}

/// The recurrent states and the pages of a state, or why they did not come.
pub(crate) type Arrived = Result<(Vec<f32>, Vec<ImageTable>), DeviceError>;

/// Brings states to the host in a thread of its own, in the order in which they are sent: no step waits for one.
pub(crate) struct Mover {
    jobs: Option<Sender<(u64, Export)>>,
    arrived: Receiver<(u64, Arrived)>,
    /// Somebody waits.
    urgent: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    /// How often a state under way is looked at.
    const POLL: Duration = Duration::from_micros(200);

    pub fn start(timeout: Duration) -> std::io::Result<Self> {
        let (jobs, queue) = channel::<(u64, Export)>();
        let (done, arrived) = channel();
        let urgent = Arc::new(AtomicBool::new(false));
        let hurry = urgent.clone();
        let run = move || {
            let mut lost = None;
            for (number, mut export) in queue {
                // Waiting for a device may hold up what is issued to it meanwhile; looking does not.
                while lost.is_none() && !hurry.load(Ordering::Acquire) && !export.is_here() {
                    std::thread::sleep(Self::POLL);
                }
                let result = lost.clone().map_or_else(|| export.wait(timeout), Err);
                if let Err(error @ (DeviceError::Lost { .. } | DeviceError::Timeout { .. })) = &result {
                    lost = Some(error.clone());
                }
                // An error means that nobody waits any more.
                let _ = done.send((number, result));
            }
        };
        let thread = std::thread::Builder::new().name("segno-mover".into()).spawn(run)?;
        Ok(Mover { jobs: Some(jobs), arrived, urgent, thread: Some(thread) })
    }

    /// Sends a state on its way, under a number.
    pub fn send(&self, number: u64, export: Export) {
        if let Some(jobs) = &self.jobs {
            // An error means that the thread is gone; the state then never arrives.
            let _ = jobs.send((number, export));
        }
    }

    /// The next that has arrived. `wait`: or will; `None` then means that none is under way.
    pub fn next(&self, wait: bool) -> Option<(u64, Arrived)> {
        if !wait {
            return self.arrived.try_recv().ok();
        }
        self.urgent.store(true, Ordering::Release);
        let next = self.arrived.recv().ok();
        self.urgent.store(false, Ordering::Release);
        next
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.jobs = None;
        self.urgent.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the mover of checkpoints has panicked");
        }
    }
}
