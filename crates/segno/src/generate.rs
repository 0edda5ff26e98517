//! A loaded model, conversations with it, and replies as they come.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use segno_ir::{Cancel, Capabilities, SampleParams};
use segno_runtime::{Engine, Event, Generation, Report, Request, RequestError, Sampling};
use segno_text::{DateTime, DecodeStream, EncodeOptions, Message, RenderOptions, Tokenizer};

use crate::{Error, Model, Text};

/// A model on a device.
pub struct Session {
    model: Model,
    engine: Engine,
    device: Capabilities,
}

/// How a reply is drawn. The defaults are llama.cpp's; [`Model::sampling`] has what the model's author recommends.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// The samplers. Those that the device has run there, others on the host.
    pub sampling: Sampling,
    /// Of the generator; `None`: another one each time.
    pub seed: Option<u64>,
    /// Most tokens of the reply; `None`: up to the context's end.
    pub max_tokens: Option<usize>,
    /// Added to the logits of some tokens.
    pub bias: Vec<(u32, f32)>,
    /// Texts at which DRY's repetitions end.
    pub dry_breakers: Vec<String>,
    /// The reply goes on where the model would end it.
    pub ignore_eos: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            sampling: Sampling::default(),
            seed: None,
            max_tokens: None,
            bias: Vec::new(),
            dry_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            ignore_eos: false,
        }
    }
}

impl GenerateOptions {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        GenerateOptions { sampling: Sampling::greedy(), ..Self::default() }
    }

    /// What the engine is asked, but for the prompt.
    fn request(&self, tokenizer: &Tokenizer) -> Request {
        use std::hash::{BuildHasher, RandomState};
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        let mut bias = self.bias.clone();
        let mut stop = tokenizer.end_of_generation().to_vec();
        if self.ignore_eos {
            bias.extend(stop.drain(..).map(|id| (id, f32::NEG_INFINITY)));
        }
        let (params, host) = match self.sampling.device(seed) {
            Some(params) => (params, None),
            None => {
                let dry_breakers = match self.sampling.dry_multiplier > 0.0 {
                    true => breakers(tokenizer, &self.dry_breakers),
                    false => Vec::new(),
                };
                let host = Sampling { dry_breakers, ..self.sampling.clone() };
                (SampleParams { seed, ..SampleParams::default() }, Some(host))
            }
        };
        let max_tokens = self.max_tokens.unwrap_or(usize::MAX);
        Request { max_tokens, params, host, bias, stop, ..Request::default() }
    }
}

/// Longest tail of a breaker, in tokens: llama.cpp's limit.
const BREAKER_TAIL: usize = 20;

/// The ways in which tokens can write each text: one that holds it, or one that ends with its beginning, and the
/// tokens of the rest.
fn breakers(tokenizer: &Tokenizer, texts: &[String]) -> Vec<(u32, Vec<u32>)> {
    let mut all = BTreeSet::new();
    let plain = EncodeOptions { add_special: false, parse_special: false };
    for text in texts.iter().map(String::as_bytes).filter(|text| !text.is_empty()) {
        for id in 0..tokenizer.n_vocab() as u32 {
            let word = tokenizer.token_bytes(id);
            if word.windows(text.len()).any(|part| part == text) {
                all.insert((id, Vec::new()));
                continue;
            }
            for at in 0..word.len() {
                if let Some(rest) = text.strip_prefix(&word[at..]) {
                    let mut tail = tokenizer.encode(rest, plain);
                    tail.truncate(BREAKER_TAIL);
                    all.insert((id, tail));
                }
            }
        }
    }
    all.into_iter().collect()
}

impl Session {
    pub(crate) fn new(model: Model, engine: Engine, device: Capabilities) -> Self {
        Session { model, engine, device }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What it runs on.
    pub fn device(&self) -> &Capabilities {
        &self.device
    }

    /// The engine's plan and figures.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Continues a text, without a chat template.
    pub fn complete(&self, text: &str, options: &GenerateOptions) -> Reply<'_> {
        let encode = EncodeOptions { add_special: true, parse_special: false };
        self.generate(self.model.tokenizer().encode(text, encode), options)
    }

    /// Continues token ids.
    pub fn generate(&self, prompt: Vec<u32>, options: &GenerateOptions) -> Reply<'_> {
        self.generate_from(Prompt { ids: prompt, ..Prompt::default() }, options)
    }

    /// Continues a prompt whose borders are known: they are good places for checkpoints.
    pub fn generate_from(&self, prompt: Prompt, options: &GenerateOptions) -> Reply<'_> {
        let tokenizer = self.model.tokenizer();
        let request = options.request(tokenizer);
        let generation =
            self.engine.generate(Request { prompt: prompt.ids.clone(), borders: prompt.borders, ..request });
        let stream = tokenizer.decode_stream(false);
        let (tokens, text) = (Vec::new(), String::new());
        Reply { session: self, generation, stream, prompt: prompt.ids, tokens, text, report: None }
    }

    /// A conversation without messages.
    pub fn chat(&self) -> Chat<'_> {
        Chat { session: self, messages: Vec::new() }
    }

    /// A text without tokens, for programs that have no use for messages.
    pub fn text(&self) -> Text<'_> {
        Text::new(self)
    }
}

