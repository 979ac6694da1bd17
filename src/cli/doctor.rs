//! `ringtap doctor`: what would stop a capture, and what mends it.
//!
//! The rule: the exit code says whether a capture would start, 0 or 3; the words say why.

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::cli::capture::Mode;
use crate::cli::complain;
use crate::cli::kafka::KafkaArgs;
use crate::doctor::{self, Kafka, Question};
use crate::exit::Exit;
use crate::kafka::{Settings, SettingsError};

/// Runs `ringtap doctor`.
pub(super) fn run(args: &DoctorArgs) -> Exit {
    let kafka = &args.kafka;
    let settings = match kafka.names_brokers() {
        true => Settings::gather(kafka.brokers.as_deref(), None, &kafka.set),
        false if kafka.topic.is_none() && kafka.set.is_empty() => Ok(Settings::new()),
        false => Err(SettingsError::NoBroker),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            complain(&error);
            return Exit::Usage;
        }
    };
    let pairs = settings
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    match args.look(pairs) {
        Ok(exit) => exit,
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(cause) => {
            complain(&cause);
            Exit::Failed
        }
    }
}

/// Says what would stop a capture or cost packets, and the command that mends it.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Interfaces, by name or alternative name [default: every one that is up]
    #[arg(value_name = "IF")]
    pub interfaces: Vec<String>,

    /// How packets are to be taken
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,

    /// Also look at these brokers and this topic.
    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// Switch on again the offloads that a killed sensor left off
    #[arg(long, conflicts_with_all = ["brokers", "mode"])]
    pub restore: bool,

    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

impl DoctorArgs {
    /// Looks, writes what was found to standard output, and returns the exit code.
    ///
    /// `settings` are the checked pairs of `-X`; `bootstrap.servers` is added from `-k`.
    fn look(&self, settings: Vec<(String, String)>) -> io::Result<Exit> {
        let report = if self.restore {
            doctor::restore(&self.interfaces)
        } else {
            doctor::examine(&self.question(settings))
        };
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{:#}", report.json())?;
        } else {
            let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            out.write_all(report.table(colour).as_bytes())?;
            if !self.restore {
                writeln!(out, "{}", report.verdict())?;
            }
        }
        Ok(if report.would_start() {
            Exit::Done
        } else {
            Exit::Setup
        })
    }

    fn question(&self, settings: Vec<(String, String)>) -> Question {
        let kafka = self.kafka.names_brokers().then(|| Kafka {
            settings,
            topic: self.kafka.topic().to_owned(),
        });
        Question {
            interfaces: self.interfaces.clone(),
            mode: self.mode,
            kafka,
        }
    }
}
