//! The configuration of a capture: what was written → what holds.
//!
//! The rule: every value is checked against every other before anything is opened. A [`Config`] that
//! exists can be run; what is wrong with one that does not is said by key, value, rule and mend.

mod compression;
mod file;
mod layout;
mod output;
mod units;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use crate::batch::{HEADER_LEN, RECORD_OVERHEAD};
use crate::cli::capture::{
    CaptureArgs, Direction, Idle, KeyUnit, LogFormat, Mode, PartitionBy, RecordClock,
};
use crate::filter::Filter;
use crate::kafka::SettingsError;
use crate::packet::MAX_PACKET;
use crate::record::{Encoding, KeyTime, RecordTime};
use crate::source::file::{Speed, SpeedError};
use crate::source::synthetic::{Spec, SpecError};

pub use compression::Compression;
pub(crate) use output::plain;
pub use output::{FileOutput, Output, Producer};
pub(crate) use units::number_list;
pub use units::{Size, Span};

/// The longest record value that goes to Kafka: the snap length every Metron reader announces.
pub const KAFKA_SNAPLEN: usize = 65_535;

/// Why a configuration cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value breaks a rule.
    #[error("{key} = {value}: {rule}")]
    Value {
        /// The key: the flag's long name.
        key: &'static str,
        /// What was written.
        value: String,
        /// The rule it breaks, and the mend.
        rule: String,
    },
    /// Two keys contradict each other, or one is missing.
    #[error("{0}")]
    Contradiction(String),
    /// A Kafka setting is refused.
    #[error(transparent)]
    Kafka(#[from] SettingsError),
    /// The configuration file cannot be read or understood.
    #[error("configuration file {path}: {what}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong, with line and column.
        what: String,
    },
}

impl ConfigError {
    /// The CPUs that were asked for cannot be had here.
    pub(crate) fn cpus(wanted: Option<&[usize]>, rule: String) -> Self {
        let wanted: Vec<_> = wanted
            .unwrap_or_default()
            .iter()
            .map(usize::to_string)
            .collect();
        value("cpus", wanted.join(","), rule)
    }

    /// The batches of all queues together are more than the machine's memory of `machine` bytes.
    pub(crate) fn buffer(bytes: usize, queues: usize, machine: u64) -> Self {
        let rule = format!(
            "so much for each of the queues, {queues} here, is more than the machine's memory of {} MiB",
            machine >> 20
        );
        value("buffer", bytes, rule)
    }
}

fn value(key: &'static str, value: impl ToString, rule: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key,
        value: value.to_string(),
        rule: rule.into(),
    }
}

/// Where packets come from.
#[derive(Clone, Debug)]
pub enum Input {
    /// Interfaces, by name or altname.
    Interfaces(Vec<String>),
    /// Capture files, `-` for standard input.
    Files(Vec<PathBuf>),
    /// Packets made in memory.
    Synthetic(Spec),
}

/// A checked configuration of a capture.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where packets come from.
    pub(crate) input: Input,
    /// How fast files are read.
    pub(crate) speed: Speed,
    /// How packets are taken off an interface.
    pub(crate) mode: Mode,
    /// The queues asked for; `None` for all.
    pub(crate) queues: Option<Vec<usize>>,
    /// The CPUs for workers; `None` for a choice of our own.
    pub(crate) cpus: Option<Vec<usize>>,
    /// The count of `-c`.
    pub(crate) count: Option<u64>,
    /// How long to capture.
    pub(crate) duration: Option<Duration>,
    /// Which direction libpcap captures.
    pub(crate) direction: Direction,
    /// The filter, in pcap-filter syntax.
    pub(crate) filter: Option<String>,
    /// Whether to put interfaces into promiscuous mode.
    pub(crate) promiscuous: bool,
    /// What workers do while nothing comes.
    pub(crate) idle: Idle,
    /// Their longest nap.
    pub(crate) max_nap: Duration,
    /// UMEM frames per queue; `None` for 8,192 or 32,768.
    pub(crate) frames: Option<u32>,
    /// Bytes of libpcap's buffer.
    pub(crate) pcap_buffer: usize,
    /// Whether offloads stay as they are.
    pub(crate) keep_offloads: bool,
    /// Bytes of a batch.
    pub(crate) batch_size: usize,
    /// The length beyond which no second record is written to a batch; at most `batch_size`.
    pub(crate) batch_limit: usize,
    /// Batches per queue.
    pub(crate) batches: usize,
    /// The age at which a batch goes out.
    pub(crate) linger: Duration,
    /// The longest drain.
    pub(crate) drain: Duration,
    /// How packets become records.
    pub(crate) encoding: Encoding,
    /// What stays together in a partition.
    pub(crate) partition_by: PartitionBy,
    /// Where batches go.
    pub(crate) output: Output,
    /// Where the ledger is written.
    pub(crate) ledger: Option<PathBuf>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
    /// How often the ledger is printed.
    pub(crate) stats: Option<Duration>,
    /// How log lines are written.
    pub(crate) log_format: LogFormat,
    /// How much is logged.
    pub(crate) verbose: u8,
    /// Whether only errors are shown.
    pub(crate) quiet: bool,
    /// Every so many packets of libpcap, one is printed: pycapa's, not a capture's to ask for.
    pub(crate) print_every: Option<NonZeroU64>,
}

