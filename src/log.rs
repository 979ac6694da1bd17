//! Log lines: on standard error, for people or as JSON.
//!
//! The rule: logging never ends a capture. A line that nobody can take any more, as after
//! `2>&1 | head`, is lost and nothing else.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::cli::capture::LogFormat;
use crate::progress;

/// Begins to log. `verbose` counts `-v`; `quiet` leaves errors only. A second call changes nothing.
pub fn init(format: LogFormat, verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    start(format, level);
}

/// Begins to log what is of `level` or graver. A second call changes nothing.
pub(crate) fn start(format: LogFormat, level: LevelFilter) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(progress::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It complains of them on standard error as well, and panics when that refuses too.
        .log_internal_errors(false);
    let _ = match format {
        LogFormat::Text => builder.with_timer(SystemTime).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
