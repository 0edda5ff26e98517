//! Small steps over sanitised text that the rules are made of. A position is a byte offset at a character border.

use crate::bytes::code_point_at;
use crate::class::{Class, class_of};

/// Classes of the character at `pos` and the position after it; `None` at the end of the text.
#[inline]
pub(crate) fn peek(text: &[u8], pos: usize) -> Option<(Class, usize)> {
    let (code_point, next) = code_point_at(text, pos)?;
    Some((class_of(code_point), next))
}

/// The position after the character at `pos`; always moves on.
#[inline]
pub(crate) fn next(text: &[u8], pos: usize) -> usize {
    code_point_at(text, pos).map_or(text.len().max(pos + 1), |(_, next)| next)
}

/// End of the longest run of characters that `accept`, at most `max` of them.
#[inline]
pub(crate) fn run(text: &[u8], mut pos: usize, max: usize, accept: impl Fn(Class) -> bool) -> usize {
    for _ in 0..max {
        match peek(text, pos) {
            Some((class, next)) if accept(class) => pos = next,
            _ => break,
        }
    }
    pos
}

/// `Some(end)` if the run from `start` is not empty.
#[inline]
pub(crate) fn some_run(text: &[u8], start: usize, max: usize, accept: impl Fn(Class) -> bool) -> Option<usize> {
    let end = run(text, start, max, accept);
    (end > start).then_some(end)
}

/// Skips one plain space, the ` ?` of the expressions.
#[inline]
pub(crate) fn skip_space(text: &[u8], pos: usize) -> usize {
    pos + usize::from(text.get(pos) == Some(&b' '))
}