impl Config {
    /// Checks `args`, which a configuration file was already merged into.
    pub fn check(args: &CaptureArgs) -> Result<Self, ConfigError> {
        let input = input(args)?;
        let output = output::output(args)?;
        let kafka = matches!(output, Output::Kafka { .. });
        refuse_strays(args, &input, &output)?;
        refuse_contradictions(args)?;

        let snaplen = match args.snaplen {
            None | Some(0) => MAX_PACKET,
            Some(bytes) if bytes as usize > MAX_PACKET => {
                return Err(value(
                    "snaplen",
                    bytes,
                    format!("at most {MAX_PACKET}; 0 keeps all"),
                ));
            }
            Some(bytes) => bytes as usize,
        };
        let snaplen = if kafka {
            snaplen.min(KAFKA_SNAPLEN)
        } else {
            snaplen
        };
        let batch_size = args.batch_size.map_or(1 << 20, Size::get);
        let least = snaplen + HEADER_LEN + RECORD_OVERHEAD;
        if batch_size < least {
            let rule =
                format!("a batch holds at least one packet: {least} bytes with snaplen {snaplen}");
            return Err(value("batch-size", batch_size, rule));
        }
        if batch_size > 64 << 20 {
            return Err(value("batch-size", batch_size, "at most 64MiB"));
        }
        let buffer = args.buffer.map_or(128 << 20, Size::get);
        let batches = buffer / batch_size;
        if batches < 4 {
            let rule = format!(
                "at least four batches of {batch_size} bytes: {}",
                batch_size * 4
            );
            return Err(value("buffer", buffer, rule));
        }
        let record_time = match args.record_time {
            Some(RecordClock::Now) => RecordTime::Now,
            Some(RecordClock::Packet) => RecordTime::Packet,
            None if matches!(input, Input::Files(_)) => RecordTime::Now,
            None => RecordTime::Packet,
        };
        let encoding = Encoding {
            key_time: match args.key_time.unwrap_or_default() {
                KeyUnit::Us => KeyTime::Micros,
                KeyUnit::Ns => KeyTime::Nanos,
                KeyUnit::Ms => KeyTime::Millis,
            },
            record_time,
            headers: args.record_headers || matches!(output, Output::File(_)),
            snaplen,
        };
        Ok(Self {
            speed: match &args.speed {
                Some(text) => text
                    .parse()
                    .map_err(|rule: SpeedError| value("speed", text, rule.to_string()))?,
                None => Speed::Max,
            },
            mode: args.mode.unwrap_or_default(),
            queues: list(
                "queues",
                args.queues.as_deref().filter(|list| *list != "all"),
            )?,
            cpus: list("cpus", args.cpus.as_deref())?,
            count: args.count.filter(|count| *count > 0),
            duration: seconds("duration", args.duration, 0.001)?,
            direction: args.direction.unwrap_or_default(),
            filter: filter(args)?,
            promiscuous: !args.no_promiscuous,
            idle: args.idle.unwrap_or_default(),
            max_nap: args.max_nap.map_or(Duration::from_millis(5), Span::get),
            frames: frames(args.frames)?,
            pcap_buffer: pcap_buffer(args.pcap_buffer)?,
            keep_offloads: args.keep_offloads,
            batch_size,
            batch_limit: batch_size,
            batches,
            linger: linger(args, &output),
            drain: seconds("drain", args.drain, 0.0)?.unwrap_or(Duration::from_secs(30)),
            encoding,
            partition_by: args.partition_by.unwrap_or_default(),
            input,
            output,
            ledger: args.ledger.clone(),
            metrics: metrics(args.metrics.as_deref())?,
            stats: seconds("stats", args.stats, 0.1)?,
            log_format: args.log_format.unwrap_or_default(),
            verbose: args.verbose,
            quiet: args.quiet,
            print_every: None,
        })
    }

