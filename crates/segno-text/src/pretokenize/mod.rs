//! Splitting text into the pieces that byte-level BPE merges within.
//!
//! The published tokenizers state these rules as regular expressions with look-ahead. Here each is written out by
//! hand: one pass, no backtracking beyond one run of characters, linear for every input. The expressions
//! themselves stand in `tests.rs`, where a regex engine checks the hand-written forms.

mod rules;
mod scan;

use rules::{Stage, Step};

use crate::error::TextError;

/// A splitting rule: stages that each split the pieces of the one before.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    stages: &'static [Stage],
    /// Take a whole piece that is a token before any merging.
    pub(crate) ignore_merges: bool,
    /// Whether vocabularies with this rule start with bos unless the file says otherwise.
    pub(crate) add_bos: bool,
}

impl PreTokenizer {
    /// The rule that `tokenizer.ggml.pre` names.
    pub(crate) fn by_name(name: &str) -> Result<Self, TextError> {
        rules::by_name(name).ok_or_else(|| TextError::UnknownPreTokenizer { pre: name.into() })
    }

    /// Hands out the pieces of sanitised text, left to right. Together they are the whole text.
    pub(crate) fn split<'t>(&self, text: &'t [u8], mut piece: impl FnMut(&'t [u8])) {
        split_stages(self.stages, text, &mut piece);
    }
}

fn split_stages<'t>(stages: &[Stage], text: &'t [u8], piece: &mut dyn FnMut(&'t [u8])) {
    let Some((stage, rest)) = stages.split_first() else {
        if !text.is_empty() {
            piece(text);
        }
        return;
    };
    // What the stage leaves unmatched is a piece, too.
    let mut gap = 0;
    let mut pos = 0;
    while pos < text.len() {
        match stage.step(text, pos) {
            Step::Match(end) => {
                if gap < pos {
                    split_stages(rest, &text[gap..pos], piece);
                }
                split_stages(rest, &text[pos..end], piece);
                pos = end;
                gap = end;
            }
            Step::Skip(next) => pos = next,
        }
    }
    if gap < text.len() {
        split_stages(rest, &text[gap..], piece);
    }
}

#[cfg(test)]
mod tests;
