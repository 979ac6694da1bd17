//! Reading a topic back: records → packets → a capture file, a pipe, or lines.
//!
//! The rule: a record is handled whole before the next one, and nobody waits for a packet that has come:
//! the buffer goes out whenever nothing more is at hand. What is no packet is counted, and the reading
//! goes on.
//!
//! ```text
//! librdkafka ▶ order (as they come | by time) ▶ decode ▶ window, filter ▶ form ▶ output
//! ```

mod decode;
mod form;
mod header;
mod order;
mod output;
mod position;
mod reading;
mod stop;
mod topic;

use std::fmt;
use std::io::{self, IsTerminal, Write};

use nix::sys::signal::Signal;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::exit::Exit;
use crate::filter::{FilterError, Filters};
use crate::kafka::connect::ConnectError;
use crate::kafka::{Settings, SettingsError};
use crate::packet::LinkType;
use crate::progress;
use crate::record::KeyTime;
use crate::signals;

pub use form::Form;
pub use output::Destination;
use output::Output;
pub use position::{Moment, Start, Window};
use reading::Reading;
use stop::Stop;
use topic::Topic;

/// How a topic is read back.
#[derive(Clone, Debug)]
pub struct Options {
    /// Brokers and every other setting of the client.
    pub settings: Settings,
    /// The topic.
    pub topic: String,
    /// The partitions, in order and each once; `None` for all there are at start.
    pub partitions: Option<Vec<i32>>,
    /// Where to begin.
    pub start: Start,
    /// How many packets to write.
    pub count: Option<u64>,
    /// Whether to end where the partitions end at start.
    pub exit_at_end: bool,
    /// Where to write.
    pub to: Destination,
    /// What to write.
    pub form: Form,
    /// What the keys count.
    pub key_time: KeyTime,
    /// Which packets, by time.
    pub window: Window,
    /// Which packets, in pcap-filter syntax.
    pub filter: Option<String>,
    /// Whether packets are written by time across partitions.
    pub sort: bool,
    /// Whether the group is a mere name: nothing is committed for it.
    pub anonymous: bool,
    /// Whether the sums go to standard error at the end.
    pub summary: bool,
}

impl Options {
    /// `topic` from its end on, to standard output, in pycapa's form.
    pub fn new(settings: Settings, topic: &str) -> Self {
        Self {
            settings,
            topic: topic.to_owned(),
            partitions: None,
            start: Start::default(),
            count: None,
            exit_at_end: false,
            to: Destination::default(),
            form: Form::default(),
            key_time: KeyTime::default(),
            window: Window::default(),
            filter: None,
            sort: false,
            anonymous: false,
            summary: true,
        }
    }
}

/// Why a topic cannot be read, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The settings are refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The filter is malformed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// Stored offsets are a group's.
    #[error(
        "-o stored: offsets are stored for a group; name it with -G GROUP or -X group.id=GROUP"
    )]
    NoGroup,
    /// A capture file's bytes are not for a terminal.
    #[error(
        "standard output is a terminal: write to a file with -w FILE, or pipe it, as | tshark -i -"
    )]
    Terminal,
    /// There is no connection, or no such topic.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The topic has fewer partitions.
    #[error("topic {topic} has no partition {partition}: it has {count}, numbered from 0")]
    NoPartition {
        /// The topic.
        topic: String,
        /// The number asked for.
        partition: i32,
        /// How many there are.
        count: i32,
    },
    /// A signal came before a question was answered.
    #[error("interrupted while {doing}")]
    Interrupted {
        /// What was being asked.
        doing: String,
    },
    /// A question is refused, or not answered.
    #[error("{doing}")]
    Asking {
        /// What was being asked.
        doing: String,
        /// What librdkafka says.
        #[source]
        cause: KafkaError,
    },
    /// The brokers do not let us read, or not any more.
    #[error("reading topic {topic}: the broker says {code}")]
    Refused {
        /// The topic.
        topic: String,
        /// What it says.
        code: RDKafkaErrorCode,
    },
    /// The output cannot be written.
    #[error("writing to {name}")]
    Output {
        /// The file, or standard output.
        name: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The output cannot be opened.
    #[error("opening {name}")]
    Open {
        /// The file, or standard output.
        name: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The offsets are not stored: the next reading of the group repeats records.
    #[error("storing the offsets of group {group}: the next reading from there repeats records")]
    Commit {
        /// The group.
        group: String,
        /// What librdkafka says.
        #[source]
        cause: KafkaError,
    },
    /// The system refused a thread or a signal mask.
    #[error("starting the handling of signals")]
    System(#[source] io::Error),
}

impl ConsumeError {
    /// The exit code that this error ends a run with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Settings(_) | Self::Filter(_) | Self::NoGroup | Self::Terminal => Exit::Usage,
            Self::Connect(ConnectError::Settings(_) | ConnectError::TopicName(_)) => Exit::Usage,
            Self::Refused { code, .. } => match code {
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed => Exit::Setup,
                _ => Exit::Failed,
            },
            Self::Connect(_)
            | Self::NoPartition { .. }
            | Self::Asking { .. }
            | Self::Interrupted { .. }
            | Self::Open { .. }
            | Self::System(_) => Exit::Setup,
            Self::Output { .. } | Self::Commit { .. } => Exit::Failed,
        }
    }
}

