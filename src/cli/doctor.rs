//! `ringtap doctor`: what would stop a capture, and what mends it.
//!
//! The rule: the exit code says whether a capture would start, 0 or 3; the words say why.

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::doctor::{self, Kafka, Mode, Question};

/// Exit code when a capture would not start: set-up refused.
const REFUSED: u8 = 3;

/// Says what would stop a capture or cost packets, and the command that mends it.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Interfaces, by name or alternative name [default: every one that is up]
    #[arg(value_name = "IF")]
    pub interfaces: Vec<String>,

    /// How packets are to be taken
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,

    /// Also look at these Kafka brokers
    #[arg(
        short = 'k',
        long = "brokers",
        value_name = "HOST:PORT,…",
        requires = "topic"
    )]
    pub brokers: Option<String>,

    /// The topic the packets are to go to
    #[arg(
        short = 't',
        long = "topic",
        value_name = "TOPIC",
        requires = "brokers"
    )]
    pub topic: Option<String>,

    /// A setting of librdkafka, for rights and encryption
    #[arg(short = 'X', value_name = "KEY=VALUE", requires = "brokers")]
    pub settings: Vec<String>,

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
    pub fn run(&self, settings: Vec<(String, String)>) -> io::Result<u8> {
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
        Ok(if report.would_start() { 0 } else { REFUSED })
    }

    fn question(&self, mut settings: Vec<(String, String)>) -> Question {
        let kafka = self
            .brokers
            .clone()
            .zip(self.topic.clone())
            .map(|(brokers, topic)| {
                settings.push(("bootstrap.servers".to_owned(), brokers));
                Kafka { settings, topic }
            });
        Question {
            interfaces: self.interfaces.clone(),
            mode: self.mode,
            kafka,
        }
    }
}
