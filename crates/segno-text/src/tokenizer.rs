//! The tokenizer: a vocabulary, its special tokens and the model kind's own algorithm.

use crate::bpe::{Bpe, RawBpe};
use crate::bytes::{unescape_spaces, unmap_bytes};
use crate::detokenize::DecodeStream;
use crate::error::TextError;
use crate::plamo2::Plamo2;
use crate::pretokenize::PreTokenizer;
use crate::rwkv::{self, Rwkv};
use crate::special::{self, Fragment, SpecialIndex};
use crate::spm::Spm;
use crate::ugm::Ugm;
use crate::vocab::{Arena, SpecialIds, TokenKind, Vocab, VocabSource};

/// How [`Tokenizer::encode`] treats special tokens. The default adds none and reads none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put bos in front and eos behind where the vocabulary asks for it.
    pub add_special: bool,
    /// Read control and unknown tokens out of the text (`<|im_start|>`). User-defined tokens are always read.
    pub parse_special: bool,
}

/// A prompt as ids, with the places asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// For each border that falls between two tokens: how many ids stand before it. Ascending; borders inside a
    /// token are left out.
    pub borders: Vec<usize>,
}

/// Turns text into token ids and back. Built once per model; shared freely, since no method changes it.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    special: SpecialIds,
    special_index: SpecialIndex,
    end_of_generation: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    /// What each token prints.
    printed: Arena,
}

#[derive(Debug)]
enum Model {
    Bpe(Bpe),
    RawBpe(RawBpe),
    Spm(Spm),
    Ugm(Ugm),
    Rwkv(Rwkv),
    Plamo2(Plamo2),
}

impl Tokenizer {
    /// Builds the tokenizer. Takes the vocabulary apart once (some hundred milliseconds for 250,000 tokens).
    ///
    /// # Errors
    ///
    /// A model kind or splitting rule without code here, lists of unequal length, duplicate tokens.
    pub fn from_source(source: VocabSource) -> Result<Self, TextError> {
        let mut vocab = Vocab::new(&source.tokens, &source.token_types, source.scores)?;
        let kind = source.model.as_str();
        let mut special = source.special;
        let n = vocab.len() as u32;
        special.for_each_mut(|id| *id = id.filter(|&id| id < n));
        // Defaults for files that lack the keys. Byte-level BPE gets none: id 11, which llama.cpp assumes, is an
        // ordinary token in every vocabulary but one, and would end replies.
        let defaults = match kind {
            "llama" => [Some(1), Some(2), Some(0), None],
            "t5" => [None, Some(1), Some(2), Some(0)],
            "plamo2" => [Some(1), Some(2), Some(0), Some(3)],
            _ => [None; 4],
        };
        let [bos, eos, unk, pad] = defaults.map(|id| id.filter(|&id| id < n));
        special.bos = special.bos.or(bos);
        special.eos = special.eos.or(eos);
        special.unk = special.unk.or(unk);
        special.pad = special.pad.or(pad);

        let end_of_generation = special::settle(&mut vocab, &mut special);
        // The defaults for bos, eos and the space in front belong to the model kind.
        let (model, add_bos, add_eos, space_prefix) = match kind {
            "gpt2" if source.pre == "sarvam-moe" => {
                (Model::RawBpe(RawBpe::new(&vocab, &source.merges, false)), false, false, false)
            }
            "gpt2" => {
                if source.pre.is_empty() {
                    log::warn!(
                        "the file names no pre-tokenizer; the default one may split text otherwise than the model was trained"
                    );
                }
                let rule = PreTokenizer::by_name(&source.pre)?;
                let add_bos = rule.add_bos;
                (Model::Bpe(Bpe::byte_level(&vocab, &source.merges, rule)), add_bos, false, false)
            }
            "gemma4" => (Model::RawBpe(RawBpe::new(&vocab, &source.merges, true)), true, false, false),
            "llama" => (Model::Spm(Spm::new(&vocab)), true, false, true),
            "t5" => {
                let space_prefix = source.add_space_prefix.unwrap_or(false);
                let remove_extra = source.remove_extra_whitespaces.unwrap_or(false);
                let ugm = Ugm::new(&vocab, &source.precompiled_charsmap, special.unk, space_prefix, remove_extra)?;
                (Model::Ugm(ugm), false, true, space_prefix)
            }
            "rwkv" => (Model::Rwkv(Rwkv::new(&vocab, special.unk)), false, false, false),
            "plamo2" => (Model::Plamo2(Plamo2::new(&vocab)), false, false, false),
            _ => return Err(TextError::UnsupportedModel { model: source.model }),
        };
        let (add_bos, add_eos) = match &model {
            // These never add any, whatever the file says.
            Model::Rwkv(_) | Model::Plamo2(_) => (false, false),
            // Files of the first converters say otherwise.
            Model::RawBpe(_) if kind == "gemma4" => (true, source.add_eos.unwrap_or(add_eos)),
            _ => (source.add_bos.unwrap_or(add_bos), source.add_eos.unwrap_or(add_eos)),
        };
        let add_space_prefix = match &model {
            Model::Spm(_) | Model::Ugm(_) => source.add_space_prefix.unwrap_or(space_prefix),
            _ => false,
        };
        let special_index = SpecialIndex::new(&vocab, &source.name, &source.pre)?;
        let mut printed = Arena::default();
        for (_, text, token_kind) in vocab.iter() {
            printed.push(&printed_bytes(&model, text, token_kind));
        }
        Ok(Self {
            vocab,
            model,
            special,
            special_index,
            end_of_generation,
            add_bos,
            add_eos,
            add_space_prefix,
            printed,
        })
    }

