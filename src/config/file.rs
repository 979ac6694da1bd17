//! The configuration file: TOML, the keys of the command line.
//!
//! The rule: flags win, over what they name. A flag that names a source replaces all that the file says of
//! sources, one that names a sink what the file says of other kinds of sinks, so that a file written for a
//! sensor can be tried against another interface or sink. Kafka settings (`-X`) come on top of the file's,
//! each over that of its key.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use clap::Args;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::{Table, Value};

use crate::cli::capture::CaptureArgs;
use crate::kafka::Settings;

use super::ConfigError;

const SOURCES: &[&str] = &["interface", "read", "source", "speed", "mode", "queues"];
const FILES: &[&str] = &[
    "write",
    "format",
    "rotate-size",
    "rotate-seconds",
    "rotate-files",
];
const KAFKA: &[&str] = &[
    "brokers",
    "topic",
    "set",
    "fastcapa-config",
    "key-time",
    "record-time",
    "record-headers",
    "partition-by",
    "compression",
    "compress-on",
];
const OTHER_SINKS: &[&str] = &["sink"];
/// What is said of any interface: it stays while there is one.
const OF_INTERFACES: &[&str] = &["direction", "frames", "pcap-buffer"];
/// Flags that are no keys of the file.
const NOT_KEYS: &[&str] = &["config", "check-config", "print-config", "list-interfaces"];

impl CaptureArgs {
    /// Merges the file that `--config` names, if any, under the flags.
    pub fn with_file(self) -> Result<Self, ConfigError> {
        let Some(path) = &self.config else {
            return Ok(self);
        };
        let error = |what: String| ConfigError::File {
            path: path.display().to_string(),
            what,
        };
        let text = std::fs::read_to_string(path).map_err(|cause| error(cause.to_string()))?;
        parse(path, &text)?;
        let mut merged: Table = text
            .parse()
            .map_err(|cause: toml::de::Error| error(explain(&text, &cause)))?;
        let mut flags = written(&self);
        let brokers = self.kafka.names_brokers();
        let names = |key: &str| flags.contains_key(key) || (key == "brokers" && brokers);
        for (chosen, replaced) in [
            (&["interface", "read", "source"][..], SOURCES),
            (&["read", "source"], OF_INTERFACES),
            (&["write", "sink"], KAFKA),
            (&["brokers", "fastcapa-config", "sink"], FILES),
            (&["brokers", "fastcapa-config", "write"], OTHER_SINKS),
        ] {
            if chosen.iter().any(|key| names(key)) {
                replaced.iter().for_each(|key| drop(merged.remove(*key)));
            }
        }
        if names("brokers") {
            merged.remove("brokers");
        }
        for (chosen, against) in [("quiet", "stats"), ("stats", "quiet")] {
            if flags.contains_key(chosen) {
                merged.remove(against);
            }
        }
        if let Some(Value::Array(set)) = flags.get_mut("set")
            && let Some(Value::Array(before)) = merged.remove("set")
        {
            set.splice(0..0, before);
        }
        if !self.expression.is_empty() || flags.contains_key("filter") {
            merged.remove("filter-file");
        }
        if !self.expression.is_empty() || flags.contains_key("filter-file") {
            merged.remove("filter");
        }
        merged.extend(flags);
        let read = || {
            let mut args: Self = merged.clone().try_into()?;
            args.kafka = merged.try_into()?;
            Ok(args)
        };
        let mut args = read().map_err(|cause: toml::de::Error| error(cause.to_string()))?;
        args.list_interfaces = self.list_interfaces;
        args.check_config = self.check_config;
        args.print_config = self.print_config;
        args.expression = self.expression;
        args.config = self.config;
        Ok(args)
    }

