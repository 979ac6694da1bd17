//! The configuration file: TOML, the keys of the command line.
//!
//! The rule: flags win. A flag that names a source or a sink replaces all that the file says of sources
//! or sinks, so that a file written for a sensor can be tried against another interface or sink. Without
//! such a flag, Kafka settings (`-X`) come on top of the file's, each over that of its key.

use std::path::Path;

use toml::{Table, Value};

use crate::cli::capture::CaptureArgs;

use super::ConfigError;

const SOURCES: &[&str] = &["interface", "read", "source", "speed", "mode", "queues"];
const SINKS: &[&str] = &[
    "brokers",
    "topic",
    "set",
    "fastcapa-config",
    "write",
    "format",
    "rotate-size",
    "rotate-seconds",
    "rotate-files",
    "sink",
];
/// What is said of any interface, or of any topic: it stays while there is one.
const OF_INTERFACES: &[&str] = &["direction", "frames", "pcap-buffer"];
const OF_KAFKA: &[&str] = &["key-time", "record-time", "record-headers"];

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
            .map_err(|cause: toml::de::Error| error(cause.to_string()))?;
        let mut flags = written(&self);
        for (chosen, replaced) in [
            (&["interface", "read", "source"][..], SOURCES),
            (&["read", "source"], OF_INTERFACES),
            (&["brokers", "write", "sink"], SINKS),
            (&["write", "sink"], OF_KAFKA),
        ] {
            if chosen.iter().any(|key| flags.contains_key(*key)) {
                replaced.iter().for_each(|key| drop(merged.remove(*key)));
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
        let mut args: Self = Value::Table(merged)
            .try_into()
            .map_err(|cause: toml::de::Error| error(cause.to_string()))?;
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
        args.set = args.set.iter().map(|set| redact(set)).collect();
        if !args.expression.is_empty() {
            args.filter = Some(args.expression.join(" "));
        }
        written(&args).to_string()
    }
}

/// Parses a configuration file; an unknown key or a wrong type is an error with line and column.
pub(super) fn parse(path: &Path, text: &str) -> Result<CaptureArgs, ConfigError> {
    toml::from_str(text).map_err(|cause| ConfigError::File {
        path: path.display().to_string(),
        what: cause.to_string().trim_end().to_owned(),
    })
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
    use clap::CommandFactory;

    use super::*;
    use crate::config::Config;

    const MANUAL: &str = include_str!("../../deploy/ringtap.toml");

    fn keys_of_the_command_line() -> Vec<String> {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            capture: CaptureArgs,
        }
        let not_keys = [
            "config",
            "check-config",
            "print-config",
            "list-interfaces",
            "help",
        ];
        let command = Line::command();
        let flags = command
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(str::to_owned));
        flags
            .filter(|flag| !not_keys.contains(&flag.as_str()))
            .collect()
    }

    #[test]
    fn the_manual_documents_every_key_and_holds() {
        let args = parse(Path::new("deploy/ringtap.toml"), MANUAL).unwrap();
        Config::check(&args).unwrap();
        for key in keys_of_the_command_line() {
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
        assert_eq!((args.brokers, args.topic), (None, None));
        assert_eq!(args.linger.unwrap().to_string(), "7ms");
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
                brokers: Some("c:1".into()),
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
            set: set.iter().map(|text| (*text).to_owned()).collect(),
            ..CaptureArgs::default()
        };
        assert_eq!(
            merged(file, set(&["acks=1"])).set,
            ["acks=all", "security.protocol=SSL", "acks=1"]
        );
        assert_eq!(merged(file, set(&[])).set.len(), 2);
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
