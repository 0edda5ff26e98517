//! Chat templates: a conversation becomes the text a model was trained on.
//!
//! Templates are Jinja as Hugging Face's transformers runs it, here in minijinja with the differences levelled
//! (`python.rs`). A template comes out of a downloaded file, so it is treated as hostile: its source, the work it
//! does, the memory it takes and the text it writes are bounded, and every failure is a [`TemplateError`].

mod adapt;
mod builtin;
mod environment;
mod guard;
mod python;

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};

pub use builtin::BuiltinFormat;

use crate::clock::DateTime;
use crate::error::TemplateError;
use adapt::Shapes;

/// Longest accepted template source in bytes. The longest published one has about 30,000.
pub const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Longest text a template may write, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;

/// Steps a rendering may take, in minijinja's unit: an instruction, or 64 bytes of data made. Also bounds what a
/// template can allocate, to 128 MB.
pub const MAX_STEPS: u64 = 2_000_000;

/// Steps of each small conversation that is rendered to learn what a template understands.
const PROBE_STEPS: u64 = 200_000;

/// Borders are looked for at the ends of this many last messages. Each costs one rendering, and those of earlier
/// messages were found when they were the last.
const MAX_BORDERS: usize = 32;

/// The name the template has in the engine.
const NAME: &str = "chat";

/// One message of a conversation, as the chat APIs have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// Text, a list of parts (`[{"type": "text", "text": ..}]`), or null.
    #[serde(default)]
    pub content: serde_json::Value,
    /// All other fields, in order: `tool_calls`, `name`, `reasoning_content`, ..
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: serde_json::Value::String(content.into()), extra: serde_json::Map::new() }
    }

    fn to_value(&self) -> Value {
        let role = serde_json::Value::String(self.role.clone());
        let names = ["role".to_string(), "content".to_string()];
        python::from_fields(names.iter().zip([&role, &self.content]).chain(self.extra.iter()))
    }
}

/// What a rendering takes beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the beginning of the assistant's reply.
    pub add_generation_prompt: bool,
    /// Further variables: `tools`, `documents`, `enable_thinking`, `reasoning_effort`, .. They take precedence over
    /// the standard ones.
    pub kwargs: serde_json::Map<String, serde_json::Value>,
    /// The time templates get from `strftime_now`.
    pub now: DateTime,
}

/// A conversation as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt. Usually begins with bos as text: encode it with [`crate::Tokenizer::encode_prompt`].
    pub text: String,
    /// Byte offsets in `text`, ascending, at which a message ends: there the text of the messages so far, rendered
    /// alone, ends too. Only offsets that hold are here, so there may be fewer than messages, or none.
    pub borders: Vec<usize>,
}

/// A chat template, read once and rendered many times.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    shapes: Shapes,
}

