//! librdkafka's log lines, passed on.
//!
//! The rule: a line is never lost without a count, and the same kind of line comes once in a while, not
//! a hundred times a second while a broker is away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A kind of line is repeated after this: often enough to see that the trouble lasts.
const QUIET: Duration = Duration::from_secs(10);

/// syslog's number for debugging lines, which the user asks for by `-X debug=…` and wants whole.
const DEBUG: i32 = 7;

/// Passes lines on; shared by the clients of one capture, which all say the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<HashMap<String, Said>>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    held_back: u64,
}

impl Log {
    /// Writes one line of librdkafka, `level` as syslog counts.
    pub(crate) fn write(&self, level: i32, facility: &str, text: &str) {
        if level >= DEBUG {
            tracing::debug!(target: "librdkafka", "{facility}: {text}");
            return;
        }
        let Some(held_back) = self.allow(facility, Instant::now()) else {
            return;
        };
        let more = match held_back {
            0 => String::new(),
            lines => format!(" ({lines} more like it were held back)"),
        };
        match level {
            ..=2 => tracing::error!(target: "librdkafka", "{facility}: {text}{more}"),
            3..=4 => tracing::warn!(target: "librdkafka", "{facility}: {text}{more}"),
            _ => tracing::info!(target: "librdkafka", "{facility}: {text}{more}"),
        }
    }

    /// Whether a line of this kind may be written now, and how many were held back before it.
    fn allow(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(said) = kinds.get_mut(kind) else {
            let said = Said {
                at: now,
                held_back: 0,
            };
            kinds.insert(kind.to_owned(), said);
            return Some(0);
        };
        if now.duration_since(said.at) < QUIET {
            said.held_back += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_line_comes_once_in_a_while_with_the_count_of_the_others() {
        let log = Log::default();
        let start = Instant::now();
        assert_eq!(log.allow("FAIL", start), Some(0));
        assert_eq!(log.allow("FAIL", start), None);
        assert_eq!(log.allow("OTHER", start), Some(0));
        assert_eq!(log.allow("FAIL", start + QUIET / 2), None);
        assert_eq!(log.allow("FAIL", start + QUIET), Some(2));
        assert_eq!(log.allow("FAIL", start + QUIET), None);
    }
}