/// Where a file is written before it takes the place of `path`: in the same folder, under a name of its own.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    name.into()
}

/// What the model reads.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// The text, as far as it was made of one.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// How many tokens stand before each end of a message, ascending.
    pub borders: Vec<u32>,
}

/// A conversation. A clone is a branch: what both share is read once.
#[derive(Clone)]
pub struct Chat<'s> {
    session: &'s Session,
    messages: Vec<Message>,
}

impl<'s> Chat<'s> {
    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Adds a message of any role.
    pub fn push(&mut self, role: &str, content: &str) {
        self.messages.push(Message::new(role, content));
    }

    /// Adds a message of the user.
    pub fn user(&mut self, content: &str) {
        self.push("user", content);
    }

    /// Adds what the model said.
    pub fn assistant(&mut self, content: &str) {
        self.push("assistant", content);
    }

    /// Takes the last message back.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// Replaces the content of message `i`; false if there is none. What follows it stays: see
    /// [`truncate`](Self::truncate).
    pub fn edit(&mut self, i: usize, content: &str) -> bool {
        let message = self.messages.get_mut(i);
        message.map(|m| m.content = content.into()).is_some()
    }

    /// Puts a message before message `i`, or at the end.
    pub fn insert(&mut self, i: usize, role: &str, content: &str) {
        self.messages.insert(i.min(self.messages.len()), Message::new(role, content));
    }

    /// Goes back to the first `n` messages.
    pub fn truncate(&mut self, n: usize) {
        self.messages.truncate(n);
    }

    /// Writes the messages to a JSON file, beside it first and then in its place.
    pub fn save(&self, path: impl AsRef<Path>) -> std::io::Result<()> {
        let path = path.as_ref();
        let beside = beside(path);
        std::fs::write(&beside, serde_json::to_vec_pretty(&self.messages)?)?;
        std::fs::rename(&beside, path)
    }

    /// Writes the states of the conversation to a folder, so that another run of the program goes on from them:
    /// tokens of the longest.
    pub fn save_states(&self, folder: impl AsRef<Path>) -> Result<u32, Error> {
        Ok(self.session.engine.save(folder.as_ref(), &self.prompt()?.ids)?)
    }

    /// Takes the states of a folder that [`save_states`](Self::save_states) wrote.
    pub fn load_states(&self, folder: impl AsRef<Path>) -> Result<u32, Error> {
        Ok(self.session.engine.load(folder.as_ref())?)
    }

    /// Takes the messages of a file that [`save`](Self::save) wrote.
    pub fn load(&mut self, path: impl AsRef<Path>) -> std::io::Result<()> {
        self.messages = serde_json::from_slice(&std::fs::read(path)?)?;
        Ok(())
    }

    /// The prompt that the template makes of the messages, ready for a reply.
    pub fn prompt(&self) -> Result<Prompt, Error> {
        let model = &self.session.model;
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = DateTime { unix_seconds: since_1970.as_secs() as i64, utc_offset_seconds: 0 };
        let options = RenderOptions { add_generation_prompt: true, now, ..Default::default() };
        let rendered = model.template().render(&self.messages, &options)?;
        let encoded = model.tokenizer().encode_prompt(&rendered.text, &rendered.borders);
        let borders = encoded.borders.iter().map(|&b| b as u32).collect();
        Ok(Prompt { text: rendered.text, ids: encoded.ids, borders })
    }

    /// Starts the model's reply. It is not added to the messages: see [`assistant`](Self::assistant).
    pub fn reply(&self, options: &GenerateOptions) -> Result<Reply<'s>, Error> {
        Ok(self.session.generate_from(self.prompt()?, options))
    }
}

/// A reply as it comes: an iterator over pieces of text, whole characters each. Dropping it ends the work.
pub struct Reply<'s> {
    session: &'s Session,
    generation: Generation,
    stream: DecodeStream,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
    report: Option<Report>,
}

impl Reply<'_> {
    /// The flag that stops it.
    pub fn cancel_flag(&self) -> Cancel {
        self.generation.cancel_flag()
    }

    /// Who replies.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// The reply's tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it cost, once it has ended.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// As [`next`](Iterator::next); tells `progress` how much of the prompt has been read.
    pub fn next_with(&mut self, mut progress: impl FnMut(usize, usize)) -> Option<Result<String, Error>> {
        while self.report.is_none() {
            let piece = match self.generation.next_blocking() {
                None => return Some(Err(RequestError::Stopped.into())),
                Some(Event::Failed(error)) => return Some(Err(error.into())),
                Some(Event::Prompt { done, total }) => {
                    progress(done, total);
                    continue;
                }
                Some(Event::Token(id)) => {
                    self.tokens.push(id);
                    self.stream.push(self.session.model.tokenizer(), id)
                }
                Some(Event::Done(report)) => {
                    self.report = Some(report);
                    self.stream.finish()
                }
            };
            if !piece.is_empty() {
                self.text.push_str(&piece);
                return Some(Ok(piece));
            }
        }
        None
    }
}

impl Iterator for Reply<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_with(|_, _| ())
    }
}
