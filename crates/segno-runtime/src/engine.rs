//! The engine: one thread that owns an executor, takes requests and sends tokens.
//!
//! Requests are batched continuously: every step carries one row of each sequence that is
//! generating, and pieces of the prompts that are still being read. What was read is remembered as
//! checkpoints; a later prompt is read from where it parts from them. A prompt whose beginning is
//! just being read for another waits for that. Where sequences together need more pages than there
//! are, the youngest gives way: its state stays as a checkpoint, and it goes on once another has ended.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt};
use segno_ir::sample::{SampleParams, SampleRow};
use segno_ir::{Cancel, DeviceError, Input, Output, PAGE_TOKENS, Pending, SpanKind, Ticket};

use crate::checkpoints::{CheckpointMode, CheckpointOptions, CheckpointStats, Checkpoints, Planned, Reuse, Why};
use crate::executor::{Executor, ExecutorError, Frozen, Issued, SequenceId, Work};
use crate::image::{ImageError, Key, Made};
use crate::ledger::Ledger;
use crate::sampler::{Chain, Sampling, SamplingError};
use crate::store::{Store, StoreOptions};

/// How an engine schedules.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Requests that may wait; more are refused.
    pub max_queued: usize,
    /// Longest wait for a step, in seconds.
    pub step_timeout: Duration,
    /// Target for a step that others' tokens wait for.
    pub shared_step: Duration,
    /// What is remembered of prompts and replies.
    pub checkpoints: CheckpointOptions,
    /// A folder where checkpoints outlive the program; of [`CheckpointMode::Tree`] only.
    pub store: Option<Arc<Store>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            max_queued: 64,
            step_timeout: Duration::from_secs(120),
            shared_step: Duration::from_millis(50),
            checkpoints: CheckpointOptions::default(),
            store: None,
        }
    }
}

/// A row of a prompt that is no token: part of an image, say.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddedRow {
    /// Its position in the prompt; the token there is not read.
    pub position: usize,
    /// As many values as the model is wide.
    pub values: Arc<[f32]>,
    /// Hash of what it stands for: rows of equal hash are the same.
    pub content: u128,
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Rows in place of some of its tokens, by ascending position.
    pub rows: Vec<EmbeddedRow>,
    /// Positions at which messages end, ascending: good places for checkpoints.
    pub borders: Vec<u32>,
    /// Neither goes on from what is remembered nor leaves anything behind.
    pub forget: bool,
    /// Most tokens to generate; the context's end stops earlier.
    pub max_tokens: usize,
    /// How to draw.
    pub params: SampleParams,
    /// Draws on the host by this chain instead, with the seed of `params`.
    pub host: Option<Sampling>,
    /// Added to the logits of some tokens.
    pub bias: Vec<(u32, f32)>,
    /// Tokens that end the reply; they are not part of it.
    pub stop: Vec<u32>,
}

/// Why a request was refused or broken off.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to read.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("token {id} at position {position} of the prompt is outside the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        id: u32,
        /// Where it stands.
        position: usize,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// An embedded row that cannot stand where it is said to.
    #[error("embedded row {0} is outside the prompt, out of order, or not {1} numbers")]
    Row(usize, usize),
    /// A sampler has a value without a meaning.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The prompt leaves no room for a reply.
    #[error("the prompt has {tokens} tokens and the context {n_ctx}; shorten it or raise -c")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The planned context.
        n_ctx: u32,
    },
    /// Too many wait already.
    #[error("{0} requests are waiting already; try again later")]
    QueueFull(usize),
    /// The device or the executor failed.
    #[error("{0}")]
    Failed(String),
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was drawn.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
    /// The caller gave up.
    Cancelled,
}

/// What a generation cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose state was there already.
    pub reused_tokens: usize,
    /// Where it came from.
    pub reuse: Reuse,
    /// Checkpoints taken.
    pub saved: usize,
    /// Time that they took on the host.
    pub save_time: Duration,
    /// Times that it gave way to others, for want of pages.
    pub parked: u32,
    /// What all checkpoints hold, at the end.
    pub checkpoints: CheckpointStats,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// From the start of the work to the first token.
    pub prompt_time: Duration,
    /// From there to the last.
    pub generation_time: Duration,
    /// Why it ended.
    pub finish: Finish,
}

/// What a generation sends.
#[derive(Clone, Debug)]
pub enum Event {
    /// So much of the prompt has been read.
    Prompt {
        /// Tokens whose state is there.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// The next token of the reply.
    Token(u32),
    /// The end.
    Done(Report),
    /// The end, with an error.
    Failed(RequestError),
}

/// A reply under way: a stream of events. Dropping it cancels the request.
pub struct Generation {
    events: UnboundedReceiver<Event>,
    cancel: Cancel,
}

impl Generation {
    /// The flag that stops the reply; the report still comes.
    pub fn cancel_flag(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Blocks for the next event; `None` after the last.
    pub fn next_blocking(&mut self) -> Option<Event> {
        futures::executor::block_on(self.events.next())
    }

    /// Blocks until the end: the tokens, and the report.
    pub fn collect_blocking(mut self) -> Result<(Vec<u32>, Report), RequestError> {
        let mut tokens = Vec::new();
        while let Some(event) = self.next_blocking() {
            match event {
                Event::Prompt { .. } => {}
                Event::Token(id) => tokens.push(id),
                Event::Done(report) => return Ok((tokens, report)),
                Event::Failed(error) => return Err(error),
            }
        }
        Err(RequestError::Stopped)
    }
}

impl Stream for Generation {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_next_unpin(cx)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

type Call = Box<dyn FnOnce(&mut Scheduler) + Send>;

enum Message {
    Generate {
        request: Box<Request>,
        events: UnboundedSender<Event>,
        cancel: Cancel,
    },
    Call(Call),
    /// Until the other end of `released` is dropped.
    Hold {
        held: mpsc::Sender<()>,
        released: mpsc::Receiver<()>,
    },
    Stop,
}

/// An engine does nothing as long as this lives.
#[must_use]
pub struct Hold<'a> {
    _release: mpsc::Sender<()>,
    _engine: PhantomData<&'a Engine>,
}

/// A handle to the engine's thread; dropping it ends the thread.
pub struct Engine {
    messages: mpsc::Sender<Message>,
    thread: Option<JoinHandle<()>>,
    ledger: Ledger,
    n_ctx: u32,
    profile: String,
}

impl Engine {
    /// Moves an executor to a thread of its own. `n_vocab` bounds the tokens of prompts.
    pub fn start(executor: Executor, n_vocab: usize, options: EngineOptions) -> Engine {
        let (messages, inbox) = mpsc::channel();
        let (ledger, n_ctx, profile) = (executor.ledger().clone(), executor.options().n_ctx, executor.profile());
        let run = move || {
            let mut scheduler = Scheduler::new(executor, n_vocab, options);
            // A defect must not take the caller's process with it: generations end with an error.
            if std::panic::catch_unwind(AssertUnwindSafe(|| scheduler.run(&inbox))).is_err() {
                log::error!("the engine failed; its requests are broken off");
                scheduler.break_off(&RequestError::Failed("internal error in the engine; please report it".into()));
            }
        };
        let thread = std::thread::Builder::new().name("segno-engine".into()).spawn(run).ok();
        Engine { messages, thread, ledger, n_ctx, profile }
    }

