//! `ringtap pycapa`: the command line of Apache Metron's pycapa.
//!
//! The rule: what pycapa's README shows runs unchanged, with only the name of the program changed, or
//! not even that where the binary is called `pycapa`.

use std::error::Error;
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::Path;

use clap::{Args, ValueEnum};
use time::UtcOffset;
use tracing::level_filters::LevelFilter;

use crate::cli::capture::{CaptureArgs, LogFormat, Mode};
use crate::cli::complain;
use crate::cli::kafka::{KafkaArgs, is_brokers};
use crate::config::{Config, ConfigError};
use crate::consume::{Form, Options, Start};
use crate::exit::Exit;
use crate::format::write::{DEFAULT_SNAPLEN, Format, Fraction};
use crate::kafka::Settings;
use crate::log;

use crate::pycapa::{self, Level};

/// What pycapa is called.
const NAME: &str = "pycapa";

/// Options of two letters behind one dash, which no parser of ours knows.
const TWO_LETTERS: [(&str, &str); 2] = [("-pp", "--pretty-print"), ("-ll", "--log-level")];

/// How much is logged (`--log-level`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Everything, librdkafka's lines of `-X debug=all` among it.
    Debug,
    /// What pycapa says of its own accord.
    #[default]
    Info,
    /// Warnings and errors.
    #[value(alias = "warn")]
    Warning,
    /// Errors.
    #[value(aliases = ["critical", "fatal"])]
    Error,
}

/// Where to begin (`--kafka-offset`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KafkaOffset {
    /// The oldest record there is.
    Begin,
    /// The next record to come.
    #[default]
    End,
    /// Where the group stopped.
    Stored,
}

/// pycapa's options.
#[derive(Args, Clone, Debug)]
pub struct PycapaArgs {
    /// sniff packets and send to kafka
    #[arg(short = 'p', long)]
    producer: bool,
    /// read packets from kafka
    #[arg(short = 'c', long)]
    consumer: bool,
    /// kafka broker(s) as host:port
    #[arg(short = 'k', long, alias = "kafka", value_name = "KAFKA_BROKERS")]
    kafka_broker: Option<String>,
    /// kafka topic
    #[arg(short = 't', long, alias = "topic", value_name = "KAFKA_TOPIC")]
    kafka_topic: Option<String>,
    /// kafka offset to consume from
    #[arg(
        short = 'o',
        long,
        value_enum,
        default_value = "end",
        value_name = "KAFKA_OFFSET"
    )]
    kafka_offset: KafkaOffset,
    /// network interface to listen on
    #[arg(short = 'i', long, value_name = "NETWORK_IFACE")]
    interface: Option<String>,
    /// stop after this number of packets; 0 for no limit
    #[arg(short = 'm', long, default_value_t = 0, allow_negative_numbers = true)]
    max_packets: i64,
    /// pretty print every X packets (-pp X)
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pretty_print: i64,
    /// set the log level (-ll LEVEL)
    #[arg(long, value_enum, ignore_case = true, default_value = "info")]
    log_level: LogLevel,
    /// define a kafka client parameter; key=value
    #[arg(short = 'X', value_name = "KAFKA_CONFIGS")]
    kafka_configs: Vec<String>,
    /// capture only the first X bytes of each packet
    #[arg(short = 's', long, value_name = "X", default_value_t = 65_535)]
    snaplen: u32,
}

/// What is wrong with a command line beyond its syntax.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    /// Neither mode.
    #[error("expected either --consumer or --producer; see ringtap pycapa --help")]
    NoMode,
    /// Something that the mode needs.
    #[error("missing required args: expected [{0}]")]
    Missing(&'static str),
    /// Settings that do not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What pycapa is asked to do.
#[derive(Debug)]
enum Task {
    Produce(Box<Config>, Settings),
    Consume(Box<Options>),
}

/// Brings a command line that is pycapa's into a form that clap reads; leaves every other one alone.
///
/// It is pycapa's when the program is called so, or when that is the first word after the program.
pub(super) fn translate(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == NAME) {
        arguments.splice(..1, ["ringtap".into(), NAME.into()]);
    } else if arguments.get(1).is_none_or(|word| word != NAME) {
        return arguments;
    }
    let (head, words) = arguments.split_at(2);
    let head = head.iter().cloned();
    head.chain(words.iter().map(translate_word)).collect()
}

