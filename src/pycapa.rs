//! What pycapa did, with ringtap's parts: its producer is a capture through libpcap, its consumer a
//! reading in the default form.
//!
//! The rule: the lines that people look for are pycapa's to the letter, in the form of Python's
//! `logging`. What ringtap itself has to say goes beside them, as warnings and errors do elsewhere.

use std::fmt;
use std::io::Write;

use crate::capture::{self, CaptureError, Watch};
use crate::config::Config;
use crate::consume::{self, ConsumeError, Options, Start};
use crate::exit::Exit;
use crate::kafka::Settings;
use crate::ledger::Ledger;
use crate::progress;

/// How grave a line is, as Python's `logging` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What only a developer wants to know.
    Debug,
    /// What goes on.
    #[default]
    Info,
    /// What may be wrong.
    Warning,
    /// What is wrong.
    Error,
}

/// Prints pycapa's lines that are grave enough.
#[derive(Clone, Copy, Debug)]
struct Words {
    level: Level,
}

impl Words {
    fn say(self, level: Level, text: fmt::Arguments<'_>) {
        if level < self.level {
            return;
        }
        let name = match level {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        let _ = writeln!(progress::stderr(), "{name}:root:{text}");
    }

    fn connecting(self, level: Level, settings: &Settings) {
        self.say(
            level,
            format_args!("Connecting to Kafka; {}", settings.redacted()),
        );
    }
}

impl Watch for Words {
    fn started(&mut self) {
        self.say(Level::Info, format_args!("Starting packet capture"));
    }

    fn signalled(&mut self) {
        self.say(Level::Info, format_args!("Clean shutdown process started"));
    }

    fn draining(&mut self, ledger: &Ledger) {
        let total = &ledger.total;
        let settled = total.delivered
            + total.unconfirmed
            + ledger.failed.not_persisted
            + ledger.failed.possibly_persisted;
        let left = total.batched.saturating_sub(settled);
        self.say(
            Level::Info,
            format_args!("Waiting for '{left}' message(s) to flush"),
        );
    }

    fn ended(&mut self, ledger: &Ledger) {
        let total = &ledger.total;
        let (taken, stored) = (total.batched, total.delivered + total.unconfirmed);
        self.say(
            Level::Info,
            format_args!("'{taken}' packet(s) in, '{stored}' packet(s) out"),
        );
    }
}

/// Captures as pycapa's producer. `settings` are those that the user made.
pub(crate) fn produce(
    config: &Config,
    settings: &Settings,
    level: Level,
) -> Result<Exit, CaptureError> {
    let mut words = Words { level };
    words.connecting(Level::Info, settings);
    capture::run_watched(config, &mut words)
}

/// Reads a topic back as pycapa's consumer.
pub(crate) fn consume(options: &Options, level: Level) -> Result<Exit, ConsumeError> {
    let words = Words { level };
    words.connecting(Level::Debug, &options.settings);
    if options.start == Start::Stored && options.anonymous {
        words.say(
            Level::Warning,
            format_args!(
                "a group that nobody named has nothing stored: name it with -X group.id=GROUP"
            ),
        );
    }
    consume::run(options).map(|_| Exit::Done)
}
