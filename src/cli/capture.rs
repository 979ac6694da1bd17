//! `ringtap capture`: what can be written on its command line and in its configuration file.
//!
//! The rule: one list of keys. A key of the file is the long name of the flag, and means the same.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum, ValueHint};
use serde::{Deserialize, Serialize};

use std::io::{self, Write};

use crate::capture::{self, CaptureError};
use crate::cli::complain;
use crate::cli::kafka::KafkaArgs;
use crate::config::{Config, Size, Span};
use crate::exit::Exit;
use crate::kafka::Settings;
use crate::{log, nic};

/// How packets are taken off an interface (`--mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// AF_XDP where the interface carries no traffic of the host's own, else libpcap.
    #[default]
    Auto,
    /// AF_XDP, whatever the interface is used for.
    Xdp,
    /// libpcap.
    Pcap,
}

/// What a worker does while nothing comes (`--idle`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// Nap for a time derived from the recent rate.
    #[default]
    Nap,
    /// Wait on the kernel.
    Poll,
    /// Never rest: least latency, one core at 100 %.
    Spin,
    /// Let the kernel's own polling of the NIC do the work (`SO_PREFER_BUSY_POLL`).
    BusyPoll,
}

/// Which packets libpcap captures (`-Q`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Those that arrive.
    In,
    /// Those that leave.
    Out,
    /// Both.
    #[default]
    Inout,
}

/// The unit of the record key (`--key-time`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyUnit {
    /// Microseconds, as fastcapa and pycapa.
    #[default]
    Us,
    /// Nanoseconds.
    Ns,
    /// Milliseconds.
    Ms,
}

/// What a record's own timestamp says (`--record-time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordClock {
    /// The packet's time; the default for interfaces.
    Packet,
    /// The time it was read; the default for files.
    Now,
}

/// On whose core batches are compressed (`--compress-on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompressOn {
    /// The publisher's, beside sending.
    #[default]
    Publisher,
    /// The worker's: there are more of them, but each waits for it.
    Worker,
}

/// What stays together in a partition (`--partition-by`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionBy {
    /// The packets of a batch: partitions are filled in turn, one batch each.
    #[default]
    Batch,
    /// The packets of a flow, both directions of it, whatever queue they come on.
    Flow,
}

/// The format of a capture file (`--format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// pcapng, nanoseconds.
    Pcapng,
    /// Classic pcap, microseconds.
    Pcap,
    /// Classic pcap, nanoseconds.
    PcapNs,
}

/// How log lines are written (`--log-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A sink that is not named by its own flags (`--sink`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkName {
    /// Count every packet and keep none.
    Discard,
}

/// What publishes to Kafka (`--producer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProducerName {
    /// The native producer where it knows every setting, librdkafka else.
    #[default]
    Auto,
    /// The native producer.
    Native,
    /// librdkafka.
    Librdkafka,
}