fn translate_word(word: &OsString) -> OsString {
    let Some(text) = word.to_str() else {
        return word.clone();
    };
    for (short, long) in TWO_LETTERS {
        match text.strip_prefix(short) {
            Some("") => return long.into(),
            Some(value) if value.starts_with('=') => return format!("{long}{value}").into(),
            _ => {}
        }
    }
    word.clone()
}

impl PycapaArgs {
    fn task(&self) -> Result<Task, UsageError> {
        // pycapa, asked for both, wants what a producer needs, and then consumes.
        match (self.consumer, self.producer) {
            (true, false) => self.consume(),
            (true, true) => self.produce().and_then(|_| self.consume()),
            (false, true) => self.produce(),
            (false, false) => Err(UsageError::NoMode),
        }
    }

    fn produce(&self) -> Result<Task, UsageError> {
        let missing = UsageError::Missing("--kafka-broker, --kafka-topic, --interface");
        let interface = self.interface.clone().filter(|name| !name.is_empty());
        let (Some(interface), Some(topic), Some(settings)) =
            (interface, self.topic(), self.settings()?)
        else {
            return Err(missing);
        };
        let mut set = self.kafka_configs.clone();
        // pycapa's librdkafka made topics; who says otherwise is heard later and wins.
        set.insert(0, "allow.auto.create.topics=true".to_owned());
        let args = CaptureArgs {
            interface: vec![interface],
            mode: Some(Mode::Pcap),
            snaplen: Some(self.snaplen.min(DEFAULT_SNAPLEN)),
            count: positive(self.max_packets).map(NonZeroU64::get),
            kafka: KafkaArgs {
                brokers: self.brokers().map(str::to_owned),
                topic: Some(topic),
                set,
            },
            quiet: true,
            ..CaptureArgs::default()
        };
        let mut config = Config::check(&args)?;
        config.print_every = positive(self.pretty_print);
        Ok(Task::Produce(Box::new(config), settings))
    }

    fn consume(&self) -> Result<Task, UsageError> {
        let missing = UsageError::Missing("--kafka-broker, --kafka-topic");
        let (Some(topic), Some(mut settings)) = (self.topic(), self.settings()?) else {
            return Err(missing);
        };
        let anonymous = settings.get("group.id").is_none();
        let defaults = [
            ("group.id", random_name()),
            // pycapa's librdkafka began at the end where nothing was stored.
            ("auto.offset.reset", "latest".to_owned()),
        ];
        for (key, value) in defaults {
            settings
                .set_default(key, &value)
                .map_err(ConfigError::from)?;
        }
        let form = match positive(self.pretty_print) {
            Some(every) => Form::Lines {
                every,
                offset: UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC),
            },
            None => Form::Capture {
                format: Format::Pcap(Fraction::Micros),
                snaplen: self.snaplen,
            },
        };
        Ok(Task::Consume(Box::new(Options {
            start: match self.kafka_offset {
                KafkaOffset::Begin => Start::Begin,
                KafkaOffset::End => Start::End,
                KafkaOffset::Stored => Start::Stored,
            },
            count: positive(self.max_packets).map(NonZeroU64::get),
            form,
            anonymous,
            summary: false,
            ..Options::new(settings, &topic)
        })))
    }

    /// The settings that the user made; `None` where no broker is among them.
    fn settings(&self) -> Result<Option<Settings>, ConfigError> {
        match Settings::gather(self.brokers(), None, &self.kafka_configs) {
            Ok(settings) => Ok(Some(settings)),
            Err(crate::kafka::SettingsError::NoBroker) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The brokers of `-k`, unless `-X` names some, which win.
    fn brokers(&self) -> Option<&str> {
        let brokers = self.kafka_broker.as_deref().filter(|list| !list.is_empty());
        brokers.filter(|_| !self.kafka_configs.iter().any(|set| is_brokers(set)))
    }

    fn topic(&self) -> Option<String> {
        self.kafka_topic.clone().filter(|topic| !topic.is_empty())
    }

    fn level(&self) -> Level {
        match self.log_level {
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warning => Level::Warning,
            LogLevel::Error => Level::Error,
        }
    }
}

/// A count of pycapa's, which means none from 0 down.
fn positive(count: i64) -> Option<NonZeroU64> {
    u64::try_from(count).ok().and_then(NonZeroU64::new)
}

/// Twelve capital letters, as pycapa names a group that nobody named.
fn random_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    let mut random = RandomState::new().hash_one(std::process::id());
    let mut letter = || {
        let letter = b'A' + u8::try_from(random % 26).expect("it is below 26");
        random /= 26;
        char::from(letter)
    };
    (0..12).map(|_| letter()).collect()
}

