//! `ringtap consume`: what can be written on its command line.
//!
//! The rule: what is written means the same as for `capture`, wherever both have it.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueHint};

use crate::cli::capture::{FileFormat, KeyUnit, LogFormat};
use crate::cli::complain;
use crate::cli::kafka::KafkaArgs;
use crate::config::{number_list, plain};
use crate::consume::{
    self, ConsumeError, Destination, Form, Moment, Options, Start, Window, refuse_terminal,
};
use crate::exit::Exit;
use crate::filter::Filter;
use crate::format::write::{Format, Fraction};
use crate::kafka::Settings;
use crate::log;
use crate::record::KeyTime;

/// The flags of `ringtap consume`.
#[derive(Args, Clone, Debug)]
pub struct ConsumeArgs {
    /// Brokers, topic and settings.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Partitions, as 0,2-3 [default: all]
    #[arg(short = 'p', long, value_name = "LIST", help_heading = "Kafka")]
    pub partition: Option<String>,
    /// Where to begin: begin, end, stored (where the group stopped, or at the beginning), an offset, or
    /// @TIME by the records' own timestamps (RFC 3339 or seconds since 1970)
    #[arg(
        short = 'o',
        long,
        value_name = "POSITION",
        default_value = "end",
        help_heading = "Kafka"
    )]
    pub offset: Start,
    /// Group whose offsets are stored, after what was read is written
    #[arg(short = 'G', long, value_name = "GROUP", help_heading = "Kafka")]
    pub group: Option<String>,
    /// Unit of the time in the record key
    #[arg(long, value_enum, default_value = "us", help_heading = "Kafka")]
    pub key_time: KeyUnit,

    /// Stop after writing this many packets
    #[arg(
        short = 'c',
        long,
        value_name = "COUNT",
        help_heading = "Which packets"
    )]
    pub count: Option<u64>,
    /// Exit where the partitions end when reading begins
    #[arg(short = 'e', long, help_heading = "Which packets")]
    pub exit: bool,
    /// Packets of this time and later (RFC 3339 or seconds since 1970)
    #[arg(long, value_name = "TIME", help_heading = "Which packets")]
    pub from: Option<Moment>,
    /// Packets before this time
    #[arg(long, value_name = "TIME", help_heading = "Which packets")]
    pub to: Option<Moment>,
    /// Filter expression, in pcap-filter syntax
    #[arg(
        short = 'f',
        long,
        value_name = "EXPRESSION",
        help_heading = "Which packets"
    )]
    pub filter: Option<String>,
    /// File with the filter expression
    #[arg(short = 'F', long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Which packets")]
    pub filter_file: Option<PathBuf>,

    /// Capture file to write, `-` for standard output
    #[arg(short = 'w', long, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub write: PathBuf,
    /// Format [default: by extension, else pcapng; pcap on standard output]. pcap has pycapa's form:
    /// Ethernet, the key's time, no original length
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Option<FileFormat>,
    /// Snap length that the output states; nothing is cut
    #[arg(
        short = 's',
        long,
        value_name = "BYTES",
        default_value_t = 65_535,
        help_heading = "Output"
    )]
    pub snaplen: u32,
    /// Write by packet time across partitions; holds at most 64 MiB of records (1 MiB for each partition
    /// above 64), and live ones for a second
    #[arg(long, help_heading = "Output")]
    pub sort: bool,

    /// Format of log lines
    #[arg(long, value_enum, default_value = "text", help_heading = "Watching")]
    pub log_format: LogFormat,
    /// More log lines; twice for still more
    #[arg(short = 'v', long, action = ArgAction::Count, help_heading = "Watching")]
    pub verbose: u8,
    /// No summary; errors only
    #[arg(short = 'q', long, help_heading = "Watching")]
    pub quiet: bool,
    /// Filter expression, as trailing words
    #[arg(value_name = "EXPRESSION", conflicts_with_all = ["filter", "filter_file"])]
    pub expression: Vec<String>,
}

impl ConsumeArgs {
    /// Checks every value.
    fn options(&self) -> Result<Options, UsageError> {
        let mut set = self.kafka.set.clone();
        if let Some(group) = &self.group {
            set.push(format!("group.id={group}"));
        }
        let settings = Settings::gather(self.kafka.brokers.as_deref(), None, &set)
            .map_err(ConsumeError::Settings)?;
        let window = Window {
            from: self.from.map(|Moment(time)| time),
            to: self.to.map(|Moment(time)| time),
        };
        if let (Some(from), Some(to)) = (window.from, window.to)
            && from >= to
        {
            return Err(UsageError::Value {
                key: "to",
                rule: "it must be later than --from".into(),
            });
        }
        if self.filter.is_some() && self.filter_file.is_some() {
            return Err(UsageError::Value {
                key: "filter",
                rule: "one filter, please: -f and -F exclude each other".into(),
            });
        }
        let to = match self.write == Path::new("-") {
            true => Destination::Stdout,
            false => Destination::Path(self.write.clone()),
        };
        plain(&self.write).map_err(|rule| UsageError::Value {
            key: "write",
            rule: format!("{}: {rule}", self.write.display()),
        })?;
        let format = match (self.format, &to) {
            (Some(FileFormat::Pcapng), _) => Format::Pcapng,
            (Some(FileFormat::Pcap), _) | (None, Destination::Stdout) => {
                Format::Pcap(Fraction::Micros)
            }
            (Some(FileFormat::PcapNs), _) => Format::Pcap(Fraction::Nanos),
            (None, Destination::Path(path)) => Format::of_path(path),
        };
        Ok(Options {
            partitions: self.partitions()?,
            start: self.offset,
            count: self.count.filter(|count| *count > 0),
            exit_at_end: self.exit,
            to,
            form: Form::Capture {
                format,
                snaplen: self.snaplen,
            },
            key_time: match self.key_time {
                KeyUnit::Us => KeyTime::Micros,
                KeyUnit::Ns => KeyTime::Nanos,
                KeyUnit::Ms => KeyTime::Millis,
            },
            window,
            filter: self.filter()?,
            sort: self.sort,
            summary: !self.quiet,
            ..Options::new(settings, self.kafka.topic())
        })
    }

