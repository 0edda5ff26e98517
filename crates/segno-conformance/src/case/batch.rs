//! Batches, as names write them: `p65?odd!64+d1@64` is a prefill span of 65 rows from position 0 with
//! outputs of its odd rows and a snapshot after 64 rows, and a decode span of one row at position 64.

use segno_ir::SpanKind;

/// Which rows of a span have outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Every row: the default.
    All,
    /// `?odd`: rows 1, 3, 5 ...
    Odd,
    /// `?last`: the last one.
    Last,
    /// `?none`: no row.
    None,
}

impl Wanted {
    /// Their indices.
    pub fn rows(self, n: usize) -> Vec<u32> {
        let n = n as u32;
        match self {
            Wanted::All => (0..n).collect(),
            Wanted::Odd => (1..n).step_by(2).collect(),
            Wanted::Last => vec![n - 1],
            Wanted::None => Vec::new(),
        }
    }
}

/// One span of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// `p` or `d`.
    pub kind: SpanKind,
    /// Rows.
    pub rows: usize,
    /// `@`: position of the first row.
    pub start: u32,
    /// Rows with outputs.
    pub wanted: Wanted,
    /// `!`: rows after which a snapshot is taken.
    pub snapshots: Vec<u32>,
}

/// The spans of a case's step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch(pub Vec<Item>);

impl Batch {
    /// Reads a batch.
    ///
    /// # Panics
    /// If the text is none: the tables are part of this crate, and a test builds every case.
    pub fn parse(text: &str) -> Self {
        Batch(text.split('+').map(|item| parse_item(item).unwrap_or_else(|| panic!("batch {text}: {item}"))).collect())
    }
}

fn parse_item(text: &str) -> Option<Item> {
    let end = text[1..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |i| i + 1);
    let kind = match &text[..1] {
        "p" => SpanKind::Prefill,
        "d" => SpanKind::Decode,
        _ => return None,
    };
    let mut item =
        Item { kind, rows: text[1..end].parse().ok()?, start: 0, wanted: Wanted::All, snapshots: Vec::new() };
    let mut rest = &text[end..];
    while !rest.is_empty() {
        let end = rest[1..].find(['@', '?', '!']).map_or(rest.len(), |i| i + 1);
        let value = &rest[1..end];
        match &rest[..1] {
            "@" => item.start = value.parse().ok()?,
            "!" => item.snapshots.push(value.parse().ok()?),
            "?" => {
                item.wanted = match value {
                    "odd" => Wanted::Odd,
                    "last" => Wanted::Last,
                    "none" => Wanted::None,
                    _ => return None,
                }
            }
            _ => return None,
        }
        rest = &rest[end..];
    }
    Some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_tables_write() {
        let batch = Batch::parse("p65?odd!1!64+d1@64");
        let first = Item { kind: SpanKind::Prefill, rows: 65, start: 0, wanted: Wanted::Odd, snapshots: vec![1, 64] };
        let second = Item { kind: SpanKind::Decode, rows: 1, start: 64, wanted: Wanted::All, snapshots: Vec::new() };
        assert_eq!(batch.0, [first, second]);
        assert_eq!(Wanted::Odd.rows(4), [1, 3]);
    }
}