    /// The configuration in force as TOML, with `redact` applied to each Kafka setting.
    pub fn to_toml(&self, redact: impl Fn(&str) -> String) -> String {
        let mut args = self.clone();
        let set = &mut args.kafka.set;
        *set = set.iter().map(|set| redact(set)).collect();
        if !args.expression.is_empty() {
            args.filter = Some(args.expression.join(" "));
        }
        written(&args).to_string()
    }
}

/// Parses a configuration file; an unknown key or a wrong type is an error with line and column.
pub(super) fn parse(path: &Path, text: &str) -> Result<CaptureArgs, ConfigError> {
    let read = || {
        let _: BTreeMap<Key, IgnoredAny> = toml::from_str(text)?;
        let mut args: CaptureArgs = toml::from_str(text)?;
        args.kafka = toml::from_str(text)?;
        Ok(args)
    };
    read().map_err(|cause| ConfigError::File {
        path: path.display().to_string(),
        what: explain(text, &cause),
    })
}

/// A key that the file may have.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Key(String);

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        if keys().contains(&key) {
            return Ok(Self(key));
        }
        let likeness = |name: &&String| strsim::jaro_winkler(name, &key);
        let nearest = keys()
            .iter()
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
            .expect("there are keys");
        Err(format!(
            "unknown key `{key}`, the nearest is `{nearest}`; a key is the long name of a flag of \
             `ringtap capture`"
        ))
    }
}

/// Every key: the long name of each flag but a few.
fn keys() -> &'static [String] {
    static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let command = CaptureArgs::augment_args(clap::Command::new("capture"));
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        flags
            .filter(|flag| !NOT_KEYS.contains(flag))
            .map(str::to_owned)
            .collect()
    });
    &KEYS
}

/// What is wrong with the file, with the line; a line that may hold a secret is named and not shown.
fn explain(text: &str, cause: &toml::de::Error) -> String {
    let shown = cause.to_string().trim_end().to_owned();
    let Some(span) = cause.span() else {
        return shown;
    };
    let begin = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let rest = &text[span.end..];
    let end = span.end + rest.find('\n').unwrap_or(rest.len());
    if !Settings::may_hide(&text[begin..end]) {
        return shown;
    }
    let line = text[..begin].matches('\n').count() + 1;
    let kind = cause.message().split([':', '`']).next().unwrap_or_default();
    format!(
        "line {line}, which is not shown as it may hold a secret: {}",
        kind.trim_end()
    )
}