/// What became of the records that were read. `read` is the sum of the others but `gone` and
/// `steps_back`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that came.
    pub read: u64,
    /// Packets whose every byte is written.
    pub written: u64,
    /// Packets outside the window, or that the filter does not match.
    pub filtered: u64,
    /// Records that hold no packet.
    pub bad: u64,
    /// Packets of a link type that the format cannot hold beside the first one's.
    pub rejected: u64,
    /// Packets that the reader did not take.
    pub unwritten: u64,
    /// Offsets that were deleted before they were read.
    pub gone: u64,
    /// Packets written after a later one.
    pub steps_back: u64,
}

impl fmt::Display for Summary {
    /// One line; what is seldom is there only when it happened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            read,
            written,
            filtered,
            bad,
            ..
        } = self;
        write!(
            f,
            "{read} records read, {written} written, {filtered} filtered, {bad} bad_record"
        )?;
        for (count, what) in [
            (self.rejected, "rejected (link type)"),
            (self.unwritten, "not taken by the reader"),
            (self.gone, "deleted before they were read"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Reads the topic until the count or the end is reached, the reader is gone, or a signal comes.
///
/// SIGINT and SIGTERM end it well; a second one does not wait for a reader that stands still.
pub fn run(options: &Options) -> Result<Summary, ConsumeError> {
    if options.start == Start::Stored && options.settings.get("group.id").is_none() {
        return Err(ConsumeError::NoGroup);
    }
    let filter = options.filter.as_deref();
    let filter = filter
        .map(|text| Filters::new(text, LinkType::ETHERNET))
        .transpose()?;

    let stop = Stop::default();
    signals::block().map_err(ConsumeError::System)?;
    let signalled = stop.clone();
    let watched = signals::watch(move |signal| {
        if signal != Signal::SIGUSR1 {
            signalled.ask();
        }
        true
    });
    watched.map_err(ConsumeError::System)?;

    let prefetch = options.sort.then_some(order::PREFETCH);
    let topic = Topic::open(options, prefetch)?;
    let partitions = topic.positions(
        options.partitions.as_deref(),
        options.start,
        &options.settings,
    )?;
    let mut queues = match options.sort {
        true => topic.split(&partitions),
        false => Vec::new(),
    };
    topic.assign(&partitions)?;
    let output = Output::open(&options.to, options.form, &topic.name, stop.clone());
    let output = output.map_err(|cause| ConsumeError::Open {
        name: options.to.to_string(),
        cause,
    })?;
    let mut reading = Reading::new(&topic, options, partitions, filter, output, stop);
    let read = match options.sort {
        true => order::by_time(&topic, &mut queues, &mut reading),
        false => order::as_they_come(&topic, &mut reading),
    };
    let outcome = read.and_then(|left| reading.finish(&left));
    let summary = reading.summary();
    if options.summary {
        let _ = writeln!(progress::stderr(), "{summary}");
        if options.sort && summary.steps_back > 0 {
            let _ = writeln!(
                progress::stderr(),
                "{} written later than a packet of a later time: they came too late to be sorted",
                summary.steps_back
            );
        }
    }
    outcome.map(|()| summary)
}

/// Refuses to write a capture file's bytes to a terminal.
pub(crate) fn refuse_terminal() -> Result<(), ConsumeError> {
    match io::stdout().is_terminal() {
        true => Err(ConsumeError::Terminal),
        false => Ok(()),
    }
}
