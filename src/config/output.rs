//! The sink of a capture, as configured.
//!
//! The rule: one capture has one sink, and every key that belongs to another is refused.

use std::ffi::OsStr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use crate::cli::capture::{CaptureArgs, FileFormat, ProducerName};
use crate::format::write::{Format, Fraction};
use crate::kafka::{Settings, topic};
use crate::sink::file::Rotation;
use crate::sink::kafka::CreateTopic;

use super::compression::{Compression, compression};
use super::{ConfigError, Size, value};

/// How a capture file is written.
#[derive(Clone, Debug)]
pub struct FileOutput {
    /// Where, `-` for standard output; `None` for a name made of interface and time.
    pub path: Option<PathBuf>,
    /// Its format.
    pub format: Format,
    /// When another file is begun.
    pub rotation: Rotation,
}

/// What publishes to Kafka, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Producer {
    /// The native producer.
    Native {
        /// Why, for the log.
        reason: String,
    },
    /// librdkafka.
    Librdkafka {
        /// Why, for the log.
        reason: String,
    },
}

/// Where batches go.
#[derive(Clone, Debug)]
pub enum Output {
    /// A Kafka topic.
    Kafka {
        /// The topic.
        topic: String,
        /// Brokers and every other setting.
        settings: Settings,
        /// What publishes.
        producer: Producer,
        /// The topic is made like this where it is missing.
        create: Option<CreateTopic>,
        /// How batches are compressed where librdkafka does not do it.
        compression: Compression,
    },
    /// A capture file.
    File(FileOutput),
    /// Nowhere.
    Discard,
}

pub(super) fn output(args: &CaptureArgs) -> Result<Output, ConfigError> {
    let kinds = [
        args.kafka.names_brokers() || args.fastcapa_config.is_some(),
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
    let kafka = &args.kafka;
    if kafka.names_brokers() || args.fastcapa_config.is_some() {
        let topic = kafka.topic().to_owned();
        let (brokers, file) = (kafka.brokers.as_deref(), args.fastcapa_config.as_deref());
        let mut settings = Settings::gather(brokers, file, &kafka.set)?;
        settings.producer()?;
        topic::check(&topic).map_err(|error| value("topic", error.topic, topic::RULE))?;
        let producer = choose(args.producer.unwrap_or_default(), &settings)?;
        let create = args.create_topic.as_deref().map(create_topic).transpose()?;
        if create.is_some() && matches!(producer, Producer::Librdkafka { .. }) {
            return Err(ConfigError::Contradiction(
                "--create-topic needs the native producer: make the topic beforehand, or set \
                 -X allow.auto.create.topics=true"
                    .into(),
            ));
        }
        let compression = compression(args, &mut settings, &producer)?;
        return Ok(Output::Kafka {
            topic,
            settings,
            producer,
            create,
            compression,
        });
    }
    if kafka.topic.is_some() || !kafka.set.is_empty() {
        return Err(ConfigError::Contradiction(
            "a topic or Kafka settings without brokers: name them with -k HOST:PORT".into(),
        ));
    }
    Ok(Output::File(file_output(args)?))
}

/// The producer that `named` means with these settings.
fn choose(named: ProducerName, settings: &Settings) -> Result<Producer, ConfigError> {
    let reason = |text: &str| text.to_owned();
    match (named, settings.not_native()) {
        (ProducerName::Librdkafka, _) => Ok(Producer::Librdkafka {
            reason: reason("--producer librdkafka"),
        }),
        (ProducerName::Native, None) => Ok(Producer::Native {
            reason: reason("--producer native"),
        }),
        (ProducerName::Auto, None) => Ok(Producer::Native {
            reason: reason("it knows every setting"),
        }),
        (ProducerName::Auto, Some(unknown)) => Ok(Producer::Librdkafka {
            reason: unknown.to_string(),
        }),
        (ProducerName::Native, Some(unknown)) => Err(ConfigError::Contradiction(format!(
            "--producer native: {unknown}; leave the setting out, or leave the choice to --producer auto"
        ))),
    }
}

/// Reads `PARTITIONS[:REPLICATION]`.
fn create_topic(text: &str) -> Result<CreateTopic, ConfigError> {
    let refused = || {
        let rule = "PARTITIONS[:REPLICATION], each at least 1, such as 8:3";
        value("create-topic", text, rule)
    };
    let (partitions, replication) = match text.split_once(':') {
        Some((partitions, replication)) => (partitions, Some(replication)),
        None => (text, None),
    };
    let partitions = partitions.parse().ok().filter(|count| *count >= 1);
    let replication = match replication {
        None => Some(-1),
        Some(count) => count.parse().ok().filter(|count| *count >= 1),
    };
    Ok(CreateTopic {
        partitions: partitions.ok_or_else(refused)?,
        replication: replication.ok_or_else(refused)?,
    })
}

fn file_output(args: &CaptureArgs) -> Result<FileOutput, ConfigError> {
    if let Some(path) = &args.write {
        plain(path).map_err(|rule| value("write", path.display(), rule))?;
    }
    let format = match (args.format, &args.write) {
        (Some(FileFormat::Pcapng), _) => Format::Pcapng,
        (Some(FileFormat::Pcap), _) => Format::Pcap(Fraction::Micros),
        (Some(FileFormat::PcapNs), _) => Format::Pcap(Fraction::Nanos),
        (None, Some(path)) => Format::of_path(path),
        (None, None) => Format::Pcapng,
    };
    let rotation = Rotation {
        size: args.rotate_size.as_deref().map(rotate_size).transpose()?,
        seconds: args
            .rotate_seconds
            .map(|secs| positive("rotate-seconds", secs))
            .transpose()?,
        files: match args.rotate_files.map(NonZeroU32::new) {
            Some(None) => return Err(value("rotate-files", 0, "at least 1")),
            files => files.flatten(),
        },
    };
    if rotation.files.is_some() && !rotation.is_on() {
        return Err(ConfigError::Contradiction(
            "-W counts the files that -C or -G begin: give one of them".into(),
        ));
    }
    let to_stdout = args
        .write
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && rotation.is_on() {
        return Err(ConfigError::Contradiction(
            "standard output (-w -) cannot be rotated".into(),
        ));
    }
    Ok(FileOutput {
        path: args.write.clone(),
        format,
        rotation,
    })
}

/// Refuses a name that promises a compressed file: what is being written is plain, so that it holds at every
/// moment what was delivered.
pub(crate) fn plain(path: &Path) -> Result<(), &'static str> {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let packed = ["gz", "zst", "zstd", "bz2", "xz", "lz4"];
    match packed.contains(&extension.to_lowercase().as_str()) {
        true => Err(
            "the file is written plain; leave the extension out, and compress it when it is complete \
             (zstd --rm FILE)",
        ),
        false => Ok(()),
    }
}

fn positive(key: &'static str, n: u64) -> Result<NonZeroU64, ConfigError> {
    NonZeroU64::new(n).ok_or_else(|| value(key, n, "at least 1"))
}

/// A plain number counts millions of bytes, as tcpdump's `-C`.
fn rotate_size(text: &str) -> Result<NonZeroU64, ConfigError> {
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
    positive("rotate-size", bytes)
}
