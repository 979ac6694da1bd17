//! The sink of a capture: opened before any packet is taken, so that what is wrong with it is known first.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use crate::cli::capture::{CompressOn, PartitionBy};
use crate::config::{Config, FileOutput, Input, Output, Producer};
use crate::control::Control;
use crate::counters::QueueCounters;
use crate::exit::Exit;
use crate::format::write::{Format, InterfaceTotals};
use crate::interfaces::Interfaces;
use crate::kafka::connect::ConnectError;
use crate::kafka::settings::ProducerSettings;
use crate::ledger::{Board, SinkKind};
use crate::sink::discard::Discard;
use crate::sink::file::{Destination, FileConfig, FileError, FileSink};
use crate::sink::kafka::{self, KafkaSink};
use crate::sink::librdkafka::{Cluster, LibrdkafkaSink};

use super::pipeline::{self, Rings, Shared};

/// How long the brokers may take for their first answer.
const CONNECT: Duration = Duration::from_secs(15);

/// The least time that a file sink waits for a slow worker to merge its packets in.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a sink was refused.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is one that is read.
    #[error(
        "write {0}: it is a file that is read, and would be emptied before that; name another with -w"
    )]
    Input(String),
    /// The cluster is not there, or not for us.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl OutputError {
    /// The exit code that this error ends a run with.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::File(FileError::Start(_)) => Exit::Setup,
            Self::Connect(ConnectError::Settings(_) | ConnectError::TopicName(_))
            | Self::File(_)
            | Self::Input(_) => Exit::Usage,
            Self::Connect(_) => Exit::Setup,
        }
    }
}

/// The kind of sink that `config` names.
pub(super) fn kind(config: &Config) -> SinkKind {
    match config.output {
        Output::Kafka {
            producer: Producer::Native { .. },
            ..
        } => SinkKind::Kafka,
        Output::Kafka { .. } => SinkKind::Librdkafka,
        Output::File(_) => SinkKind::File,
        Output::Discard => SinkKind::Discard,
    }
}

/// Where it writes to: a topic or a path.
pub(super) fn destination(config: &Config) -> String {
    match &config.output {
        Output::Kafka { topic, .. } => topic.clone(),
        Output::File(file) => file
            .path
            .as_ref()
            .map_or_else(String::new, |p| p.display().to_string()),
        Output::Discard => String::new(),
    }
}

/// Whether the sink can hold packets of one link type only.
pub(super) fn holds_one_link_type(config: &Config) -> bool {
    matches!(
        &config.output,
        Output::File(FileOutput {
            format: Format::Pcap(_),
            ..
        })
    )
}

/// The open sinks, one for each publisher.
pub(super) enum Sinks {
    /// A capture file.
    File(Box<FileSink>),
    /// A Kafka topic: each has partitions of its own.
    Kafka {
        /// One for each publisher.
        sinks: Vec<KafkaSink>,
        /// The number of partitions of the topic; partition `p` is that of publisher `p % sinks`.
        partitions: usize,
        /// The most bytes of a batch.
        max_batch: usize,
    },
    /// A Kafka topic, through librdkafka: each has partitions of its own.
    Librdkafka(Vec<LibrdkafkaSink>),
    /// Nothing is kept.
    Discard,
}

impl Sinks {
    /// How many publishers they take.
    pub(super) fn publishers(&self) -> usize {
        match self {
            Self::Kafka { sinks, .. } => sinks.len(),
            Self::Librdkafka(sinks) => sinks.len(),
            Self::File(_) | Self::Discard => 1,
        }
    }

    /// The most bytes that a batch may have, where the sink knows.
    pub(super) fn max_batch(&self) -> Option<usize> {
        match self {
            Self::Kafka { max_batch, .. } => Some(*max_batch),
            Self::File(_) | Self::Librdkafka(_) | Self::Discard => None,
        }
    }

    /// The number of the publisher of each partition, where there are partitions.
    pub(super) fn owners(&self) -> Option<Vec<usize>> {
        let (partitions, publishers) = match self {
            Self::Kafka {
                sinks, partitions, ..
            } => (*partitions, sinks.len()),
            Self::Librdkafka(sinks) => {
                let shares = sinks.iter().map(|sink| sink.partitions().len());
                (shares.sum(), sinks.len())
            }
            Self::File(_) | Self::Discard => return None,
        };
        Some(
            (0..partitions)
                .map(|partition| partition % publishers)
                .collect(),
        )
    }

    /// Starts their publishers.
    pub(super) fn publish(self, rings: &Rings, shared: &Shared) -> std::io::Result<()> {
        match self {
            Self::File(sink) => pipeline::publish(vec![*sink], rings, shared),
            Self::Kafka { sinks, .. } => pipeline::publish(sinks, rings, shared),
            Self::Librdkafka(sinks) => pipeline::publish(sinks, rings, shared),
            Self::Discard => pipeline::publish(vec![Discard::default()], rings, shared),
        }
    }
}