    /// Queues a request.
    pub fn generate(&self, request: Request) -> Generation {
        let (sender, events) = unbounded();
        let cancel = Cancel::new();
        let message = Message::Generate { request: Box::new(request), events: sender.clone(), cancel: cancel.clone() };
        if self.messages.send(message).is_err() {
            let _ = sender.unbounded_send(Event::Failed(RequestError::Stopped));
        }
        Generation { events, cancel }
    }

    /// Does something between two steps, and waits for it.
    fn call<T: Send + 'static>(&self, f: impl FnOnce(&mut Scheduler) -> T + Send + 'static) -> Result<T, RequestError> {
        let (sender, result) = mpsc::channel();
        let call: Call = Box::new(move |scheduler| {
            let _ = sender.send(f(scheduler));
        });
        self.messages.send(Message::Call(call)).map_err(|_| RequestError::Stopped)?;
        result.recv().map_err(|_| RequestError::Stopped)
    }

    /// Stops between two steps, with nothing under way on the device, until the result is dropped. Requests queue up
    /// meanwhile; other calls of the engine wait. Who holds it again at once lets one step pass, if there is one to make.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn hold(&self) -> Result<Hold<'_>, RequestError> {
        let (sender, held) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let message = Message::Hold { held: sender, released };
        self.messages.send(message).map_err(|_| RequestError::Stopped)?;
        held.recv().map_err(|_| RequestError::Stopped)?;
        Ok(Hold { _release: release, _engine: PhantomData })
    }

    /// What checkpoints hold now.
    pub fn checkpoints(&self) -> Result<CheckpointStats, RequestError> {
        self.call(|s| s.checkpoints.stats(&s.executor))
    }

    /// Positions of the checkpoints on the way to a prompt, ascending, and why they were taken.
    pub fn checkpoint_positions(&self, prompt: &[u32]) -> Result<Vec<(u32, Why)>, RequestError> {
        let keys = keys_of(prompt);
        self.call(move |s| s.checkpoints.positions(&keys))
    }

    /// Bytes that checkpoints may hold on the device; no more than was planned.
    pub fn set_checkpoint_budget(&self, bytes: u64) -> Result<(), RequestError> {
        self.call(move |s| s.checkpoints.set_budget(&mut s.executor, bytes))
    }

    /// Bytes that checkpoints may hold of the host's memory; no more than was planned.
    pub fn set_checkpoint_ram(&self, bytes: u64) -> Result<(), RequestError> {
        self.call(move |s| s.checkpoints.set_ram_budget(&s.executor, bytes))
    }

    /// Keeps the checkpoints on the way to a prompt whatever the budget wants dropped, or no longer; how many there are.
    pub fn pin(&self, prompt: &[u32], pinned: bool) -> Result<usize, RequestError> {
        let keys = keys_of(prompt);
        self.call(move |s| s.checkpoints.pin(&keys, pinned))
    }

    /// Writes the states of a conversation to a folder: its end, its last prompt's with the logits, its first
    /// message's. Returns the tokens of the longest, once it is on the disk.
    ///
    /// # Errors
    /// If nothing of the conversation is remembered, or the folder cannot be written.
    pub fn save(&self, folder: &Path, prompt: &[u32]) -> Result<u32, RequestError> {
        let keys = keys_of(prompt);
        let (images, fingerprint) = self.call(move |s| {
            let images = s.checkpoints.images(&mut s.executor, &keys).map_err(|e| e.to_string());
            (images, s.executor.fingerprint())
        })?;
        let images = images.map_err(RequestError::Failed)?;
        let Some(tokens) = images.last().map(|image| image.keys.len() as u32) else {
            return Err(RequestError::Failed("nothing of this conversation is remembered".into()));
        };
        let failed = |error: ImageError| RequestError::Failed(error.to_string());
        let options = StoreOptions { max_bytes: u64::MAX, queue: images.len(), ..StoreOptions::default() };
        let store = Store::open(folder, fingerprint, options).map_err(failed)?;
        let last = images.last().map(|image| (image.keys.clone(), image.made));
        for image in images {
            store.save(image);
        }
        store.flush();
        match last {
            Some((keys, made)) if !store.covers(&keys, made, false) => {
                Err(RequestError::Failed(format!("{} could not be written; the log says why", folder.display())))
            }
            _ => Ok(tokens),
        }
    }