/// The keys that were given a value.
fn written(args: &CaptureArgs) -> Table {
    let table = Table::try_from(args).expect("the arguments have a form in TOML");
    let given = |value: &Value| match value {
        Value::Array(list) => !list.is_empty(),
        Value::Boolean(on) => *on,
        Value::Integer(n) => *n != 0,
        _ => true,
    };
    let explicit = |key: &str| matches!(key, "snaplen" | "count");
    table
        .into_iter()
        .filter(|(key, value)| explicit(key) || given(value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kafka::KafkaArgs;
    use crate::config::Config;

    const MANUAL: &str = include_str!("../../deploy/ringtap.toml");

    #[test]
    fn the_manual_documents_every_key_and_holds() {
        let args = parse(Path::new("deploy/ringtap.toml"), MANUAL).unwrap();
        Config::check(&args).unwrap();
        for key in keys() {
            let line = MANUAL.lines().any(|line| {
                line.trim_start_matches("# ")
                    .starts_with(&format!("{key} = "))
            });
            assert!(line, "deploy/ringtap.toml says nothing of {key}");
        }
    }

    #[test]
    fn every_example_in_the_manual_is_of_the_right_type() {
        let examples: String = MANUAL
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| {
                line.split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        parse(Path::new("examples"), &examples).unwrap();
    }

    #[test]
    fn flags_win_over_the_file_and_a_sink_replaces_the_sink() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(
            &path,
            "interface = ['eth0']\nbrokers = 'b:9092'\ntopic = 'x'\nlinger = '9ms'\n",
        )
        .unwrap();
        let flags = CaptureArgs {
            config: Some(path),
            write: Some("out.pcap".into()),
            linger: Some("7ms".parse().unwrap()),
            ..CaptureArgs::default()
        };
        let args = flags.with_file().unwrap();
        assert_eq!(args.interface, ["eth0"]);
        assert_eq!((args.kafka.brokers, args.kafka.topic), (None, None));
        assert_eq!(args.linger.unwrap().to_string(), "7ms");
    }

    fn kafka(brokers: Option<&str>, set: &[&str]) -> KafkaArgs {
        KafkaArgs {
            brokers: brokers.map(str::to_owned),
            topic: None,
            set: set.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    /// The file `text` under `flags`.
    fn merged(text: &str, flags: CaptureArgs) -> CaptureArgs {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let config = Some(path);
        CaptureArgs { config, ..flags }.with_file().unwrap()
    }

    #[test]
    fn keys_of_a_kind_of_source_or_sink_go_with_it() {
        let sensor = "interface = ['eth0']\nframes = 512\ndirection = 'in'\nbrokers = 'b:1'\n\
                      key-time = 'ns'\nrecord-headers = true\n";
        let beside = merged(
            sensor,
            CaptureArgs {
                read: vec!["f".into()],
                write: Some("out.pcap".into()),
                ..CaptureArgs::default()
            },
        );
        Config::check(&beside).unwrap();
        let other = merged(
            sensor,
            CaptureArgs {
                interface: vec!["eth1".into()],
                kafka: kafka(Some("c:1"), &[]),
                ..CaptureArgs::default()
            },
        );
        Config::check(&other).unwrap();
        assert_eq!(other.frames, Some(512));
        assert!(other.key_time.is_some() && other.record_headers);
    }

    #[test]
    fn a_kafka_setting_on_the_command_line_leaves_the_others_of_the_file() {
        let file =
            "interface = ['eth0']\nbrokers = 'b:1'\nset = ['acks=all', 'security.protocol=SSL']\n";
        let set = |set: &[&str]| CaptureArgs {
            kafka: kafka(None, set),
            ..CaptureArgs::default()
        };
        assert_eq!(
            merged(file, set(&["acks=1"])).kafka.set,
            ["acks=all", "security.protocol=SSL", "acks=1"]
        );
        assert_eq!(merged(file, set(&[])).kafka.set.len(), 2);
    }

    #[test]
    fn other_brokers_leave_the_topic_and_its_settings_and_replace_a_file() {
        let flags = || CaptureArgs {
            kafka: kafka(Some("c:1"), &[]),
            ..CaptureArgs::default()
        };
        let args = merged(
            "interface = ['a']\nbrokers = 'b:1'\ntopic = 'x'\nset = ['acks=1']\n",
            flags(),
        );
        assert_eq!(args.kafka.brokers.as_deref(), Some("c:1"));
        assert_eq!(args.kafka.topic(), "x");
        assert_eq!(args.kafka.set, ["acks=1"]);
        let args = merged(
            "interface = ['a']\nwrite = 'f'\nrotate-size = '5'\n",
            flags(),
        );
        Config::check(&args).unwrap();
    }

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_shown() {
        for wrong in [
            "set = 'sasl.password=open-sesame'",
            "set = ['sasl.password=open-sesame', 5]",
            "set = ['acks=all', 'sasl.password=open-sesame'\n",
            "sasl.password = 'open-sesame'",
            "set = ['sasl.jaas.config=x password=\"open-sesame\"'",
        ] {
            let text = format!("interface = ['a']\n{wrong}");
            let said = parse(Path::new("c.toml"), &text).unwrap_err().to_string();
            assert!(!said.contains("open-sesame"), "{said}");
            assert!(said.contains("line 2"), "{said}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse(Path::new("c.toml"), "interface = ['a']\nlingr = '5ms'\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("c.toml") && text.contains("lingr") && text.contains("line 2"),
            "{text}"
        );
    }
}
