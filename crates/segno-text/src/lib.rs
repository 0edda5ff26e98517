//! Text in, token ids out, and back again.
//!
//! Three things live here:
//!
//! * [`Tokenizer`]: turns text into token ids by the rules a model file names (byte-level BPE with its
//!   pre-tokenizers, sentencepiece BPE, unigram, RWKV, PLaMo-2), and ids into text, whole or piece by piece
//!   ([`DecodeStream`]).
//! * [`ChatTemplate`]: renders a conversation with the Jinja template of the file, under bounds that a hostile
//!   template cannot pass, and reports where each message ends.
//! * [`VocabSource`] and [`SpecialIds`]: the plain data a caller fills from the file's keys.
//!
//! ```
//! use segno_text::{EncodeOptions, Tokenizer, VocabSource};
//!
//! let source = VocabSource {
//!     model: "gpt2".into(),
//!     pre: "qwen2".into(),
//!     tokens: ["h", "i", "hi"].map(|t| t.as_bytes().to_vec()).to_vec(),
//!     merges: vec![b"h i".to_vec()],
//!     ..VocabSource::default()
//! };
//! let tokenizer = Tokenizer::from_source(source)?;
//! assert_eq!(tokenizer.encode("hi", EncodeOptions::default()), [2]);
//! assert_eq!(tokenizer.decode(&[2], false), "hi");
//! # Ok::<(), segno_text::TextError>(())
//! ```
//!
//! Invariants: this crate does no I/O, reads no clock, starts no thread and depends on no other crate of the
//! workspace. No text, vocabulary or template makes it panic. Encoding is close to linear in the length of the
//! text, also where the text has no spaces.

mod bpe;
mod bytes;
mod class;
mod clock;
mod detokenize;
mod error;
mod plamo2;
mod pretokenize;
mod rwkv;
mod special;
mod spm;
pub mod template;
mod tokenizer;
mod trie;
mod ugm;
mod vocab;

pub use clock::DateTime;
pub use detokenize::DecodeStream;
pub use error::{TemplateError, TextError};
pub use template::{BuiltinFormat, ChatTemplate, Message, RenderOptions, Rendered};
pub use tokenizer::{EncodeOptions, Encoded, Tokenizer};
pub use vocab::{SpecialIds, TokenKind, VocabSource};
