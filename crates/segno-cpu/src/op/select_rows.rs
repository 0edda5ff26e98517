//! `select_rows`.

use crate::program::Cx;

pub(crate) fn run(cx: &Cx<'_>) {
    for (r, &from) in cx.output_rows.iter().enumerate() {
        cx.output(r).copy_from_slice(cx.input(0, from));
    }
}