    /// Turns text into ids. Any bytes are accepted; what is not UTF-8 becomes byte tokens or U+FFFD, by the rule
    /// of the model kind.
    pub fn encode(&self, text: impl AsRef<[u8]>, options: EncodeOptions) -> Vec<u32> {
        self.encode_with_borders(text.as_ref(), options, &[]).ids
    }

    /// Turns a text that goes on from other ids into ids: nothing is put in front or behind, and a special token's name
    /// is text.
    pub fn encode_more(&self, text: impl AsRef<[u8]>) -> Vec<u32> {
        let mut out = Encoded::default();
        self.encode_fragments(text.as_ref(), (false, false), &[], &mut out);
        out.ids
    }

    /// Turns a text rendered by a chat template into ids: special tokens are read, bos and eos are added as the
    /// vocabulary asks, but no second bos if the template wrote one already. `borders` are byte offsets into
    /// `text`, ascending, as [`crate::Rendered`] has them.
    pub fn encode_prompt(&self, text: &str, borders: &[usize]) -> Encoded {
        let written =
            self.special.bos.and_then(|bos| self.vocab.text(bos)).is_some_and(|bos| text.as_bytes().starts_with(bos));
        let mut out = Encoded::default();
        if !written && self.add_bos {
            out.ids.extend(self.special.bos);
        }
        self.encode_fragments(text.as_bytes(), (true, true), borders, &mut out);
        if self.add_eos {
            out.ids.extend(self.special.eos);
        }
        out
    }

    /// [`Tokenizer::encode`] that also says where the byte offsets in `borders` (ascending) fall among the ids.
    pub fn encode_with_borders(&self, text: &[u8], options: EncodeOptions, borders: &[usize]) -> Encoded {
        let mut out = Encoded::default();
        if options.add_special && self.add_bos {
            out.ids.extend(self.special.bos);
        }
        self.encode_fragments(text, (options.parse_special, true), borders, &mut out);
        if options.add_special && self.add_eos {
            out.ids.extend(self.special.eos);
        }
        out
    }

    /// `begins`: no text stands before it.
    fn encode_fragments(
        &self,
        text: &[u8],
        (parse_special, begins): (bool, bool),
        borders: &[usize],
        out: &mut Encoded,
    ) {
        let mut borders = borders.iter().copied().peekable();
        let mut after_special = begins;
        for fragment in self.special_index.partition(text, parse_special) {
            // Whatever follows, the tokens before a fragment stay what they are.
            while let Some(border) = borders.next_if(|&border| border <= fragment.range().start) {
                if border <= text.len() {
                    out.borders.push(out.ids.len());
                }
            }
            match fragment {
                Fragment::Token { id, range } => {
                    out.ids.push(id);
                    while borders.next_if(|&border| border < range.end).is_some() {}
                    after_special = true;
                }
                Fragment::Raw(range) => {
                    let first = out.ids.len();
                    self.encode_raw(&text[range.clone()], after_special, &mut out.ids);
                    while let Some(border) = borders.next_if(|&border| border < range.end) {
                        let mut head = Vec::new();
                        self.encode_raw(&text[range.start..border], after_special, &mut head);
                        if out.ids[first..].starts_with(&head) {
                            out.borders.push(first + head.len());
                        }
                    }
                    after_special = false;
                }
            }
        }
        out.borders.extend(borders.take_while(|&b| b <= text.len()).map(|_| out.ids.len()));
        out.borders.dedup();
    }