    fn partitions(&self) -> Result<Option<Vec<i32>>, UsageError> {
        let Some(text) = &self.partition else {
            return Ok(None);
        };
        let refuse = |rule| UsageError::Value {
            key: "partition",
            rule,
        };
        let mut list = Vec::new();
        for number in number_list(text).map_err(refuse)? {
            let number = i32::try_from(number);
            list.push(number.map_err(|_| refuse("partitions are numbered below 2^31".into()))?);
        }
        list.sort_unstable();
        Ok(Some(list))
    }

    fn filter(&self) -> Result<Option<String>, UsageError> {
        let text = match &self.filter_file {
            Some(path) => Some(Filter::read_file(path).map_err(ConsumeError::Filter)?),
            None => self.filter.clone(),
        };
        let text = text.unwrap_or_else(|| self.expression.join(" "));
        Ok(Some(text).filter(|text| !text.trim().is_empty()))
    }
}

/// What is wrong with a command line beyond its syntax.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    /// A value breaks a rule.
    #[error("--{key}: {rule}")]
    Value {
        /// The flag.
        key: &'static str,
        /// The rule.
        rule: String,
    },
    /// It names what cannot be consumed.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
}

/// Runs `ringtap consume`.
pub(super) fn run(args: &ConsumeArgs) -> Exit {
    log::init(args.log_format, args.verbose, args.quiet);
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => {
            complain(&error);
            return Exit::Usage;
        }
    };
    let may = match options.to {
        Destination::Stdout => refuse_terminal(),
        Destination::Path(_) => Ok(()),
    };
    match may.and_then(|()| consume::run(&options)) {
        Ok(_) => Exit::Done,
        Err(error) => {
            complain(&error);
            error.exit()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Result<ConsumeArgs, clap::Error> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            consume: ConsumeArgs,
        }
        let words = ["consume", "-k", "b:9092"].iter().chain(words);
        <Line as clap::Parser>::try_parse_from(words).map(|line| line.consume)
    }

    fn options(words: &[&str]) -> Options {
        args(words).unwrap().options().unwrap()
    }

    fn format(words: &[&str]) -> Format {
        match options(words).form {
            Form::Capture { format, .. } => format,
            Form::Lines { .. } => unreachable!("no flag of consume asks for lines"),
        }
    }

    #[test]
    fn without_flags_it_is_pycapas_consumer() {
        let options = options(&[]);
        assert_eq!(options.form, Form::default());
        assert_eq!(options.to, Destination::Stdout);
        assert_eq!(options.start, Start::End);
        assert_eq!(options.topic, "pcap");
        assert_eq!(options.count, None);
    }

    #[test]
    fn the_file_name_chooses_the_format_unless_an_option_does() {
        assert_eq!(format(&["-w", "x.pcapng"]), Format::Pcapng);
        assert_eq!(format(&["-w", "x.pcap"]), Format::Pcap(Fraction::Micros));
        assert_eq!(format(&["-w", "x"]), Format::Pcapng);
        assert_eq!(format(&["--format", "pcapng"]), Format::Pcapng);
        assert_eq!(
            format(&["-w", "x.pcap", "--format", "pcap-ns"]),
            Format::Pcap(Fraction::Nanos)
        );
    }

    #[test]
    fn a_filter_is_trailing_words_or_an_option() {
        assert_eq!(
            options(&["udp", "port", "53"]).filter.unwrap(),
            "udp port 53"
        );
        assert_eq!(
            options(&["-f", "udp port 53"]).filter.unwrap(),
            "udp port 53"
        );
        assert!(args(&["-f", "udp", "tcp"]).is_err());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        assert!(args(&["-o", "beginning"]).is_err());
        assert!(args(&["--from", "noon"]).is_err());
        for words in [
            &["-p", "x"][..],
            &["--from", "7", "--to", "7"],
            &["-X", "nonsense"],
            &["-X", "grup.id=x"],
            &["-w", "x.pcap.gz"],
        ] {
            assert!(args(words).unwrap().options().is_err(), "{words:?}");
        }
        let listed = options(&["-p", "3,0-1"]).partitions.unwrap();
        assert_eq!(listed, [0, 1, 3]);
    }
}
