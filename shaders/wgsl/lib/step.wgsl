// What a step says of itself, in one buffer of words that the host fills.
// Rows come first; a row's record names the place of its span's.

@group(1) @binding(0) var<storage, read> info: array<u32>;
@group(1) @binding(1) var<storage, read_write> tickets: array<u32>;

const ROW_WORDS: u32 = 5u;

fn row_span(r: u32) -> u32 { return info[r * ROW_WORDS]; }
fn row_index(r: u32) -> u32 { return info[r * ROW_WORDS + 1u]; }
fn row_position(r: u32) -> u32 { return info[r * ROW_WORDS + 2u]; }
// 0: a token, 1: a place in `tickets`, 2: a place in `info` where the row's values begin.
fn row_kind(r: u32) -> u32 { return info[r * ROW_WORDS + 3u]; }
fn row_input(r: u32) -> u32 { return info[r * ROW_WORDS + 4u]; }

// s: the place of a span's record.
fn span_first_row(s: u32) -> u32 { return info[s]; }
fn span_rows(s: u32) -> u32 { return info[s + 1u]; }
fn span_from(s: u32) -> u32 { return info[s + 3u]; }
fn span_to(s: u32) -> u32 { return info[s + 4u]; }
fn span_snapshots(s: u32) -> u32 { return info[s + 5u]; }
// Rows after which snapshot i is taken, and its slot.
fn snapshot_after(s: u32, i: u32) -> u32 { return info[info[s + 6u] + 2u * i]; }
fn snapshot_slot(s: u32, i: u32) -> u32 { return info[info[s + 6u] + 2u * i + 1u]; }
// The page that holds a position, in group g.
fn span_page(s: u32, g: u32, position: u32) -> u32 {
    let table = s + 7u + 2u * g;
    return info[info[table + 1u] + position / 64u - info[table]];
}
