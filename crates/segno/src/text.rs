//! Conversations without messages: tokens that a program and the model write in turn.

use std::ops::Range;
use std::path::Path;

use segno_runtime::Report;
use segno_runtime::image::ImageError;
use segno_text::EncodeOptions;

use crate::{Error, GenerateOptions, Prompt, Reply, Session, beside};

/// A text that a program and the model write in turn: tokens, without messages or a template ([`Chat`](crate::Chat) has
/// those). A clone is a branch: what both share is read once.
///
/// Anything may be changed anywhere; the next reply reads what stands behind the first token that differs from what is
/// remembered, and [`report`](Self::report) tells how much that was.
///
/// ```
/// use segno::{GenerateOptions, LoadOptions, Model};
///
/// let session = Model::demo()?.load(&LoadOptions { device: "cpu".into(), ..Default::default() })?;
/// let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::greedy() };
/// let mut story = session.text();
/// story.append("The fox has a red lantern.");
/// let place = story.len();
/// story.append(" It walks to the old bridge");
/// let piece = story.generate(&options)?; // 12 tokens, now part of the story
/// assert!(story.text().ends_with(&piece));
///
/// let mut other = story.branch();
/// other.edit(place..other.len(), " It sleeps");
/// other.generate(&options)?;
/// assert_eq!(other.report().map(|report| report.reused_tokens), Some(place));
/// other.rewind(5);
/// other.generate(&options)?;
///
/// # let folder = std::env::temp_dir().join(format!("segno-doc-{}", std::process::id()));
/// story.save(&folder)?; // in another run of the program:
/// let mut again = session.text();
/// again.load(&folder)?;
/// assert_eq!(again.tokens(), story.tokens());
/// # std::fs::remove_dir_all(folder).expect("removed");
/// # Ok::<(), segno::Error>(())
/// ```
#[derive(Clone)]
pub struct Text<'s> {
    session: &'s Session,
    ids: Vec<u32>,
    /// Where pieces end, ascending: good places for checkpoints.
    borders: Vec<u32>,
    report: Option<Report>,
}

/// Name of the file with the tokens, in the folder of a saved text.
const FILE: &str = "text.json";

impl<'s> Text<'s> {
    pub(crate) fn new(session: &'s Session) -> Self {
        Text { session, ids: Vec::new(), borders: Vec::new(), report: None }
    }

    /// Its tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.ids
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What they say.
    pub fn text(&self) -> String {
        self.session.model().tokenizer().decode(&self.ids, false)
    }

    /// Adds a text. What is added at once is encoded alone; at the beginning, with the special token that texts of this
    /// model begin with.
    pub fn append(&mut self, text: &str) {
        self.edit(self.len()..self.len(), text);
    }

    /// Adds tokens.
    pub fn append_tokens(&mut self, ids: &[u32]) {
        self.edit_tokens(self.len()..self.len(), ids);
    }

    /// Puts a text in place of a range of tokens; false if there are not so many.
    pub fn edit(&mut self, range: Range<usize>, text: &str) -> bool {
        let tokenizer = self.session.model().tokenizer();
        let ids = match range.start {
            0 => tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false }),
            _ => tokenizer.encode_more(text),
        };
        self.edit_tokens(range, &ids)
    }

    /// Puts tokens in place of others; false if there are not so many.
    pub fn edit_tokens(&mut self, range: Range<usize>, ids: &[u32]) -> bool {
        if range.start > range.end || range.end > self.len() {
            return false;
        }
        let (start, end, new_end) = (range.start as u32, range.end as u32, (range.start + ids.len()) as u32);
        self.ids.splice(range, ids.iter().copied());
        let before = self.borders.iter().copied().filter(|&b| b < start);
        let behind = self.borders.iter().filter(|&&b| b > end).map(|b| b - end + new_end);
        self.borders = before.chain([start, new_end]).chain(behind).collect();
        self.borders.dedup();
        true
    }

    /// Takes the last `n` tokens back, or all if there are fewer.
    pub fn rewind(&mut self, n: usize) {
        self.truncate(self.len().saturating_sub(n));
    }

    /// Goes back to the first `n` tokens.
    pub fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        self.borders.retain(|&b| b as usize <= n);
    }

    /// A second text with the same past; a clone.
    pub fn branch(&self) -> Self {
        self.clone()
    }

    /// Starts the model's continuation, to be read piece by piece. It becomes part of the text by
    /// [`accept`](Self::accept).
    pub fn reply(&self, options: &GenerateOptions) -> Reply<'s> {
        let prompt = Prompt { ids: self.ids.clone(), borders: self.borders.clone(), ..Prompt::default() };
        self.session.generate_from(prompt, options)
    }

    /// Adds what a reply has said so far, and takes its report.
    pub fn accept(&mut self, reply: &Reply<'_>) {
        self.append_tokens(reply.tokens());
        self.report = reply.report().cloned();
    }

    /// Lets the model continue, adds what it says, and returns that.
    pub fn generate(&mut self, options: &GenerateOptions) -> Result<String, Error> {
        let mut reply = self.reply(options);
        reply.try_for_each(|piece| piece.map(drop))?;
        self.accept(&reply);
        Ok(reply.text().to_string())
    }

    /// What the last continuation cost: tokens reused and read, where its state came from, times.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// Writes the text to a folder, and its states, so that another run of the program goes on from them: tokens of the
    /// longest.
    ///
    /// # Errors
    /// If the folder cannot be written, or nothing of the text is remembered; then its tokens are there all the same.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<u32, Error> {
        let folder = folder.as_ref();
        let states = self.session.engine().save(folder, &self.ids);
        let text = self.session.model().tokenizer().decode(&self.ids, true);
        let file = serde_json::json!({ "text": text, "tokens": self.ids, "borders": self.borders });
        let (path, part) = (folder.join(FILE), beside(&folder.join(FILE)));
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&part, file.to_string()))
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|error| ImageError::Io { place: path.display().to_string(), error })?;
        Ok(states?)
    }

    /// Takes the text of a folder that [`save`](Self::save) wrote, and its states: tokens of the longest.
    ///
    /// # Errors
    /// If there is no text for this vocabulary; nothing changes then. If only its states are of no use here (they are
    /// another device's, say), the text is taken, and the next reply reads it again.
    pub fn load(&mut self, folder: impl AsRef<Path>) -> Result<u32, Error> {
        let (folder, path) = (folder.as_ref(), folder.as_ref().join(FILE));
        let place = path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|error| ImageError::Io { place: place.clone(), error })?;
        let (ids, borders) = self.parse(&bytes).map_err(|reason| ImageError::Malformed { place, reason })?;
        *self = Text { session: self.session, ids, borders, report: None };
        Ok(self.session.engine().load(folder)?)
    }

    /// Tokens and borders of a file, or what is wrong with it.
    fn parse(&self, bytes: &[u8]) -> Result<(Vec<u32>, Vec<u32>), String> {
        let file: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let numbers = |key: &str| {
            serde_json::from_value::<Vec<u32>>(file[key].clone()).map_err(|e| format!("{key}: {e}, expected a list"))
        };
        let (ids, borders) = (numbers("tokens")?, numbers("borders")?);
        let tokenizer = self.session.model().tokenizer();
        let known = ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab());
        if !known || file["text"].as_str() != Some(&tokenizer.decode(&ids, true)) {
            return Err("the tokens do not say its text in this model's vocabulary".into());
        }
        if !borders.is_sorted() || borders.last().is_some_and(|&b| b as usize > ids.len()) {
            return Err(format!("borders: {borders:?}, expected ascending numbers up to {}", ids.len()));
        }
        Ok((ids, borders))
    }
}