/// Opens the sink for the workers that write to `queues`.
pub(super) fn open(
    config: &Config,
    queues: &[Arc<QueueCounters>],
    interfaces: &Interfaces,
    board: &Board,
    names: &[String],
    control: &Arc<Control>,
) -> Result<Sinks, OutputError> {
    match &config.output {
        Output::Kafka {
            topic,
            settings,
            producer: Producer::Librdkafka { reason },
            ..
        } => {
            let cluster = Cluster::connect(settings, topic, CONNECT)?;
            let partitions = usize::try_from(cluster.partitions()).unwrap_or(1);
            let start = Start {
                topic,
                partitions,
                brokers: cluster.brokers().len(),
                queues: queues.len(),
                partition_by: config.partition_by,
            };
            start.say("publishing through librdkafka", reason, cluster.settings());
            let publishers = start.publishers();
            let sinks = (0..publishers)
                .map(|at| cluster.sink(cluster.share(at, publishers), &config.encoding))
                .collect::<Result<_, _>>()?;
            Ok(Sinks::Librdkafka(sinks))
        }
        Output::Kafka {
            topic,
            settings,
            producer: Producer::Native { reason },
            create,
            compression,
        } => {
            let cluster = kafka::Cluster::connect(settings, topic, *create, CONNECT)?;
            let start = Start {
                topic,
                partitions: cluster.partitions(),
                brokers: cluster.brokers().count(),
                queues: queues.len(),
                partition_by: config.partition_by,
            };
            start.say("publishing natively", reason, cluster.settings());
            let publishers = start.publishers();
            let mut sinks = (0..publishers)
                .map(|at| cluster.sink(at, publishers))
                .collect::<Result<Vec<_>, _>>()?;
            for sink in &mut sinks {
                sink.compress(compression.on(CompressOn::Publisher));
            }
            Ok(Sinks::Kafka {
                sinks,
                partitions: cluster.partitions(),
                max_batch: cluster.max_batch(),
            })
        }
        Output::Discard => Ok(Sinks::Discard),
        Output::File(file) => {
            let path = file.path.clone().unwrap_or_else(|| default_path(names));
            if file.path.is_none() {
                info!(file = %path.display(), "no sink is named: writing a file");
                board.set_destination(&path.display().to_string());
            }
            if let Input::Files(inputs) = &config.input
                && is_among(&path, inputs)
            {
                return Err(OutputError::Input(path.display().to_string()));
            }
            let asked = control.clone();
            let sink = FileSink::new(FileConfig {
                destination: destination_of(path),
                format: file.format,
                rotation: file.rotation,
                snaplen: u32::try_from(config.encoding.snaplen).unwrap_or(u32::MAX),
                link_type: None,
                interfaces: interfaces.clone(),
                totals: totals(interfaces.clone(), board.clone()),
                queues: queues.to_vec(),
                hold: (config.batches / 2).max(1),
                patience: PATIENCE.max(config.linger.saturating_mul(20)),
                at_end: Arc::new(move || asked.ask()),
            })?;
            Ok(Sinks::File(Box::new(sink)))
        }
    }
}

/// What is said of a topic at start.
struct Start<'a> {
    topic: &'a str,
    partitions: usize,
    brokers: usize,
    queues: usize,
    partition_by: PartitionBy,
}

impl Start<'_> {
    fn publishers(&self) -> usize {
        self.queues.min(self.partitions).max(1)
    }

    fn say(&self, how: &str, reason: &str, settings: &ProducerSettings) {
        for notice in settings.notices() {
            info!("{notice}");
        }
        info!(
            topic = self.topic,
            partitions = self.partitions,
            publishers = self.publishers(),
            brokers = self.brokers,
            "{how}: {reason}"
        );
        let by_flow = self.partition_by == PartitionBy::Flow;
        if self.publishers() < self.queues || by_flow && self.queues > 1 {
            info!(
                queues = self.queues,
                "queues share partitions: batches of one partition may overlap in time by a linger"
            );
        }
    }
}

/// Whether `path` is one of the regular files that are read, under whatever name.
fn is_among(path: &Path, inputs: &[PathBuf]) -> bool {
    let number = |path: &Path| {
        let path = match path == Path::new("-") {
            true => Path::new("/dev/stdin"),
            false => path,
        };
        let known = fs::metadata(path).ok().filter(Metadata::is_file)?;
        Some((known.dev(), known.ino()))
    };
    path != Path::new("-")
        && number(path).is_some_and(|file| inputs.iter().any(|input| number(input) == Some(file)))
}

fn destination_of(path: PathBuf) -> Destination {
    if path == Path::new("-") {
        Destination::Stdout
    } else {
        Destination::Path(path)
    }
}

/// What an Interface Statistics Block says of an interface.
fn totals(
    interfaces: Interfaces,
    board: Board,
) -> Arc<dyn Fn(u16) -> Option<InterfaceTotals> + Send + Sync> {
    Arc::new(move |number| {
        let name = interfaces.get(number)?.name;
        Some(board.interface_totals(&name))
    })
}

/// The file that a capture without a sink writes: named by interface and time, in this folder.
fn default_path(names: &[String]) -> PathBuf {
    let name = names.first().map(Path::new).and_then(Path::file_stem);
    let name = name.map_or("capture".into(), |name| name.to_string_lossy());
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(plain).collect();
    let now = time::OffsetDateTime::now_local().unwrap_or_else(|_| time::OffsetDateTime::now_utc());
    let format = time::macros::format_description!("[year][month][day]-[hour][minute][second]");
    let stamp = now.format(&format).expect("a date has all its parts");
    format!("{name}-{stamp}.pcapng").into()
}