    /// Takes the states of a folder that [`save`](Self::save) wrote; the tokens of the longest.
    ///
    /// # Errors
    /// If there is none of this model, computed in this way: why. Nothing changes then.
    pub fn load(&self, folder: &Path) -> Result<u32, RequestError> {
        let fingerprint = self.call(|s| s.executor.fingerprint())?;
        let failed = |error: String| RequestError::Failed(error);
        if !folder.is_dir() {
            return Err(failed(format!("{} is no folder", folder.display())));
        }
        let options = StoreOptions { max_bytes: u64::MAX, ..StoreOptions::default() };
        let store = Store::open(folder, fingerprint, options).map_err(|e| failed(e.to_string()))?;
        let mut most = Err(failed(store.refusal().unwrap_or_else(|| "there is no checkpoint in it".into())));
        for stored in store.list() {
            let image = store.load(stored.id).map_err(|e| failed(e.to_string()))?;
            let imported = self.call(move |s| s.checkpoints.import(&mut s.executor, &image))?;
            imported.map_err(|e| failed(e.to_string()))?;
            most = Ok(stored.position);
        }
        most
    }

    /// Waits until everything that is to outlive the program is on the disk.
    pub fn flush(&self) -> Result<(), RequestError> {
        let store = self.call(|s| {
            s.checkpoints.settle_leaving(&s.executor);
            s.options.store.clone()
        })?;
        store.inspect(|store| store.flush());
        Ok(())
    }

    /// Drops all checkpoints but files.
    pub fn forget(&self) -> Result<(), RequestError> {
        self.call(|s| s.checkpoints.clear(&mut s.executor))
    }

    /// Free slots, and free pages of each group: for tests that look for leaks.
    pub fn free(&self) -> Result<(usize, Vec<usize>), RequestError> {
        self.call(|s| s.executor.free())
    }

    /// The memory plan.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Tokens of the longest sequence.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// What a decode step consists of.
    pub fn profile(&self) -> &str {
        &self.profile
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The token that a sequence reads next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Known(u32),
    /// Being drawn: the ticket, and the row in it.
    Drawn {
        ticket: u64,
        row: u32,
    },
    /// To be drawn on the host, once the logits are there.
    Awaited,
}

fn keys_of(tokens: &[u32]) -> Vec<Key> {
    tokens.iter().map(|&t| Key::from(t)).collect()
}

impl Request {
    fn keys(&self) -> Vec<Key> {
        let mut keys = keys_of(&self.prompt);
        for row in &self.rows {
            keys[row.position] = Key::of_row(row.content);
        }
        keys
    }

    /// Rows `range` of the prompt.
    fn inputs(&self, range: std::ops::Range<usize>) -> Vec<Input> {
        let mut inputs: Vec<Input> = self.prompt[range.clone()].iter().map(|&id| Input::Token(id)).collect();
        for row in self.rows.iter().filter(|row| range.contains(&row.position)) {
            inputs[row.position - range.start] = Input::Row { values: row.values.clone(), content: row.content };
        }
        inputs
    }
}

struct Queued {
    request: Request,
    /// Of the prompt, then of the reply so far.
    keys: Vec<Key>,
    events: UnboundedSender<Event>,
    cancel: Cancel,
    chain: Option<Chain>,
    parked: Option<Parked>,
}

/// What is known of a request that gave way to others.
struct Parked {
    times: u32,
    reply: Vec<u32>,
    reuse: Reuse,
    saved: usize,
    save_time: Duration,
    started: Instant,
    first_token: Option<Instant>,
}

struct Active {
    id: u64,
    request: Request,
    /// Of the prompt, then of the reply.
    keys: Vec<Key>,
    events: UnboundedSender<Event>,
    cancel: Cancel,
    sequence: SequenceId,
    reuse: Reuse,
    made: Made,
    /// Checkpoints that the prompt is still to leave behind, ascending; those of steps under way first.
    plan: VecDeque<Planned>,
    /// States of the last few tokens of the reply, ascending.
    recent: Vec<Frozen>,
    saved: usize,
    save_time: Duration,
    /// Times that it was parked.
    parked: u32,
    /// Reads a finished reply again, for nobody.
    is_copy: bool,
    /// Tokens that are read as a prompt: the prompt, and what a parked request had read of its reply.
    known: usize,
    /// Those of them that were issued.
    fed: usize,
    /// Tokens that were issued to be drawn.
    drawn: usize,
    reply: Vec<u32>,
    next: Option<Next>,
    /// Draws the reply, if the host does.
    chain: Option<Chain>,
    /// Steps under way that this sequence is in.
    in_flight: usize,
    finish: Option<Finish>,
    started: Instant,
    first_token: Option<Instant>,
}

impl Active {
    /// Rows `range` of what is read as a prompt.
    fn inputs(&self, range: std::ops::Range<usize>) -> Vec<Input> {
        let n = self.request.prompt.len();
        let mut inputs = self.request.inputs(range.start.min(n)..range.end.min(n));
        let reply = &self.reply[range.start.max(n) - n..range.end.max(n) - n];
        inputs.extend(reply.iter().map(|&id| Input::Token(id)));
        inputs
    }

    /// How the token at `position` is drawn from an output row.
    fn draw(&self, row: u32, position: u32) -> SampleRow {
        let Request { params, bias, stop, .. } = &self.request;
        SampleRow { row, params: params.clone(), position, bias: bias.clone(), stop: stop.clone() }
    }

    /// Once all is read that a parked request had read, the token that it had drawn last comes next.
    fn go_on(&mut self) {
        if let (None, true, Some(&id)) = (self.next, self.fed == self.known, self.reply.last()) {
            self.next = Some(Next::Known(id));
        }
    }