    /// The same for a sink that takes batches of at most `limit` bytes: with more batches, of fewer bytes.
    ///
    /// A batch goes on having room for the largest packet: whether a packet is too large, the sink says.
    pub(crate) fn fitted(&self, limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(self.batch_size).min(self.batch_size);
        let least = self.encoding.snaplen + HEADER_LEN + RECORD_OVERHEAD;
        let batch_size = limit.max(least).min(self.batch_size);
        Self {
            batch_size,
            batch_limit: limit,
            batches: self.buffer() / batch_size,
            ..self.clone()
        }
    }

    /// Bytes of all batches of a queue.
    pub(crate) fn buffer(&self) -> usize {
        self.batch_size * self.batches
    }
}

/// `--linger`, else what `linger.ms` says to the native producer: its batches are the worker's.
fn linger(args: &CaptureArgs, output: &Output) -> Duration {
    let set = match output {
        Output::Kafka {
            settings,
            producer: Producer::Native { .. },
            ..
        } => settings.get("linger.ms").and_then(|set| set.parse().ok()),
        _ => None,
    };
    let set = set.map(|millis: f64| Duration::from_secs_f64(millis / 1e3));
    let named = args.linger.map(Span::get);
    named.or(set).unwrap_or(Duration::from_millis(50))
}

fn input(args: &CaptureArgs) -> Result<Input, ConfigError> {
    let kinds = [
        !args.interface.is_empty(),
        !args.read.is_empty(),
        args.source.is_some(),
    ];
    match (kinds, &args.source) {
        ([false, false, false], _) => Err(ConfigError::Contradiction(
            "nothing to capture from: name an interface with -i (`ringtap capture -D` lists them), a \
             file with -r, or --source synthetic"
                .into(),
        )),
        ([true, false, false], _) => Ok(Input::Interfaces(args.interface.clone())),
        ([false, true, false], _) => Ok(Input::Files(args.read.clone())),
        ([false, false, true], Some(spec)) => {
            spec.parse().map(Input::Synthetic).map_err(|error: SpecError| ConfigError::Contradiction(error.to_string()))
        }
        _ => Err(ConfigError::Contradiction(
            "-i, -r and --source exclude each other: capture from interfaces, from files, or from memory"
                .into(),
        )),
    }
}

fn refuse_strays(args: &CaptureArgs, input: &Input, output: &Output) -> Result<(), ConfigError> {
    let live = matches!(input, Input::Interfaces(_));
    let file = matches!(output, Output::File(_));
    let kafka = matches!(output, Output::Kafka { .. });
    let rules = [
        (
            args.speed.is_some() && !matches!(input, Input::Files(_)),
            "--speed",
            "files (-r)",
        ),
        (args.mode.is_some() && !live, "--mode", "interfaces (-i)"),
        (
            args.queues.is_some() && !live,
            "--queues",
            "interfaces (-i)",
        ),
        (args.direction.is_some() && !live, "-Q", "interfaces (-i)"),
        (
            args.frames.is_some() && !live,
            "--frames",
            "interfaces (-i)",
        ),
        (
            args.pcap_buffer.is_some() && !live,
            "--pcap-buffer",
            "interfaces (-i)",
        ),
        (
            args.rotate_size.is_some() && !file,
            "-C",
            "a file sink (-w)",
        ),
        (
            args.rotate_seconds.is_some() && !file,
            "-G",
            "a file sink (-w)",
        ),
        (
            args.rotate_files.is_some() && !file,
            "-W",
            "a file sink (-w)",
        ),
        (
            args.format.is_some() && !file,
            "--format",
            "a file sink (-w)",
        ),
        (
            args.key_time.is_some() && !kafka,
            "--key-time",
            "a Kafka sink (-k)",
        ),
        (
            args.record_time.is_some() && !kafka,
            "--record-time",
            "a Kafka sink (-k)",
        ),
        (
            args.record_headers && !kafka,
            "--record-headers",
            "a Kafka sink (-k)",
        ),
        (
            args.kafka.topic.is_some() && !kafka,
            "-t",
            "a Kafka sink (-k)",
        ),
        (
            !args.kafka.set.is_empty() && !kafka,
            "-X",
            "a Kafka sink (-k)",
        ),
        (
            args.compression.is_some() && !kafka,
            "--compression",
            "a Kafka sink (-k)",
        ),
        (
            args.compress_on.is_some() && !kafka,
            "--compress-on",
            "a Kafka sink (-k)",
        ),
        (
            args.partition_by.is_some() && !kafka,
            "--partition-by",
            "a Kafka sink (-k)",
        ),
        (
            args.fastcapa_config.is_some() && !kafka,
            "--fastcapa-config",
            "a Kafka sink (-k)",
        ),
    ];
    if (args.mode, args.direction) == (Some(Mode::Xdp), Some(Direction::Out)) {
        return Err(ConfigError::Contradiction(
            "-Q out with --mode xdp: AF_XDP sees what arrives only; leave one of them out".into(),
        ));
    }
    let Some((_, key, where_)) = rules.iter().find(|(stray, ..)| *stray) else {
        return Ok(());
    };
    Err(ConfigError::Contradiction(format!(
        "{key} means something only with {where_}"
    )))
}