    /// Text between special tokens. `after_special`: it follows one, or begins the text.
    fn encode_raw(&self, text: &[u8], after_special: bool, ids: &mut Vec<u32>) {
        let vocab = &self.vocab;
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(vocab, text, ids),
            Model::RawBpe(bpe) => bpe.encode(vocab, text, ids),
            Model::Spm(spm) => spm.encode(vocab, text, self.add_space_prefix && after_special, ids),
            Model::Ugm(ugm) => ugm.encode(vocab, text, ids),
            Model::Rwkv(rwkv) => rwkv.encode(text, ids),
            Model::Plamo2(plamo2) => plamo2.encode(vocab, text, ids),
        }
    }

    /// How many tokens there are.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// A token's text as the file has it (byte alphabet, U+2581 and escapes included).
    pub fn token_text(&self, id: u32) -> Option<&[u8]> {
        self.vocab.text(id)
    }

    /// What a token is for.
    pub fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kind(id)
    }

    /// The id of a token by its text in the file.
    pub fn find(&self, text: impl AsRef<[u8]>) -> Option<u32> {
        self.vocab.find(text.as_ref())
    }

    /// The bytes a token prints: perhaps part of a UTF-8 character only. Control tokens give their name. Empty for
    /// ids outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.printed.get(id as usize).unwrap_or_default()
    }

    /// True for tokens that steer the model and print nothing unless asked for.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// True if the model ends its reply with this token.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// All ids that end a reply, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.end_of_generation
    }

    /// The special ids: those of the file, defaults of the model kind, and those found by their names.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// Whether a text begins with bos.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.special.bos.is_some()
    }

    /// Whether a text ends with eos.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.special.eos.is_some()
    }

    /// A token's text as a chat template wants it (`bos_token`, `eos_token`); empty for `None`.
    pub fn template_text(&self, id: Option<u32>) -> String {
        let text = id.and_then(|id| self.vocab.text(id)).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// The text of ids. With `special`, control tokens are written by name. Bytes that are no UTF-8 become U+FFFD.
    /// The space that the vocabulary puts in front of a text is taken off again.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, special)).into_owned()
    }

    /// [`Tokenizer::decode`] as bytes, nothing replaced.
    pub fn decode_bytes(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut strip = self.add_space_prefix;
        for &id in ids {
            if self.is_control(id) && !special {
                continue;
            }
            let bytes = self.token_bytes(id);
            out.extend_from_slice(if strip && !self.is_control(id) {
                strip = false;
                bytes.strip_prefix(b" ").unwrap_or(bytes)
            } else {
                bytes
            });
        }
        out
    }

    /// A decoder for ids that arrive one by one. It takes no leading space off, since a reply goes on from a
    /// prompt.
    pub fn decode_stream(&self, special: bool) -> DecodeStream {
        DecodeStream::new(special)
    }
}

/// What a token prints, by model kind.
fn printed_bytes(model: &Model, text: &[u8], kind: TokenKind) -> Vec<u8> {
    match kind {
        TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => return text.to_vec(),
        TokenKind::Byte => {
            if let Some(byte) = byte_of(text) {
                return vec![byte];
            }
        }
        TokenKind::Normal | TokenKind::Unused => {}
    }
    match model {
        Model::Bpe(_) => unmap_bytes(text),
        Model::RawBpe(_) | Model::Spm(_) | Model::Ugm(_) => unescape_spaces(text),
        Model::Rwkv(_) => rwkv::unescape(text),
        Model::Plamo2(_) => text.to_vec(),
    }
}

/// The byte that `<0xXX>` names.
fn byte_of(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}