    /// Takes a token that was drawn: the next of the reply, or the end.
    fn accept(&mut self, id: u32, n_ctx: u32) {
        self.first_token.get_or_insert_with(Instant::now);
        if self.request.stop.contains(&id) {
            self.finish = Some(Finish::Stop);
            return;
        }
        self.reply.push(id);
        self.keys.push(Key::from(id));
        if self.events.unbounded_send(Event::Token(id)).is_err() {
            self.finish = Some(Finish::Cancelled);
        } else if self.reply.len() >= self.request.max_tokens {
            self.finish = Some(Finish::Length);
        } else if self.request.prompt.len() + self.reply.len() > n_ctx as usize {
            self.finish = Some(Finish::Context);
        }
    }

    /// Drops those states of the reply that the distance `d` from its end does not want any more. Within two pages of
    /// the end they lie at most `d / 2` apart, so that going back by `r` tokens replays fewer than `r`; further away every
    /// page, then at most `d / 4` apart, so that a long reply holds few. Multiples of powers of two: one that was dropped
    /// is never wanted again. More than `most` are not held; the first of the reply go first.
    fn thin_recent(&mut self, executor: &mut Executor, most: usize) {
        let Some(last) = self.recent.last().map(Frozen::n_tokens) else { return };
        let step = |d: u32| match d < 2 * PAGE_TOKENS {
            true => 1 << d.max(2).ilog2() >> 1,
            false => PAGE_TOKENS.max(1 << d.ilog2() >> 2),
        };
        let kept = |n: u32| n.is_multiple_of(step(last - n));
        let (mut held, mut dropped): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.recent).into_iter().partition(|f| kept(f.n_tokens()));
        dropped.extend(held.drain(..held.len().saturating_sub(most)));
        self.recent = held;
        dropped.into_iter().for_each(|frozen| executor.release(frozen));
    }
}

/// The finest step between the states of a reply's last tokens for which a sequence's share of the slots has room: two an
/// octave, with half as many again for its prompt. 0 if there is none.
fn recent_step(slots_each: usize) -> u32 {
    (0..PAGE_TOKENS.ilog2()).find(|i| 3 * (PAGE_TOKENS >> i).ilog2() as usize <= slots_each).map_or(0, |i| 1 << i)
}

/// A sequence in a step.
struct Member {
    active: u64,
    kind: SpanKind,
    /// Whether a token is drawn for it.
    draw: bool,
    /// Whether the host draws it.
    on_host: bool,
    /// Its position after the step.
    end: u32,
    /// Tokens of it that are read as a prompt.
    fed: usize,
}

struct Flight {
    issued: Issued,
    /// Absent if the host draws all.
    ticket: Option<Ticket>,
    /// Logits after whole prompts, and those to draw from.
    logits: Vec<(u64, Pending<Vec<f32>>)>,
    /// Those that the device draws for, in the order of the ticket's rows.
    members: Vec<Member>,
    rows: usize,
    issued_at: Instant,
}

struct Scheduler {
    executor: Executor,
    checkpoints: Checkpoints,
    n_vocab: usize,
    options: EngineOptions,
    queue: VecDeque<Queued>,
    active: Vec<Active>,
    /// Finished contexts to read again when there is nothing else to do.
    copies: Vec<Vec<u32>>,
    flights: VecDeque<Flight>,
    next_id: u64,
    /// Measured prefill rate, for steps that others wait for.
    rows_per_second: f64,
    lost: Option<RequestError>,
    /// Nobody begins until a request has ended: there were not enough pages for all.
    crowded: bool,
    /// Tokens between the states that a reply leaves of its last ones behind; 0: none.
    recent_step: u32,
    /// Most of them that a running sequence holds.
    most_recent: usize,
}

impl Scheduler {
    fn new(executor: Executor, n_vocab: usize, options: EngineOptions) -> Self {
        let slots_each = executor.checkpoint_slots() / executor.options().n_sequences as usize;
        let wanted = options.checkpoints.mode == CheckpointMode::Tree
            && !executor.is_rewindable()
            && (executor.device().describe().equal_kinds || !options.checkpoints.exact);
        let recent_step = if wanted { recent_step(slots_each) } else { 0 };
        Scheduler {
            checkpoints: Checkpoints::new(
                options.checkpoints.clone(),
                options.store.clone(),
                options.step_timeout,
                &executor,
            ),
            executor,
            n_vocab,
            options,
            queue: VecDeque::new(),
            active: Vec::new(),
            copies: Vec::new(),
            flights: VecDeque::new(),
            next_id: 0,
            rows_per_second: 0.0,
            lost: None,
            crowded: false,
            recent_step,
            // Room is left for those of the steps under way.
            most_recent: slots_each.saturating_sub(2).max(1),
        }
    }

    fn run(&mut self, inbox: &mpsc::Receiver<Message>) {
        loop {
            if self.active.is_empty() && self.queue.is_empty() {
                self.copy_a_reply();
            }
            let waiting = self.active.is_empty() && self.queue.is_empty() && self.flights.is_empty();
            if waiting {
                self.checkpoints.settle_leaving(&self.executor);
            }
            let mut message = match waiting {
                true => inbox.recv().ok(),
                false => inbox.try_recv().ok(),
            };
            if waiting && message.is_none() {
                return;
            }
            while let Some(next) = message {
                match next {
                    Message::Generate { request, events, cancel } => self.enqueue(*request, events, cancel),
                    Message::Call(call) => call(self),
                    Message::Hold { held, released } => {
                        self.settle_all();
                        // A device that does not answer says so at the next step.
                        let _ = self.executor.pool().finish(self.options.step_timeout);
                        let _ = held.send(());
                        let _ = released.recv();
                        break;
                    }
                    Message::Stop => {
                        self.checkpoints.settle_leaving(&self.executor);
                        return self.break_off(&RequestError::Stopped);
                    }
                }
                message = inbox.try_recv().ok();
            }
            self.turn();
        }
    }

    /// Ends everything with an error.
    fn break_off(&mut self, error: &RequestError) {
        let active = self.active.drain(..).map(|a| a.events);
        for events in active.chain(self.queue.drain(..).map(|q| q.events)) {
            let _ = events.unbounded_send(Event::Failed(error.clone()));
        }
    }

