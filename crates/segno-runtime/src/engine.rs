//! The engine: one thread that owns an executor, takes requests and sends tokens.
//!
//! Requests are batched continuously: every step carries one row of each sequence that is
//! generating, and pieces of the prompts that are still being read. Sequences that have finished
//! stay, as long as there is room, and are played on from when a later prompt begins with them.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt};
use segno_ir::sample::{SampleParams, SampleRow};
use segno_ir::{Cancel, DeviceError, Input, PAGE_TOKENS, SpanKind, Ticket};

use crate::executor::{Executor, ExecutorError, Issued, SequenceId, Work};
use crate::ledger::Ledger;

/// How an engine schedules.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Requests that may wait; more are refused.
    pub max_queued: usize,
    /// Longest wait for a step, in seconds.
    pub step_timeout: Duration,
    /// Target for a step that others' tokens wait for.
    pub shared_step: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { max_queued: 64, step_timeout: Duration::from_secs(120), shared_step: Duration::from_millis(50) }
    }
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; the context's end stops earlier.
    pub max_tokens: usize,
    /// How to draw.
    pub params: SampleParams,
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

enum Message {
    Generate { request: Request, events: UnboundedSender<Event>, cancel: Cancel },
    Stop,
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
        let message = Message::Generate { request, events: sender.clone(), cancel: cancel.clone() };
        if self.messages.send(message).is_err() {
            let _ = sender.unbounded_send(Event::Failed(RequestError::Stopped));
        }
        Generation { events, cancel }
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
}

struct Active {
    id: u64,
    request: Request,
    events: UnboundedSender<Event>,
    cancel: Cancel,
    sequence: SequenceId,
    reused: usize,
    /// Tokens of the prompt that were issued.
    fed: usize,
    /// Tokens that were issued to be drawn.
    drawn: usize,
    reply: Vec<u32>,
    next: Option<Next>,
    /// Steps under way that this sequence is in.
    in_flight: usize,
    finish: Option<Finish>,
    started: Instant,
    first_token: Option<Instant>,
}

struct Flight {
    issued: Issued,
    ticket: Ticket,
    /// `(active, whether a token is drawn for it)`, in the order of the ticket's rows.
    members: Vec<(u64, bool)>,
    rows: usize,
    issued_at: Instant,
}

struct Idle {
    tokens: Vec<u32>,
    sequence: SequenceId,
}

struct Scheduler {
    executor: Executor,
    n_vocab: usize,
    options: EngineOptions,
    queue: VecDeque<(Request, UnboundedSender<Event>, Cancel)>,
    active: Vec<Active>,
    /// Finished sequences, the one used last at the end.
    idle: Vec<Idle>,
    flights: VecDeque<Flight>,
    next_id: u64,
    /// Measured prefill rate, for steps that others wait for.
    rows_per_second: f64,
    lost: Option<RequestError>,
}

impl Scheduler {
    fn new(executor: Executor, n_vocab: usize, options: EngineOptions) -> Self {
        Scheduler {
            executor,
            n_vocab,
            options,
            queue: VecDeque::new(),
            active: Vec::new(),
            idle: Vec::new(),
            flights: VecDeque::new(),
            next_id: 0,
            rows_per_second: 0.0,
            lost: None,
        }
    }

    fn run(&mut self, inbox: &mpsc::Receiver<Message>) {
        loop {
            let waiting = self.active.is_empty() && self.queue.is_empty() && self.flights.is_empty();
            let mut message = match waiting {
                true => inbox.recv().ok(),
                false => inbox.try_recv().ok(),
            };
            if waiting && message.is_none() {
                return;
            }
            while let Some(Message::Generate { request, events, cancel }) = message {
                self.enqueue(request, events, cancel);
                message = inbox.try_recv().ok();
            }
            if let Some(Message::Stop) = message {
                self.break_off(&RequestError::Stopped);
                return;
            }
            self.turn();
        }
    }

    /// Ends everything with an error.
    fn break_off(&mut self, error: &RequestError) {
        let active = self.active.drain(..).map(|a| a.events);
        for events in active.chain(self.queue.drain(..).map(|(_, events, _)| events)) {
            let _ = events.unbounded_send(Event::Failed(error.clone()));
        }
    }

