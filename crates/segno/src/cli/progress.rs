//! Progress on standard error: on a terminal only, and gone when the work is done.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What is over sooner shows no spinner.
const PATIENCE: Duration = Duration::from_millis(500);

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar that is drawn once its position or length changes.
pub fn bar(template: &str) -> ProgressBar {
    ProgressBar::new(0).with_style(style(template))
}

/// Does the work; if it takes longer than half a second, a spinner turns beside it.
pub fn spin<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let spinner = ProgressBar::new_spinner().with_style(style("{spinner} {msg}, {elapsed}")).with_message(what);
    // Lines of the log would tear it.
    if spinner.is_hidden() || log::log_enabled!(log::Level::Info) {
        return work();
    }
    let result = std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let spinner = &spinner;
        scope.spawn(move || {
            if is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                spinner.enable_steady_tick(Duration::from_millis(100));
            }
        });
        let result = work();
        drop(done);
        result
    });
    spinner.finish_and_clear();
    result
}