    fn enqueue(&mut self, request: Request, events: UnboundedSender<Event>, cancel: Cancel) {
        let n_ctx = self.executor.options().n_ctx;
        let is_row = |position: &usize| request.rows.iter().any(|row| row.position == *position);
        let outside = |id: &u32| *id as usize >= self.n_vocab;
        let outside = (0..request.prompt.len()).find(|i| outside(&request.prompt[*i]) && !is_row(i));
        let bad_row = self.bad_row(&request);
        let chain = request
            .host
            .clone()
            .map(|sampling| Chain::new(sampling, request.params.seed, request.bias.clone(), request.prompt.clone()));
        let error = if let Some(error) = &self.lost {
            error.clone()
        } else if let Some(Err(error)) = chain {
            error.into()
        } else if request.prompt.is_empty() {
            RequestError::EmptyPrompt
        } else if let Some(position) = outside {
            RequestError::Token { id: request.prompt[position], position, n_vocab: self.n_vocab }
        } else if request.prompt.len() >= n_ctx as usize {
            RequestError::PromptTooLong { tokens: request.prompt.len(), n_ctx }
        } else if let Some(row) = bad_row {
            RequestError::Row(row, self.executor.n_embd())
        } else if self.queue.len() >= self.options.max_queued {
            RequestError::QueueFull(self.queue.len())
        } else {
            // What is done for nobody gives way.
            for copy in self.active.iter_mut().filter(|a| a.is_copy && a.finish.is_none()) {
                copy.finish = Some(Finish::Cancelled);
            }
            let keys = request.keys();
            let chain = chain.and_then(Result::ok);
            self.queue.push_back(Queued { request, keys, events, cancel, chain, parked: None });
            return;
        };
        let _ = events.unbounded_send(Event::Failed(error));
    }

    fn bad_row(&self, request: &Request) -> Option<usize> {
        let (n, width) = (request.prompt.len(), self.executor.n_embd());
        let bad = |i: &usize| {
            let row = &request.rows[*i];
            let ascending = *i == 0 || request.rows[*i - 1].position < row.position;
            row.position >= n || !ascending || row.values.len() != width
        };
        (0..request.rows.len()).find(bad)
    }

    /// Begins to read one of the finished contexts again, so that exact requests can go on from it.
    fn copy_a_reply(&mut self) {
        let Some(prompt) = self.copies.pop() else { return };
        let (events, _) = unbounded();
        let request = Request { prompt, ..Request::default() };
        let keys = request.keys();
        let queued = Queued { request, keys, events, cancel: Cancel::new(), chain: None, parked: None };
        if let Err(error) = self.start(queued, true) {
            log::warn!("a reply could not be read again: {error}");
        }
    }

    /// One round: admit, issue a step, settle those that are due.
    fn turn(&mut self) {
        self.checkpoints.poll(&self.executor);
        self.admit();
        for active in &mut self.active {
            if active.cancel.is_cancelled() && active.finish.is_none() {
                active.finish = Some(Finish::Cancelled);
            }
        }
        let issued = match self.issue() {
            Ok(issued) => issued,
            Err(error) => {
                return match (&error, self.flights.is_empty()) {
                    (ExecutorError::Exhausted(_), false) => self.settle_all(),
                    (ExecutorError::Exhausted(_), true) if self.park() => {}
                    _ => self.fail(error),
                };
            }
        };
        while self.flights.len() >= self.depth() || (!issued && !self.flights.is_empty()) {
            if let Err(error) = self.settle() {
                return self.fail(error);
            }
            if !issued {
                break;
            }
        }
        self.retire();
    }

    /// Waits for all that is under way.
    fn settle_all(&mut self) {
        while !self.flights.is_empty() {
            if let Err(error) = self.settle() {
                return self.fail(error);
            }
        }
        self.retire();
    }

    /// Takes the youngest request out of the way of the others, if there are any. Its state stays as a checkpoint, which
    /// goes if even that is too much; the draws depend on seed and position alone, so it goes on as if nothing had been.
    fn park(&mut self) -> bool {
        let running = || self.active.iter().enumerate().filter(|(_, a)| a.finish.is_none());
        let youngest = running().max_by_key(|(_, a)| a.id).map(|(i, _)| i);
        let Some(youngest) = youngest.filter(|_| running().count() > 1) else { return false };
        let active = self.active.remove(youngest);
        active.recent.into_iter().for_each(|frozen| self.executor.release(frozen));
        let Active { request, keys, events, cancel, chain, reply, .. } = active;
        match request.forget {
            true => self.executor.remove(active.sequence),
            false => self.checkpoints.park(&mut self.executor, &keys, active.sequence, active.made),
        }
        if active.is_copy {
            return true;
        }
        log::debug!("a request of {} tokens gives way to {} others", keys.len(), self.active.len());
        let Active { parked, reuse, saved, save_time, started, first_token, .. } = active;
        let parked = Some(Parked { times: parked + 1, reply, reuse, saved, save_time, started, first_token });
        self.queue.push_front(Queued { request, keys, events, cancel, chain, parked });
        self.crowded = true;
        true
    }

    /// Steps that may be under way.
    fn depth(&self) -> usize {
        self.executor.device().describe().steps_in_flight.max(1)
    }

    fn admit(&mut self) {
        self.crowded &= !self.active.is_empty();
        let mut i = if self.crowded { self.queue.len() } else { 0 };
        while i < self.queue.len() && self.active.len() < self.executor.options().n_sequences as usize {
            if self.waits_for_another(i) {
                i += 1;
                continue;
            }
            let Some(queued) = self.queue.remove(i) else { return };
            let events = queued.events.clone();
            if let Err(error) = self.start(queued, false) {
                let _ = events.unbounded_send(Event::Failed(RequestError::Failed(error.to_string())));
            }
        }
    }

