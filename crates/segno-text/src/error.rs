//! What can be wrong with a vocabulary or a chat template.

/// A vocabulary that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// `tokenizer.ggml.model` names a kind this crate has no code for.
    #[error("tokenizer model {model:?} is not supported; supported are gpt2, llama, gemma4, t5, rwkv and plamo2")]
    UnsupportedModel {
        /// The name in the file.
        model: String,
    },
    /// `tokenizer.ggml.pre` names a splitting rule this crate does not know.
    #[error("pre-tokenizer {pre:?} is not known; a wrong splitting rule gives wrong tokens, so none is guessed")]
    UnknownPreTokenizer {
        /// The name in the file.
        pre: String,
    },
    /// The vocabulary has no tokens.
    #[error("the vocabulary is empty; expected at least one entry in tokenizer.ggml.tokens")]
    NoTokens,
    /// The vocabulary is larger than token ids can name.
    #[error("the vocabulary has {found} tokens; at most {limit} can be used")]
    TooManyTokens {
        /// Entries in the file.
        found: usize,
        /// The largest usable number.
        limit: usize,
    },
    /// A list that goes with the tokens has another length than they have.
    #[error("{list} has {found} entries, but there are {tokens} tokens; expected as many, or none")]
    LengthMismatch {
        /// Which list, by its key in the file.
        list: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        tokens: usize,
    },
    /// Two tokens have the same text.
    #[error("tokens {first} and {second} have the same text {text:?}; all must be distinct")]
    DuplicateToken {
        /// The text, invalid UTF-8 replaced.
        text: String,
        /// The smaller id.
        first: u32,
        /// The larger id.
        second: u32,
    },
    /// The special tokens could not be made into one search automaton.
    #[error("the special tokens cannot be indexed: {reason}")]
    SpecialTokens {
        /// What the index said.
        reason: String,
    },
    /// `tokenizer.ggml.precompiled_charsmap` contradicts itself.
    #[error("precompiled_charsmap: {reason}")]
    Charsmap {
        /// What was wrong.
        reason: String,
    },
}

/// A chat template that cannot be read or did not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template's source is longer than allowed.
    #[error("the chat template has {bytes} bytes; at most {limit} are accepted")]
    SourceTooLarge {
        /// Length of the source.
        bytes: usize,
        /// The largest accepted length.
        limit: usize,
    },
    /// The source is no valid template.
    #[error("chat template, line {line}: {reason}")]
    Syntax {
        /// Line in the source, from 1; 0 if unknown.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// The template refused the conversation through `raise_exception`.
    #[error("the chat template refused the conversation (line {line}): {message}")]
    Raised {
        /// Line in the source, from 1; 0 if unknown.
        line: usize,
        /// The template's own words.
        message: String,
    },
    /// An expression failed while rendering.
    #[error("chat template, line {line}: {reason}")]
    Render {
        /// Line in the source, from 1; 0 if unknown.
        line: usize,
        /// What failed.
        reason: String,
    },
    /// The rendered text grew beyond the limit.
    #[error("the chat template wrote more than {limit} bytes; it was stopped")]
    OutputTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The template ran longer than allowed.
    #[error("the chat template did not finish within {limit} steps (line {line}); it was stopped")]
    OutOfSteps {
        /// Line in the source, from 1; 0 if unknown.
        line: usize,
        /// The limit, see [`crate::template::MAX_STEPS`].
        limit: u64,
    },
    /// The template engine itself failed.
    #[error("the template engine failed on this chat template: {reason}")]
    Engine {
        /// Its last words.
        reason: String,
    },
}