    fn enqueue(&mut self, request: Request, events: UnboundedSender<Event>, cancel: Cancel) {
        let n_ctx = self.executor.options().n_ctx;
        let outside = request.prompt.iter().position(|&id| id as usize >= self.n_vocab);
        let error = if let Some(error) = &self.lost {
            error.clone()
        } else if request.prompt.is_empty() {
            RequestError::EmptyPrompt
        } else if let Some(position) = outside {
            RequestError::Token { id: request.prompt[position], position, n_vocab: self.n_vocab }
        } else if request.prompt.len() >= n_ctx as usize {
            RequestError::PromptTooLong { tokens: request.prompt.len(), n_ctx }
        } else if self.queue.len() >= self.options.max_queued {
            RequestError::QueueFull(self.queue.len())
        } else {
            self.queue.push_back((request, events, cancel));
            return;
        };
        let _ = events.unbounded_send(Event::Failed(error));
    }

    /// One round: admit, issue a step, settle those that are due.
    fn turn(&mut self) {
        self.admit();
        for active in &mut self.active {
            if active.cancel.is_cancelled() && active.finish.is_none() {
                active.finish = Some(Finish::Cancelled);
            }
        }
        let issued = match self.issue() {
            Ok(issued) => issued,
            Err(error) => return self.fail(error),
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

    /// Steps that may be under way.
    fn depth(&self) -> usize {
        self.executor.device().describe().steps_in_flight.max(1)
    }

    fn admit(&mut self) {
        while !self.queue.is_empty() && self.active.len() < self.executor.options().n_sequences as usize {
            let Some((request, events, cancel)) = self.queue.pop_front() else { return };
            match self.sequence_for(&request.prompt) {
                Ok((sequence, reused)) => {
                    self.active.push(Active {
                        id: self.next_id,
                        fed: reused,
                        reused,
                        request,
                        events,
                        cancel,
                        sequence,
                        drawn: 0,
                        reply: Vec::new(),
                        next: None,
                        in_flight: 0,
                        finish: None,
                        started: Instant::now(),
                        first_token: None,
                    });
                    self.next_id += 1;
                }
                Err(error) => {
                    let _ = events.unbounded_send(Event::Failed(RequestError::Failed(error.to_string())));
                }
            }
        }
    }

    /// The idle sequence that is the longest beginning of `prompt`, or a new one.
    fn sequence_for(&mut self, prompt: &[u32]) -> Result<(SequenceId, usize), ExecutorError> {
        let begins = |idle: &Idle| idle.tokens.len() < prompt.len() && prompt.starts_with(&idle.tokens);
        let best = (0..self.idle.len()).filter(|&i| begins(&self.idle[i])).max_by_key(|&i| self.idle[i].tokens.len());
        if let Some(i) = best {
            let idle = self.idle.remove(i);
            return Ok((idle.sequence, idle.tokens.len()));
        }
        if self.active.len() + self.idle.len() >= self.executor.options().n_sequences as usize {
            let oldest = self.idle.remove(0);
            self.executor.remove(oldest.sequence);
        }
        Ok((self.executor.create()?, 0))
    }

    /// Issues the next step; false if there is nothing to do.
    fn issue(&mut self) -> Result<bool, ExecutorError> {
        let mut works = Vec::new();
        let mut members = Vec::new();
        let mut draws = Vec::new();
        let n_ctx = self.executor.options().n_ctx;
        let decoding = self.active.iter().filter(|a| a.next.is_some() && a.finish.is_none()).count();
        let mut budget = self.prefill_budget(decoding > 0);
        for active in self.active.iter_mut().filter(|a| a.finish.is_none()) {
            let start = self.executor.len(active.sequence)?;
            let (inputs, kind, draw) = match active.next {
                Some(next) => {
                    if active.drawn >= active.request.max_tokens || start >= n_ctx {
                        continue;
                    }
                    let input = match next {
                        Next::Known(id) => Input::Token(id),
                        Next::Drawn { ticket, row } => Input::Sampled { ticket, row },
                    };
                    (vec![input], SpanKind::Decode, true)
                }
                None if active.fed == active.request.prompt.len() => continue,
                None => {
                    let left = active.request.prompt.len() - active.fed;
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
                    let inputs =
                        active.request.prompt[active.fed..][..take].iter().map(|&id| Input::Token(id)).collect();
                    active.fed += take;
                    (inputs, SpanKind::Prefill, take == left && active.request.max_tokens > 0)
                }
            };
            if draw {
                draws.push(SampleRow {
                    row: draws.len() as u32,
                    params: active.request.params.clone(),
                    position: start + inputs.len() as u32,
                    bias: active.request.bias.clone(),
                    stop: active.request.stop.clone(),
                });
                active.drawn += 1;
            }
            let outputs = if draw { vec![inputs.len() as u32 - 1] } else { Vec::new() };
            works.push(Work { sequence: active.sequence, kind, inputs, outputs });
            members.push((active.id, draw));
        }
        if works.is_empty() {
            return Ok(false);
        }
        // A flag of one request may stop a step only if nobody else is in it, and no later step is issued
        // before it is known to have stopped.
        let cancel = match &members[..] {
            [(id, _)] if self.depth() == 1 => self.active.iter().find(|a| a.id == *id).map(|a| a.cancel.clone()),
            _ => None,
        };
        let rows = works.iter().map(|w| w.inputs.len()).sum();
        let issued_at = Instant::now();
        let issued = match self.executor.issue(works, &cancel.unwrap_or_default()) {
            Err(ExecutorError::Device(DeviceError::Cancelled)) => {
                self.active
                    .iter_mut()
                    .filter(|a| a.id == members[0].0)
                    .for_each(|a| a.finish = Some(Finish::Cancelled));
                return Ok(true);
            }
            other => other?,
        };
        let ticket = self.executor.sample(&issued.rows, &draws)?;
        let mut row = 0;
        for (id, draw) in &members {
            let Some(active) = self.active.iter_mut().find(|a| a.id == *id) else { continue };
            active.in_flight += 1;
            if *draw {
                active.next = Some(Next::Drawn { ticket: ticket.id, row });
                row += 1;
            }
        }
        self.flights.push_back(Flight { issued, ticket, members, rows, issued_at });
        Ok(true)
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
        let Some(flight) = self.flights.pop_front() else { return Ok(()) };
        let Flight { mut issued, ticket, members, rows, issued_at } = flight;
        let Ticket { id: ticket_id, tokens } = ticket;
        let tokens = tokens.wait(self.options.step_timeout)?;
        if rows >= PAGE_TOKENS as usize {
            self.rows_per_second = rows as f64 / issued_at.elapsed().as_secs_f64().max(1e-6);
        }
        let n_ctx = self.executor.options().n_ctx as usize;
        let mut drawn = tokens.into_iter().enumerate();
        for (id, draw) in members {
            let token = if draw { drawn.next() } else { None };
            let Some(active) = self.active.iter_mut().find(|a| a.id == id) else { continue };
            active.in_flight -= 1;
            if active.finish.is_some() {
                // It ended while this step was under way: as if the step had never been.
                self.executor.undo(&mut issued, active.sequence);
                continue;
            }
            let Some((row, token)) = token else {
                let (done, total) = (active.fed, active.request.prompt.len());
                let _ = active.events.unbounded_send(Event::Prompt { done, total });
                if active.request.max_tokens == 0 && done == total {
                    active.finish = Some(Finish::Length);
                }
                continue;
            };
            active.first_token.get_or_insert_with(Instant::now);
            if active.request.stop.contains(&token.id) {
                active.finish = Some(Finish::Stop);
                continue;
            }
            if matches!(active.next, Some(Next::Drawn { ticket, row: r }) if ticket == ticket_id && r as usize == row) {
                active.next = Some(Next::Known(token.id));
            }
            active.reply.push(token.id);
            if active.events.unbounded_send(Event::Token(token.id)).is_err() {
                active.finish = Some(Finish::Cancelled);
            } else if active.reply.len() >= active.request.max_tokens {
                active.finish = Some(Finish::Length);
            } else if active.request.prompt.len() + active.reply.len() > n_ctx {
                active.finish = Some(Finish::Context);
            }
        }
        self.executor.confirm(issued);
        Ok(())
    }

    /// Reports those that have ended, and keeps their sequences for later prompts.
    fn retire(&mut self) {
        let mut i = 0;
        while i < self.active.len() {
            let active = &self.active[i];
            let (Some(finish), 0) = (active.finish, active.in_flight) else {
                i += 1;
                continue;
            };
            let active = self.active.remove(i);
            let first = active.first_token.unwrap_or_else(Instant::now);
            let report = Report {
                prompt_tokens: active.request.prompt.len(),
                reused_tokens: active.reused,
                generated_tokens: active.reply.len(),
                prompt_time: first - active.started,
                generation_time: first.elapsed(),
                finish,
            };
            let mut tokens = active.request.prompt;
            tokens.extend(active.reply);
            match self.executor.len(active.sequence) {
                Ok(n) if n > 0 => {
                    tokens.truncate(n as usize);
                    self.idle.push(Idle { tokens, sequence: active.sequence });
                }
                _ => self.executor.remove(active.sequence),
            }
            let _ = active.events.unbounded_send(Event::Done(report));
        }
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
            self.executor.confirm(issued);
        }
        for active in self.active.drain(..) {
            self.executor.remove(active.sequence);
            let _ = active.events.unbounded_send(Event::Failed(message.clone()));
        }
        if self.lost.is_some() {
            self.break_off(&message);
        }
    }
}