    /// Whether much of a queued prompt is just being read for another request. That one is asked to leave a checkpoint
    /// where the two part.
    fn waits_for_another(&mut self, queued: usize) -> bool {
        let Queued { request, keys, cancel, .. } = &self.queue[queued];
        if self.options.checkpoints.mode != CheckpointMode::Tree || request.forget || cancel.is_cancelled() {
            return false;
        }
        let reached = self.checkpoints.reach(&self.executor, keys, request.max_tokens > 0);
        for active in self.active.iter_mut().filter(|a| a.finish.is_none() && !a.request.forget) {
            let common = keys.iter().zip(&active.keys).take_while(|(a, b)| a == b).count();
            let whole = common == keys.len() && common == active.request.prompt.len() && active.request.max_tokens > 0;
            // Of a whole prompt the logits are kept; otherwise a token must be left to read.
            let usable = if whole { common } else { common.min(keys.len() - 1) } as u32;
            if usable < reached + PAGE_TOKENS {
                continue;
            }
            if (active.fed as u32) < usable && !active.plan.iter().any(|p| p.0 == usable) {
                let at = active.plan.partition_point(|p| p.0 < usable);
                active.plan.insert(at, (usable, Why::Fork));
            }
            if active.plan.iter().any(|p| p.0 >= reached + PAGE_TOKENS && p.0 <= usable) {
                return true;
            }
        }
        false
    }

    /// Makes a sequence for a request, from where its prompt parts from what is remembered.
    fn start(&mut self, queued: Queued, is_copy: bool) -> Result<(), ExecutorError> {
        let Queued { request, keys, events, cancel, chain, parked } = queued;
        let started = Instant::now();
        let length = request.prompt.len() as u32;
        // The last token of a reply was drawn and not read.
        let known = (keys.len() - 1).max(request.prompt.len());
        let draws = request.max_tokens > 0 && known == keys.len();
        let admitted = match request.forget {
            true => self.checkpoints.admit_cold(&mut self.executor)?,
            false => self.checkpoints.admit(&mut self.executor, &keys[..known], draws)?,
        };
        let reuse = admitted.reuse;
        let (from, made) = (reuse.restored_at as u32, reuse.made);
        let fork = (reuse.diverged && reuse.common > reuse.restored_at).then_some(reuse.common as u32);
        let plan = match request.forget {
            true => VecDeque::new(),
            false => self.checkpoints.plan(&self.executor, from, length, &request.borders, fork).into(),
        };
        let parked = parked.unwrap_or_else(|| Parked {
            times: 0,
            reply: Vec::new(),
            reuse,
            saved: 0,
            save_time: Duration::ZERO,
            started,
            first_token: None,
        });
        let mut active = Active {
            id: self.next_id,
            known,
            fed: from as usize,
            made,
            reuse: parked.reuse,
            keys,
            events,
            cancel,
            sequence: admitted.sequence,
            plan,
            recent: Vec::new(),
            saved: parked.saved,
            save_time: parked.save_time,
            parked: parked.times,
            is_copy,
            drawn: parked.reply.len(),
            reply: parked.reply,
            next: None,
            chain,
            in_flight: 0,
            finish: None,
            started: parked.started,
            first_token: parked.first_token,
            request,
        };
        self.next_id += 1;
        active.go_on();
        if let Some(logits) = admitted.logits.filter(|_| draws) {
            // Nothing is left to read: the first token is drawn from what was kept.
            let id = match &mut active.chain {
                Some(chain) => chain.draw(&logits),
                None => segno_ir::sample::sample(&logits, &active.draw(0, length)),
            };
            active.drawn = 1;
            active.next = Some(Next::Known(id));
            active.accept(id, self.executor.options().n_ctx);
        } else if active.fed == active.known && active.next.is_none() {
            active.finish = Some(Finish::Length);
        }
        self.active.push(active);
        Ok(())
    }