fn refuse_contradictions(args: &CaptureArgs) -> Result<(), ConfigError> {
    let is_stdout =
        |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let said = match args {
        _ if args.quiet && args.stats.is_some() => {
            "-q with --stats: -q prints no table; leave one of them out"
        }
        _ if is_stdout(&args.ledger) && is_stdout(&args.write) => {
            "--ledger - with -w -: standard output carries the packets; name a file for the ledger"
        }
        _ => return Ok(()),
    };
    Err(ConfigError::Contradiction(said.into()))
}

fn filter(args: &CaptureArgs) -> Result<Option<String>, ConfigError> {
    let named = [
        args.filter.is_some(),
        args.filter_file.is_some(),
        !args.expression.is_empty(),
    ];
    if named.iter().filter(|named| **named).count() > 1 {
        return Err(ConfigError::Contradiction(
            "one filter, please: -f, -F or trailing words exclude each other".into(),
        ));
    }
    if let Some(path) = &args.filter_file {
        return Filter::read_file(path)
            .map(|text| Some(text).filter(|text| !text.is_empty()))
            .map_err(|error| {
                let cause =
                    std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
                value("filter-file", path.display(), cause)
            });
    }
    let words = args.expression.join(" ");
    Ok(args
        .filter
        .clone()
        .or(Some(words))
        .filter(|text| !text.trim().is_empty()))
}

fn list(key: &'static str, text: Option<&str>) -> Result<Option<Vec<usize>>, ConfigError> {
    text.map(|text| number_list(text).map_err(|rule| value(key, text, rule)))
        .transpose()
}

fn seconds(
    key: &'static str,
    seconds: Option<f64>,
    least: f64,
) -> Result<Option<Duration>, ConfigError> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    if seconds.is_nan() || seconds < least {
        return Err(value(key, seconds, format!("at least {least} seconds")));
    }
    let duration = Duration::try_from_secs_f64(seconds.min(1e9));
    duration
        .map(Some)
        .map_err(|cause| value(key, seconds, cause.to_string()))
}

fn frames(frames: Option<u32>) -> Result<Option<u32>, ConfigError> {
    match frames {
        Some(n) if !n.is_power_of_two() || !(256..=1 << 20).contains(&n) => {
            Err(value("frames", n, "a power of two from 256 to 1048576"))
        }
        frames => Ok(frames),
    }
}

fn pcap_buffer(size: Option<Size>) -> Result<usize, ConfigError> {
    let bytes = size.map_or(64 << 20, Size::get);
    if !(1 << 20..1 << 31).contains(&bytes) {
        return Err(value("pcap-buffer", bytes, "1MiB to 2GiB less one byte"));
    }
    Ok(bytes)
}