impl ChatTemplate {
    /// Reads a template. `bos` and `eos` are the texts of these tokens, empty if there are none (see
    /// [`crate::Tokenizer::template_text`]).
    ///
    /// # Errors
    ///
    /// A source that is too long or no valid template; the error names the line.
    pub fn new(source: &str, bos: impl Into<String>, eos: impl Into<String>) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::SourceTooLarge { bytes: source.len(), limit: MAX_SOURCE_BYTES });
        }
        let mut environment = environment::new();
        let neutral = environment::neutralise_generation_tags(source);
        let guarded = guard::guard(&neutral)
            .map_err(|too_complex| TemplateError::Syntax { line: too_complex.line, reason: too_complex.reason })?;
        contained(|| {
            // Read as it is first: errors then show the author's own words.
            environment.template_from_str(&neutral).map_err(|error| template_error(&error))?;
            environment.add_template_owned(NAME, guarded).map_err(|error| template_error(&error))
        })?;
        let mut template =
            Self { environment, source: source.into(), bos: bos.into(), eos: eos.into(), shapes: Shapes::default() };
        template.environment.set_fuel(Some(PROBE_STEPS));
        template.shapes = Shapes::probe(&template);
        template.environment.set_fuel(Some(MAX_STEPS));
        Ok(template)
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if the template writes out tools that are passed as `tools`.
    pub fn supports_tools(&self) -> bool {
        self.shapes.tools
    }

    /// True if the template behaves differently with `enable_thinking` true and false.
    pub fn supports_thinking_switch(&self) -> bool {
        self.shapes.thinking
    }

    /// Renders a conversation. Content given as parts is joined to text where the template knows text only, and
    /// the other way round; tool-call arguments are given as the template wants them, JSON text or objects.
    ///
    /// # Errors
    ///
    /// The template refused the conversation, failed, or passed a bound. The error names the line.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered, TemplateError> {
        let messages: Vec<Value> = messages.iter().map(|message| self.shapes.adapt(message).to_value()).collect();
        let (text, steps) = self.render_values(&messages, options, options.add_generation_prompt)?;
        let mut borders = Vec::new();
        let mut spent = 0;
        for end in (1..=messages.len()).rev().take(MAX_BORDERS) {
            // Looking for borders must not cost a multiple of what the longest rendering may.
            if spent + steps > MAX_STEPS {
                break;
            }
            // Templates may refuse a conversation that ends here, or write its last message otherwise than in the
            // middle; then the place is no border.
            match self.render_values(&messages[..end], options, false) {
                Ok((head, steps)) => {
                    spent += steps;
                    if !head.is_empty() && text.starts_with(&head) {
                        borders.push(head.len());
                    }
                }
                Err(TemplateError::OutOfSteps { .. }) => break,
                Err(_) => spent += steps,
            }
        }
        borders.sort_unstable();
        borders.dedup();
        Ok(Rendered { text, borders })
    }

    /// The text, and the steps it took.
    fn render_values(
        &self,
        messages: &[Value],
        options: &RenderOptions,
        add_generation_prompt: bool,
    ) -> Result<(String, u64), TemplateError> {
        let mut context: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from(messages.to_vec())),
            ("add_generation_prompt".into(), Value::from(add_generation_prompt)),
            ("bos_token".into(), Value::from(self.bos.as_str())),
            ("eos_token".into(), Value::from(self.eos.as_str())),
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
        ];
        for (name, value) in &options.kwargs {
            context.push((name.clone(), python::from_json(value)));
        }
        let now = options.now;
        context.push(("strftime_now".into(), Value::from_function(move |pattern: &str| now.format(pattern))));
        contained(|| {
            let template = self.environment.get_template(NAME).map_err(|error| template_error(&error))?;
            let full = Cell::new(false);
            let mut writer = Bounded { text: Vec::new(), full: &full };
            let result = template.render_captured_to(Value::from_pairs(context), &mut writer);
            if full.get() {
                return Err(TemplateError::OutputTooLarge { limit: MAX_OUTPUT_BYTES });
            }
            let steps = match &result {
                Ok(captured) => captured.state().fuel_levels().map_or(0, |(consumed, _)| consumed),
                Err(error) => return Err(template_error(error)),
            };
            drop(result);
            // The engine writes strings only.
            Ok((String::from_utf8_lossy(&writer.text).into_owned(), steps))
        })
    }
}

/// Runs the engine. Should it panic on some template, that becomes an error: nothing it left behind is used again.
fn contained<T>(run: impl FnOnce() -> Result<T, TemplateError>) -> Result<T, TemplateError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap_or_default();
        Err(TemplateError::Engine { reason })
    })
}

/// Collects output up to the limit.
struct Bounded<'a> {
    text: Vec<u8>,
    full: &'a Cell<bool>,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_OUTPUT_BYTES {
            self.full.set(true);
            return Err(io::Error::other("output limit"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The engine's error in this crate's words.
fn template_error(error: &minijinja::Error) -> TemplateError {
    let line = error.line().unwrap_or(0);
    let mut reason = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<environment::Raised>() {
            return TemplateError::Raised { line, message: raised.0.clone() };
        }
        if let Some(inner) = cause.downcast_ref::<minijinja::Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return TemplateError::OutOfSteps { line, limit: MAX_STEPS };
        }
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::OutOfSteps { line, limit: MAX_STEPS },
        ErrorKind::SyntaxError | ErrorKind::BadEscape => TemplateError::Syntax { line, reason },
        _ => TemplateError::Render { line, reason },
    }
}

#[cfg(test)]
mod tests;