    /// Issues the next step; false if there is nothing to do.
    fn issue(&mut self) -> Result<bool, ExecutorError> {
        let mut works = Vec::new();
        let mut members = Vec::new();
        let mut draws = Vec::new();
        let mut n_outputs = 0;
        let n_ctx = self.executor.options().n_ctx;
        let decoding = self.active.iter().filter(|a| a.next.is_some() && a.finish.is_none()).count();
        let mut budget = self.prefill_budget(decoding > 0);
        let mut logits_of = Vec::new();
        let equal_kinds = self.executor.device().describe().equal_kinds;
        for active in self.active.iter().filter(|a| a.finish.is_none()) {
            let start = self.executor.len(active.sequence)?;
            let (inputs, kind, draw) = match active.next {
                Some(next) => {
                    if active.drawn >= active.request.max_tokens || start >= n_ctx {
                        continue;
                    }
                    let input = match next {
                        Next::Known(id) => Input::Token(id),
                        Next::Drawn { ticket, row } => Input::Sampled { ticket, row },
                        Next::Awaited => continue,
                    };
                    (vec![input], SpanKind::Decode, true)
                }
                None if active.fed == active.known => continue,
                None => {
                    // A reply is read again as it was made.
                    let n = active.request.prompt.len();
                    let (end, kind) = match active.fed < n {
                        _ if equal_kinds => (active.known, SpanKind::Prefill),
                        true => (n, SpanKind::Prefill),
                        false => (active.fed + 1, SpanKind::Decode),
                    };
                    let left = end - active.fed;
                    // Every piece but the last ends at a page border: what a chunked scan needs.
                    let take = match left <= budget {
                        true => left,
                        false => {
                            let end = (start as usize + budget) / PAGE_TOKENS as usize * PAGE_TOKENS as usize;
                            end.saturating_sub(start as usize)
                        }
                    };
                    if take == 0 {
                        continue;
                    }
                    budget -= take;
                    let inputs = active.inputs(active.fed..active.fed + take);
                    let draw = take == left && active.request.max_tokens > 0 && active.reply.is_empty();
                    (inputs, kind, draw)
                }
            };
            let end = start + inputs.len() as u32;
            let on_host = active.chain.is_some();
            let row = n_outputs;
            if draw {
                match on_host {
                    true => logits_of.push((active.id, row)),
                    false => draws.push(active.draw(row, end)),
                }
                n_outputs += 1;
            }
            let outputs = if draw { vec![inputs.len() as u32 - 1] } else { Vec::new() };
            let snapshots = match kind {
                SpanKind::Prefill => {
                    if draw && !on_host && active.plan.iter().any(|p| p.0 == end) {
                        logits_of.push((active.id, row));
                    }
                    let due = active.plan.iter().map(|p| p.0).filter(|p| (start + 1..=end).contains(p));
                    due.map(|p| p - start).collect()
                }
                // No position but 0 is a multiple of 0.
                SpanKind::Decode if end.is_multiple_of(self.recent_step) && !active.request.forget => vec![1],
                SpanKind::Decode => Vec::new(),
            };
            let fed = if active.next.is_none() { inputs.len() } else { 0 };
            works.push(Work { sequence: active.sequence, kind, inputs, outputs, snapshots });
            members.push(Member { active: active.id, kind, draw, on_host, end, fed });
        }
        if works.is_empty() {
            return Ok(false);
        }
        // A flag of one request may stop a step only if nobody else is in it, and no later step is issued
        // before it is known to have stopped.
        let cancel = match &members[..] {
            [one] if self.depth() == 1 => self.active.iter().find(|a| a.id == one.active).map(|a| a.cancel.clone()),
            _ => None,
        };
        let rows = works.iter().map(|w| w.inputs.len()).sum();
        let issued_at = Instant::now();
        self.fit_snapshots(&mut works);
        let cancel = cancel.unwrap_or_default();
        let result = loop {
            match self.executor.issue(works.clone(), &cancel) {
                // Checkpoints hold what running sequences need.
                Err(ExecutorError::Exhausted(_)) if self.checkpoints.evict(&mut self.executor) => {}
                other => break other,
            }
        };
        let issued = match result {
            Err(ExecutorError::Device(DeviceError::Cancelled)) => {
                self.active
                    .iter_mut()
                    .filter(|a| a.id == members[0].active)
                    .for_each(|a| a.finish = Some(Finish::Cancelled));
                return Ok(true);
            }
            other => other?,
        };
        let ticket = match draws.is_empty() && n_outputs > 0 {
            true => Ok(None),
            false => self.executor.sample(&issued.rows, &draws).map(Some),
        };
        let (ticket, error) = ticket.map_or_else(|error| (None, Some(error)), |ticket| (ticket, None));
        let logits = logits_of.into_iter();
        let logits = logits.map(|(id, row)| (id, self.executor.read(&issued.rows, Output::Logits, row, 1))).collect();
        let mut row = 0;
        for member in &members {
            let Some(active) = self.active.iter_mut().find(|a| a.id == member.active) else { continue };
            active.in_flight += 1;
            active.fed += member.fed;
            active.drawn += usize::from(member.draw);
            match &ticket {
                Some(ticket) if member.draw && !member.on_host => {
                    active.next = Some(Next::Drawn { ticket: ticket.id, row });
                    row += 1;
                }
                _ if member.draw => active.next = Some(Next::Awaited),
                _ => active.go_on(),
            }
        }
        self.flights.push_back(Flight { issued, ticket, logits, members, rows, issued_at });
        error.map_or(Ok(true), Err)
    }

    /// Makes room for the checkpoints of a step; where there is not enough, those at its beginning are not taken.
    fn fit_snapshots(&mut self, works: &mut [Work]) {
        let wanted = works.iter().map(|w| w.snapshots.len()).sum();
        let mut left = self.checkpoints.room(&mut self.executor, wanted);
        for work in works {
            let n = work.snapshots.len();
            work.snapshots.drain(..n.saturating_sub(left));
            left -= work.snapshots.len();
        }
    }

    /// Rows of prompts in the next step. While others wait for tokens, as many as the target time
    /// allows by the measured rate.
    fn prefill_budget(&self, shared: bool) -> usize {
        let most = self.executor.options().max_rows as usize;
        match shared && self.rows_per_second > 0.0 {
            true => ((self.rows_per_second * self.options.shared_step.as_secs_f64()) as usize)
                .next_multiple_of(PAGE_TOKENS as usize)
                .clamp(PAGE_TOKENS as usize, most),
            false => most,
        }
    }