/// Runs `ringtap pycapa`.
pub(super) fn run(args: &PycapaArgs) -> Exit {
    let level = match args.log_level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info | LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    log::start(LogFormat::Text, level);
    let task = match args.task() {
        Ok(task) => task,
        Err(error) => {
            complain(&error);
            return Exit::Usage;
        }
    };
    let outcome = match &task {
        Task::Produce(config, settings) => pycapa::produce(config, settings, args.level())
            .map_err(|error| settle(&error, error.exit())),
        Task::Consume(options) => {
            pycapa::consume(options, args.level()).map_err(|error| settle(&error, error.exit()))
        }
    };
    outcome.unwrap_or_else(|exit| exit)
}

fn settle(error: &dyn Error, exit: Exit) -> Exit {
    complain(error);
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Output;

    /// The arguments as clap sees them, of a line as a shell splits it.
    fn parse(line: &str) -> Result<PycapaArgs, clap::Error> {
        #[derive(clap::Parser)]
        struct Program {
            #[command(subcommand)]
            command: Only,
        }
        #[derive(clap::Subcommand)]
        enum Only {
            #[command(args_override_self = true, infer_long_args = true)]
            Pycapa(PycapaArgs),
        }
        let words = line.split_whitespace().map(OsString::from).collect();
        let program = <Program as clap::Parser>::try_parse_from(translate(words))?;
        let Only::Pycapa(args) = program.command;
        Ok(args)
    }

    fn produced(line: &str) -> (Config, Settings) {
        match parse(line).unwrap().task().unwrap() {
            Task::Produce(config, settings) => (*config, settings),
            Task::Consume(_) => panic!("{line}: the consumer"),
        }
    }

    fn consumed(line: &str) -> Options {
        match parse(line).unwrap().task().unwrap() {
            Task::Consume(options) => *options,
            Task::Produce(..) => panic!("{line}: the producer"),
        }
    }

    fn topic(config: &Config) -> &str {
        match &config.output {
            Output::Kafka { topic, .. } => topic,
            other => panic!("not Kafka: {other:?}"),
        }
    }

    fn setting<'a>(config: &'a Config, key: &str) -> Option<&'a str> {
        match &config.output {
            Output::Kafka { settings, .. } => settings.get(key),
            other => panic!("not Kafka: {other:?}"),
        }
    }

    #[test]
    fn the_producers_lines_of_the_readme_run_as_written() {
        let (config, settings) = produced(
            "pycapa --producer --interface eth0 --kafka-broker localhost:9092 --kafka-topic pcap \
             --max-packets 10",
        );
        assert_eq!(config.count, Some(10));
        assert_eq!(topic(&config), "pcap");
        assert_eq!(
            settings.redacted().to_string(),
            "{'bootstrap.servers': 'localhost:9092'}"
        );
        assert_eq!(setting(&config, "allow.auto.create.topics"), Some("true"));

        let (config, _) = produced(
            "pycapa --producer --interface eth0 --kafka-broker localhost:9092 --kafka-topic pcap",
        );
        assert_eq!(config.count, None);
        assert_eq!(config.mode, Mode::Pcap);
        assert!(config.promiscuous);

        let (config, _) = produced(
            "pycapa --producer --interface en0 --kafka-broker localhost:9092 --kafka-topic pcap \
             --pretty-print 10",
        );
        assert_eq!(config.print_every, NonZeroU64::new(10));

        // The keytab has to be there; the README's is on the machine of whoever follows it.
        let keytab = tempfile::NamedTempFile::new().unwrap();
        let line = "pycapa --producer --interface eth0 --kafka-broker kafka1:6667 --kafka-topic pcap \
             --max-packets 10 -X security.protocol=SASL_PLAINTEXT \
             -X sasl.kerberos.keytab=/etc/security/keytabs/metron.headless.keytab \
             -X sasl.kerberos.principal=metron-metron@METRONEXAMPLE.COM";
        let readmes = "/etc/security/keytabs/metron.headless.keytab";
        let (config, _) = produced(&line.replace(readmes, keytab.path().to_str().unwrap()));
        assert_eq!(
            setting(&config, "security.protocol"),
            Some("SASL_PLAINTEXT")
        );
        assert_eq!(
            setting(&config, "sasl.kerberos.principal"),
            Some("metron-metron@METRONEXAMPLE.COM")
        );
    }

    #[test]
    fn the_consumers_lines_of_the_readme_run_as_written() {
        for after in ["", " -X debug=all --log-level DEBUG"] {
            let line = "pycapa --consumer --kafka-broker localhost:9092 --kafka-topic pcap \
                        --max-packets 10";
            let options = consumed(&format!("{line}{after}"));
            assert_eq!(options.count, Some(10));
            assert_eq!(options.start, Start::End);
            assert_eq!(options.form, Form::default());
            assert!(options.anonymous);
            assert_eq!(options.settings.get("group.id").unwrap().len(), 12);
        }
    }

    #[test]
    fn old_spellings_and_short_ones_mean_the_same() {
        let (config, _) = produced(
            "ringtap pycapa --producer --kafka sandbox:9092 --topic packets_topic -i eth0",
        );
        assert_eq!(topic(&config), "packets_topic");
        let (config, _) =
            produced("/usr/bin/pycapa -p -k a:1 -t x -i lo -m 3 -pp 2 -ll debug -s 96");
        assert_eq!(config.count, Some(3));
        assert_eq!(config.print_every, NonZeroU64::new(2));
        assert_eq!(config.encoding.snaplen, 96);
        let args = parse("pycapa -c -k a:1 -t x -pp=5 -ll=WARN -o begin").unwrap();
        assert_eq!(args.level(), Level::Warning);
        assert_eq!(args.pretty_print, 5);
        assert_eq!(args.kafka_offset, KafkaOffset::Begin);
        let args = parse("pycapa --cons --max 1 --max 2 -k a:1 -t x").unwrap();
        assert_eq!((args.consumer, args.max_packets), (true, 2));
    }

    #[test]
    fn a_setting_is_cut_at_its_first_equals_sign_and_brokers_may_be_one() {
        let options = consumed(
            "pycapa -c -k a:1 -t x -X bootstrap.servers=b:2 -X sasl.kerberos.kinit.cmd=k=v=w \
             -X group.id=g -o stored",
        );
        assert_eq!(options.settings.get("bootstrap.servers"), Some("b:2"));
        assert_eq!(
            options.settings.get("sasl.kerberos.kinit.cmd"),
            Some("k=v=w")
        );
        assert_eq!(options.start, Start::Stored);
        assert!(!options.anonymous);
        let (config, _) = produced("pycapa -p -i lo -k a:1 -t x -X allow.auto.create.topics=false");
        assert_eq!(setting(&config, "allow.auto.create.topics"), Some("false"));
    }

    #[test]
    fn no_limit_is_written_as_nought_or_less() {
        assert_eq!(consumed("pycapa -c -k a:1 -t x -m 0").count, None);
        assert_eq!(consumed("pycapa -c -k a:1 -t x -m -1 -pp -1").count, None);
    }

    #[test]
    fn what_is_missing_is_wrong_usage() {
        for line in [
            "pycapa",
            "pycapa -k a:1 -t x",
            "pycapa -p -k a:1 -t x",
            "pycapa -p -i lo -t x",
            "pycapa -c -k a:1",
            "pycapa -c -t x",
            "pycapa -p -c -k a:1 -t x",
        ] {
            assert!(parse(line).unwrap().task().is_err(), "{line}");
        }
        for line in [
            "pycapa -c -k a:1 -t x -o middle",
            "pycapa -c -k a:1 -t x -m ten",
            "pycapa -c -k a:1 -t x -ll loud",
            "pycapa -c -k a:1 -t x -pp",
            "pycapa -c -k a:1 -t x --nonsense",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn other_command_lines_are_left_alone() {
        let line = ["ringtap", "capture", "-pp", "-ll"];
        let words: Vec<_> = line.iter().map(OsString::from).collect();
        assert_eq!(translate(words.clone()), words);
        assert_eq!(translate(Vec::new()), Vec::<OsString>::new());
    }
}