fn metrics(text: Option<&str>) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        value(
            "metrics",
            text,
            "an address and a port, as 127.0.0.1:9465 or [::1]:9465",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> CaptureArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            capture: CaptureArgs,
        }
        let words = std::iter::once(&"capture").chain(words);
        <Line as clap::Parser>::try_parse_from(words)
            .unwrap()
            .capture
    }

    #[test]
    fn an_interface_alone_goes_to_a_file_with_every_default() {
        let config = Config::check(&args(&["-i", "eth0"])).unwrap();
        assert!(matches!(
            config.output,
            Output::File(FileOutput { path: None, .. })
        ));
        assert!(config.encoding.headers);
        assert_eq!((config.batch_size, config.batches), (1 << 20, 128));
    }

    #[test]
    fn a_kafka_sink_cuts_at_what_readers_announce() {
        let config = Config::check(&args(&["-i", "eth0", "-k", "b:9092"])).unwrap();
        assert_eq!(config.encoding.snaplen, KAFKA_SNAPLEN);
        assert!(!config.encoding.headers);
        assert_eq!(config.encoding.record_time, RecordTime::Packet);
        let config = Config::check(&args(&["-r", "x.pcap", "-k", "b:9092"])).unwrap();
        assert_eq!(config.encoding.record_time, RecordTime::Now);
    }

    #[test]
    fn the_producers_linger_is_the_workers_unless_a_flag_says_otherwise() {
        let linger = |more: &[&str]| {
            let words = [&["-i", "eth0", "-k", "b:1", "-X", "linger.ms=7"], more].concat();
            Config::check(&args(&words)).unwrap().linger
        };
        assert_eq!(linger(&[]), Duration::from_millis(7));
        assert_eq!(linger(&["--linger", "9ms"]), Duration::from_millis(9));
        let librdkafka = linger(&["--producer", "librdkafka"]);
        assert_eq!(librdkafka, Duration::from_millis(50));
    }

    #[test]
    fn the_producer_is_the_one_that_knows_every_setting() {
        let producer = |more: &[&str]| {
            let words = [&["-i", "eth0", "-k", "b:1"], more].concat();
            Config::check(&args(&words)).map(|config| match config.output {
                Output::Kafka { producer, .. } => producer,
                other => panic!("{other:?}"),
            })
        };
        assert!(matches!(producer(&[]), Ok(Producer::Native { .. })));
        let kerberos = [
            "-X",
            "security.protocol=sasl_ssl",
            "-X",
            "sasl.mechanism=GSSAPI",
        ];
        let Ok(Producer::Librdkafka { reason }) = producer(&kerberos) else {
            panic!("Kerberos is librdkafka's");
        };
        assert!(reason.contains("GSSAPI"), "{reason}");
        let insists = ["-X", "debug=broker", "--producer", "native"];
        let refused = producer(&insists).unwrap_err().to_string();
        assert!(
            refused.contains("debug=broker") && refused.contains("auto"),
            "{refused}"
        );
        let made = producer(&["--create-topic", "8:3", "--producer", "librdkafka"]);
        assert!(made.unwrap_err().to_string().contains("--create-topic"));
        for wrong in ["0", "8:0", "x", "8:", "-1:1"] {
            let words = format!("--create-topic={wrong}");
            assert!(producer(&[&words]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_contradicts_is_refused_in_words() {
        for (words, part) in [
            (vec![], "-i"),
            (vec!["-i", "a", "-r", "b"], "exclude each other"),
            (vec!["-i", "a", "-k", "b:1", "-w", "c"], "one sink"),
            (vec!["-i", "a", "-t", "x"], "-k HOST:PORT"),
            (vec!["-i", "a", "--speed", "3"], "-r"),
            (vec!["-r", "a", "--speed=-3"], "packets per second"),
            (vec!["-r", "a", "--mode", "xdp"], "-i"),
            (vec!["-i", "a", "-W", "3"], "-C or -G"),
            (vec!["-i", "a", "-w", "-", "-C", "3"], "rotated"),
            (vec!["-i", "a", "-k", "b:1", "-t", "a b"], "letters"),
            (vec!["-i", "a", "--batch-size", "100"], "one packet"),
            (vec!["-i", "a", "--buffer", "2MiB"], "four batches"),
            (vec!["-i", "a", "--frames", "1000"], "power of two"),
            (vec!["-i", "a", "-q", "--stats", "1"], "-q with --stats"),
            (
                vec!["-i", "a", "-w", "-", "--ledger", "-"],
                "standard output",
            ),
            (vec!["-i", "a", "-w", "x.pcap.gz"], "x.pcap.gz: "),
            (vec!["-i", "a", "-w", "%F.pcapng.ZST"], "compress it"),
            (vec!["-i", "a", "--cpus", "x"], "list of numbers"),
            (vec!["-i", "a", "--metrics=here"], "address and a port"),
            (vec!["-i", "a", "-f", "tcp", "udp"], "one filter"),
            (vec!["-i", "a", "-s", "300000"], "262144"),
            (vec!["-i", "a", "--partition-by", "flow"], "a Kafka sink"),
            (vec!["-i", "a", "--compression", "lz4"], "a Kafka sink"),
        ] {
            let error = Config::check(&args(&words)).unwrap_err().to_string();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