    /// Waits for the oldest step and takes its tokens.
    fn settle(&mut self) -> Result<(), ExecutorError> {
        // Until it is known to have gone well it can be undone.
        let Some(flight) = self.flights.front_mut() else { return Ok(()) };
        let (ticket_id, tokens) = match flight.ticket.take() {
            Some(Ticket { id, tokens }) => (Some(id), tokens.wait(self.options.step_timeout)?),
            None => (None, Vec::new()),
        };
        let took = flight.issued_at.elapsed();
        let mut kept_logits = Vec::with_capacity(flight.logits.len());
        for (id, pending) in std::mem::take(&mut flight.logits) {
            kept_logits.push((id, Arc::<[f32]>::from(pending.wait(self.options.step_timeout)?)));
        }
        let Some(Flight { mut issued, members, rows, .. }) = self.flights.pop_front() else { return Ok(()) };
        if rows >= PAGE_TOKENS as usize {
            self.rows_per_second = rows as f64 / took.as_secs_f64().max(1e-6);
        }
        let n_ctx = self.executor.options().n_ctx;
        let equal_kinds = self.executor.device().describe().equal_kinds;
        let mut drawn = tokens.into_iter().enumerate();
        for member in &members {
            let token = if member.draw && !member.on_host { drawn.next() } else { None };
            let Some(active) = self.active.iter_mut().find(|a| a.id == member.active) else { continue };
            active.in_flight -= 1;
            if active.finish.is_some() {
                // It ended while this step was under way: as if the step had never been.
                self.executor.undo(&mut issued, active.sequence);
                continue;
            }
            if member.kind == SpanKind::Decode && !equal_kinds {
                active.made = active.made.max(Made::Mixed);
            }
            if let (true, Some(chain)) = (member.draw, &mut active.chain) {
                let logits = kept_logits.iter().find(|(id, _)| *id == active.id);
                let id = chain.draw(logits.map_or(&[], |(_, l)| l));
                active.next = Some(Next::Known(id));
                active.accept(id, n_ctx);
                continue;
            }
            let Some((row, token)) = token else {
                let (done, total) = (active.fed, active.request.prompt.len());
                if active.reply.is_empty() {
                    let _ = active.events.unbounded_send(Event::Prompt { done, total });
                }
                if active.request.max_tokens == 0 && done == total {
                    active.finish = Some(Finish::Length);
                }
                continue;
            };
            if matches!(active.next, Some(Next::Drawn { ticket, row: r }) if Some(ticket) == ticket_id && r as usize == row)
            {
                active.next = Some(Next::Known(token.id));
            }
            active.accept(token.id, n_ctx);
        }
        let frozen = self.executor.confirm(issued);
        self.keep(frozen, &kept_logits);
        // Places that were passed without a checkpoint had no room.
        for member in members {
            if let Some(active) = self.active.iter_mut().find(|a| a.id == member.active) {
                active.plan.retain(|p| p.0 > member.end);
            }
        }
        Ok(())
    }

    /// Takes over the states that a step has frozen.
    fn keep(&mut self, frozen: Vec<(SequenceId, Frozen)>, logits: &[(u64, Arc<[f32]>)]) {
        for (sequence, frozen) in frozen {
            let begun = Instant::now();
            let Some(active) = self.active.iter_mut().find(|a| a.sequence == sequence) else {
                self.executor.release(frozen);
                continue;
            };
            let (position, length) = (frozen.n_tokens(), active.request.prompt.len() as u32);
            if position > length {
                active.recent.push(frozen);
                active.thin_recent(&mut self.executor, self.most_recent);
                continue;
            }
            let why = active.plan.iter().find(|p| p.0 == position).map_or(Why::Fork, |p| p.1);
            let logits = logits.iter().find(|(id, _)| *id == active.id && position == length).map(|(_, l)| l.clone());
            let keys = &active.keys[..position as usize];
            self.checkpoints.save(&mut self.executor, keys, frozen, (why, active.made), logits);
            active.saved += 1;
            active.save_time += begun.elapsed();
        }
    }

    /// Reports those that have ended, and remembers how far they came.
    fn retire(&mut self) {
        let n = self.active.len();
        let mut i = 0;
        while i < self.active.len() {
            let active = &self.active[i];
            let (Some(finish), 0) = (active.finish, active.in_flight) else {
                i += 1;
                continue;
            };
            let mut active = self.active.remove(i);
            let ended = Instant::now();
            let first = active.first_token.unwrap_or(ended);
            let recent = std::mem::take(&mut active.recent);
            let read = self.executor.len(active.sequence).unwrap_or(0) as usize;
            if read >= active.request.prompt.len() {
                self.checkpoints.prompt_done(&mut self.executor, active.request.prompt.len() as u32);
            }
            for frozen in recent {
                let position = frozen.n_tokens();
                let why = if position.is_multiple_of(PAGE_TOKENS) { Why::Reply } else { Why::Recent };
                let keys = &active.keys[..position as usize];
                self.checkpoints.save(&mut self.executor, keys, frozen, (why, active.made), None);
                active.saved += 1;
            }
            let CheckpointOptions { exact, fair_copy, .. } = self.options.checkpoints;
            if active.made != Made::Prefill && exact && fair_copy && active.request.rows.is_empty() {
                let tokens = active.request.prompt.iter().chain(&active.reply).copied();
                self.copies.push(tokens.take(read).collect());
            }
            match active.request.forget {
                true => self.executor.remove(active.sequence),
                false => self.checkpoints.end(&mut self.executor, active.keys, active.sequence, active.made),
            }
            let report = Report {
                prompt_tokens: active.request.prompt.len(),
                reused_tokens: active.reuse.restored_at,
                reuse: active.reuse,
                saved: active.saved,
                save_time: active.save_time + ended.elapsed(),
                parked: active.parked,
                checkpoints: self.checkpoints.stats(&self.executor),
                generated_tokens: active.reply.len(),
                prompt_time: first - active.started,
                generation_time: ended - first,
                finish,
            };
            let _ = active.events.unbounded_send(Event::Done(report));
        }
        self.crowded &= self.active.len() == n;
    }

    /// A step failed: its requests end with the error. Sequences are as they were before the step,
    /// but those in flight cannot be trusted to be known, so they are given back.
    fn fail(&mut self, error: ExecutorError) {
        let message = RequestError::Failed(error.to_string());
        if matches!(error, ExecutorError::Device(DeviceError::Lost { .. } | DeviceError::Timeout { .. })) {
            self.lost = Some(message.clone());
        }
        while let Some(flight) = self.flights.pop_back() {
            let mut issued = flight.issued;
            for active in &self.active {
                self.executor.undo(&mut issued, active.sequence);
            }
            for (_, frozen) in self.executor.confirm(issued) {
                self.executor.release(frozen);
            }
        }
        for active in self.active.drain(..) {
            active.recent.into_iter().for_each(|frozen| self.executor.release(frozen));
            self.executor.remove(active.sequence);
            let _ = active.events.unbounded_send(Event::Failed(message.clone()));
        }
        if self.lost.is_some() {
            self.break_off(&message);
        }
    }
}