/// The flags of `ringtap capture`, which are also the keys of its configuration file.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CaptureArgs {
    /// Interface to capture on, by name or altname; repeatable
    #[arg(short = 'i', long, value_name = "IF", help_heading = "Input")]
    pub interface: Vec<String>,
    /// Capture file to read, `-` for standard input; repeatable, read one after another
    #[arg(short = 'r', long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Input")]
    pub read: Vec<PathBuf>,
    /// Make packets in memory, as a specification says
    #[arg(
        long,
        value_name = "SPEC",
        help = "Make packets in memory: synthetic,size=60|imix[,flows=N][,pps=N]",
        help_heading = "Input"
    )]
    pub source: Option<String>,
    /// Speed of reading files: max, recorded, or packets per second [default: max]
    #[arg(long, value_name = "SPEED", help_heading = "Input")]
    pub speed: Option<String>,
    /// List interfaces, what each can do, and what `--mode auto` would choose
    #[arg(short = 'D', long, help_heading = "Input")]
    #[serde(skip)]
    pub list_interfaces: bool,

    /// How packets are taken off the interface [default: auto]
    #[arg(long, value_enum, help_heading = "Capture")]
    pub mode: Option<Mode>,
    /// Queues to capture from: all, or a list such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Capture")]
    pub queues: Option<String>,
    /// CPUs for the workers, such as 1,3-5 [default: the first ones, one being left for the rest]
    #[arg(long, value_name = "LIST", help_heading = "Capture")]
    pub cpus: Option<String>,
    /// Cut packets to this many bytes; 0 keeps all [default: 0]
    #[arg(short = 's', long, value_name = "BYTES", help_heading = "Capture")]
    pub snaplen: Option<u32>,
    /// Stop after exactly this many packets
    #[arg(short = 'c', long, value_name = "COUNT", help_heading = "Capture")]
    pub count: Option<u64>,
    /// Stop after this many seconds
    #[arg(long, value_name = "SECS", help_heading = "Capture")]
    pub duration: Option<f64>,
    /// Direction of the packets, with libpcap [default: inout]
    #[arg(short = 'Q', long, value_enum, help_heading = "Capture")]
    pub direction: Option<Direction>,
    /// Filter expression, in pcap-filter syntax
    #[arg(short = 'f', long, value_name = "EXPRESSION", help_heading = "Capture")]
    pub filter: Option<String>,
    /// File with the filter expression
    #[arg(short = 'F', long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Capture")]
    pub filter_file: Option<PathBuf>,
    /// Do not put the interface into promiscuous mode
    #[arg(long, help_heading = "Capture")]
    pub no_promiscuous: bool,
    /// What a worker does while nothing comes [default: nap]
    #[arg(long, value_enum, help_heading = "Capture")]
    pub idle: Option<Idle>,
    /// Longest nap [default: 5ms]
    #[arg(long, value_name = "TIME", help_heading = "Capture")]
    pub max_nap: Option<Span>,
    /// UMEM frames per queue, a power of two [default: 8192, 32768 for jumbo frames]
    #[arg(long, value_name = "N", help_heading = "Capture")]
    pub frames: Option<u32>,
    /// Kernel buffer per interface in pcap mode [default: 64MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Capture")]
    pub pcap_buffer: Option<Size>,
    /// Leave rx-vlan, LRO and GRO offloads as they are
    #[arg(long, help_heading = "Capture")]
    pub keep_offloads: bool,

    /// Memory for batches per queue [default: 128MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Batches")]
    pub buffer: Option<Size>,
    /// Size of a batch [default: 1MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Batches")]
    pub batch_size: Option<Size>,
    /// Age at which a batch that is not full goes out [default: 50ms]
    #[arg(long, value_name = "TIME", help_heading = "Batches")]
    pub linger: Option<Span>,
    /// Seconds to wait at stop for what is under way [default: 30]
    #[arg(long, value_name = "SECS", help_heading = "Batches")]
    pub drain: Option<f64>,

    /// Brokers, topic and settings.
    #[command(flatten)]
    #[serde(flatten, skip_deserializing)]
    pub kafka: KafkaArgs,
    /// What publishes to Kafka [default: auto]
    #[arg(long, value_name = "PRODUCER", help_heading = "Kafka")]
    pub producer: Option<ProducerName>,
    /// Make the topic where it is missing: PARTITIONS[:REPLICATION]
    #[arg(long, value_name = "PARTITIONS[:REPLICATION]", help_heading = "Kafka")]
    pub create_topic: Option<String>,
    /// Kafka settings in fastcapa's format
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Kafka")]
    pub fastcapa_config: Option<PathBuf>,
    /// Unit of the time in the record key [default: us]
    #[arg(long, value_enum, help_heading = "Kafka")]
    pub key_time: Option<KeyUnit>,
    /// What the record's own timestamp says [default: packet; now for files]
    #[arg(long, value_enum, help_heading = "Kafka")]
    pub record_time: Option<RecordClock>,
    /// Add the `rt` header: ns time, original length, link type, interface, queue, sequence
    #[arg(long, help_heading = "Kafka")]
    pub record_headers: bool,
    /// What stays together in a partition: a batch, or a flow with both its directions [default: batch]
    #[arg(long, value_enum, help_heading = "Kafka")]
    pub partition_by: Option<PartitionBy>,
    /// Codec of record batches: none, lz4, zstd, snappy, gzip or auto; a level as in zstd:3 [default: none]
    #[arg(long, value_name = "CODEC[:LEVEL]", help_heading = "Kafka")]
    pub compression: Option<String>,
    /// On whose core batches are compressed [default: publisher]
    #[arg(long, value_enum, help_heading = "Kafka")]
    pub compress_on: Option<CompressOn>,

    /// Capture file to write, `-` for standard output
    #[arg(short = 'w', long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "File")]
    pub write: Option<PathBuf>,
    /// Format of the file [default: by extension, else pcapng]
    #[arg(long, value_enum, help_heading = "File")]
    pub format: Option<FileFormat>,
    /// Begin a new file at this size; a plain number is in millions of bytes
    #[arg(short = 'C', long, value_name = "SIZE", help_heading = "File")]
    pub rotate_size: Option<String>,
    /// Begin a new file every so many seconds; FILE is a strftime pattern
    #[arg(short = 'G', long, value_name = "SECS", help_heading = "File")]
    pub rotate_seconds: Option<u64>,
    /// Keep this many files (with -C: a ring of them; with -G: stop after them)
    #[arg(short = 'W', long, value_name = "FILES", help_heading = "File")]
    pub rotate_files: Option<u32>,
    /// Another sink
    #[arg(long, value_enum, help_heading = "File")]
    pub sink: Option<SinkName>,

    /// Write the ledger as JSON at exit, `-` for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Watching")]
    pub ledger: Option<PathBuf>,
    /// Serve /metrics, /ledger, /healthz and /readyz [address if none is given: 127.0.0.1:9465]
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, require_equals = true,
          default_missing_value = "127.0.0.1:9465", help_heading = "Watching")]
    pub metrics: Option<String>,
    /// Print the ledger every so many seconds
    #[arg(long, value_name = "SECS", help_heading = "Watching")]
    pub stats: Option<f64>,
    /// Format of log lines [default: text]
    #[arg(long, value_enum, help_heading = "Watching")]
    pub log_format: Option<LogFormat>,
    /// More log lines; twice for still more
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = "Watching")]
    pub verbose: u8,
    /// No progress, no table; errors only. Not with --stats
    #[arg(short = 'q', long, help_heading = "Watching")]
    pub quiet: bool,

    /// Configuration file; flags win over it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Configuration")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Check flags and file, and stop
    #[arg(long, help_heading = "Configuration")]
    #[serde(skip)]
    pub check_config: bool,
    /// Print the configuration in force, without secrets, and stop
    #[arg(long, help_heading = "Configuration")]
    #[serde(skip)]
    pub print_config: bool,
    /// Filter expression, as trailing words
    #[arg(value_name = "EXPRESSION")]
    #[serde(skip)]
    pub expression: Vec<String>,
}

/// Runs `ringtap capture`.
pub(super) fn run(args: CaptureArgs) -> Exit {
    match start(args) {
        Ok(exit) => exit,
        Err(error) => {
            complain(&error);
            error.exit()
        }
    }
}

fn start(args: CaptureArgs) -> Result<Exit, CaptureError> {
    if args.list_interfaces {
        let table = nic::table::list_table().map_err(capture::InputError::from)?;
        let _ = write!(io::stdout(), "{table}");
        return Ok(Exit::Done);
    }
    let args = args.with_file()?;
    let config = Config::check(&args)?;
    if args.print_config {
        let _ = write!(io::stdout(), "{}", args.to_toml(Settings::redact));
        return Ok(Exit::Done);
    }
    if args.check_config {
        let _ = writeln!(io::stdout(), "the configuration holds");
        return Ok(Exit::Done);
    }
    log::init(config.log_format, config.verbose, config.quiet);
    capture::run(&config)
}
