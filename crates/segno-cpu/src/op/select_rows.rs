//! `select_rows`.

use segno_ir::DeviceError;

use super::Run;
use crate::context::Cx;

pub(super) struct SelectRows;

impl Run for SelectRows {
    fn run(&self, cx: &Cx<'_>) -> Result<(), DeviceError> {
        cx.by_rows(1, |r| {
            // SAFETY: `by_rows` gives each row to one thread.
            let y = unsafe { cx.output(r, 0..cx.out.features) };
            y.copy_from_slice(cx.input(0, cx.output_rows[r]));
        });
        Ok(())
    }
}
