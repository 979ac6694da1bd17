//! The sink of a capture, as configured.
//!
//! The rule: one capture has one sink, and every key that belongs to another is refused.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::capture::{CaptureArgs, FileFormat};

use super::{ConfigError, Size, value};

/// How a capture file is written.
#[derive(Clone, Debug)]
pub struct FileOutput {
    /// Where, `-` for standard output; `None` for a name made of interface and time.
    pub path: Option<PathBuf>,
    /// Its format.
    pub format: FileFormat,
    /// Begin a new file at this many bytes.
    pub rotate_size: Option<u64>,
    /// Begin a new file every so many seconds.
    pub rotate_every: Option<Duration>,
    /// Keep this many.
    pub rotate_files: Option<u32>,
}

/// Where batches go.
#[derive(Clone, Debug)]
pub enum Output {
    /// A Kafka topic.
    Kafka {
        /// HOST:PORT, separated by commas.
        brokers: String,
        /// The topic.
        topic: String,
        /// What `-X` said, in order.
        set: Vec<String>,
        /// A file in fastcapa's format.
        fastcapa: Option<PathBuf>,
    },
    /// A capture file.
    File(FileOutput),
    /// Nowhere.
    Discard,
}

pub(super) fn output(args: &CaptureArgs) -> Result<Output, ConfigError> {
    let kinds = [
        args.brokers.is_some(),
        args.write.is_some(),
        args.sink.is_some(),
    ];
    if kinds.iter().filter(|named| **named).count() > 1 {
        return Err(ConfigError::Contradiction(
            "-k, -w and --sink exclude each other: one capture has one sink".into(),
        ));
    }
    if args.sink.is_some() {
        return Ok(Output::Discard);
    }
    if let Some(brokers) = &args.brokers {
        let topic = args.topic.clone().unwrap_or_else(|| "pcap".into());
        return Ok(Output::Kafka {
            brokers: brokers.clone(),
            topic: checked_topic(topic)?,
            set: args.set.clone(),
            fastcapa: args.fastcapa_config.clone(),
        });
    }
    if args.topic.is_some() || !args.set.is_empty() || args.fastcapa_config.is_some() {
        let named = args.set.iter().any(|set| {
            ["bootstrap.servers", "metadata.broker.list"]
                .contains(&set.split('=').next().unwrap_or(""))
        });
        if named || args.fastcapa_config.is_some() {
            return Ok(Output::Kafka {
                brokers: String::new(),
                topic: checked_topic(args.topic.clone().unwrap_or_else(|| "pcap".into()))?,
                set: args.set.clone(),
                fastcapa: args.fastcapa_config.clone(),
            });
        }
        return Err(ConfigError::Contradiction(
            "a topic or Kafka settings without brokers: name them with -k HOST:PORT".into(),
        ));
    }
    Ok(Output::File(file_output(args)?))
}

/// Checks a topic's name by Kafka's own rule (`org.apache.kafka.common.internals.Topic`).
fn checked_topic(topic: String) -> Result<String, ConfigError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=249).contains(&topic.len()) && topic != "." && topic != "..";
    if fits && topic.chars().all(legal) {
        return Ok(topic);
    }
    Err(value(
        "topic",
        topic,
        "1 to 249 letters, digits, `.`, `_` and `-`",
    ))
}

fn file_output(args: &CaptureArgs) -> Result<FileOutput, ConfigError> {
    let extension = args
        .write
        .as_ref()
        .and_then(|path| path.extension())
        .and_then(|e| e.to_str());
    let format = args.format.unwrap_or(match extension {
        Some("pcap" | "cap" | "dmp") => FileFormat::Pcap,
        _ => FileFormat::Pcapng,
    });
    let rotate_size = args.rotate_size.as_deref().map(rotate_size).transpose()?;
    if args.rotate_seconds == Some(0) {
        return Err(value("rotate-seconds", 0, "at least 1"));
    }
    if args.rotate_files == Some(0) {
        return Err(value("rotate-files", 0, "at least 1"));
    }
    if args.rotate_files.is_some() && rotate_size.is_none() && args.rotate_seconds.is_none() {
        return Err(ConfigError::Contradiction(
            "-W counts the files that -C or -G begin: give one of them".into(),
        ));
    }
    let to_stdout = args
        .write
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && (rotate_size.is_some() || args.rotate_seconds.is_some()) {
        return Err(ConfigError::Contradiction(
            "standard output (-w -) cannot be rotated".into(),
        ));
    }
    Ok(FileOutput {
        path: args.write.clone(),
        format,
        rotate_size,
        rotate_every: args.rotate_seconds.map(Duration::from_secs),
        rotate_files: args.rotate_files,
    })
}

/// A plain number counts millions of bytes, as tcpdump's `-C`.
fn rotate_size(text: &str) -> Result<u64, ConfigError> {
    let bytes = match text.parse::<u64>() {
        Ok(millions) => millions.saturating_mul(1_000_000),
        Err(_) => match text.parse::<Size>() {
            Ok(size) => size.get() as u64,
            Err(rule) => return Err(value("rotate-size", text, rule)),
        },
    };
    if bytes < 1_000 {
        return Err(value("rotate-size", text, "at least 1000 bytes"));
    }
    Ok(bytes)
}
