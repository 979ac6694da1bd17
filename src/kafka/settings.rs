//! The settings of a Kafka client, under librdkafka's names: `-X key=value`, fastcapa's file, the
//! environment.
//!
//! The rule: a setting is checked where it is written, and an error names the key, what was written,
//! what it breaks and how to mend it. What is secret is never shown, in errors neither.

mod compression;
mod known;
mod native;
mod producer;
mod secret;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::kafka::address::{self, AddressError, BrokerAddress};

use known::{Kind, Known};
pub(crate) use native::NativeSettings;
pub use native::NotNative;
pub use producer::{Acks, ProducerSettings};
pub use secret::Redacted;

/// The environment names of settings begin with this: `RINGTAP_KAFKA_SASL_PASSWORD`.
pub const ENVIRONMENT: &str = "RINGTAP_KAFKA_";

const BROKERS: &str = "metadata.broker.list";

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No `=`.
    #[error("-X {text}: a setting is written key=value")]
    NotKeyValue {
        /// What was written, without what may be secret.
        text: String,
    },
    /// librdkafka has no such setting.
    #[error("{origin}: {key} is not a setting of librdkafka{}", hint(*.nearest))]
    Unknown {
        /// Where it was written.
        origin: String,
        /// The key.
        key: String,
        /// A known key that looks like it.
        nearest: Option<&'static str>,
    },
    /// The value is not one that the key takes.
    #[error("{key}={value}: {rule}")]
    Invalid {
        /// The key as written.
        key: String,
        /// The value, without what is secret.
        value: String,
        /// What librdkafka or ringtap says of it.
        rule: String,
    },
    /// The setting needs a feature that this binary was built without.
    #[error("{key}={value}: this ringtap was built without what it needs ({why})")]
    NotBuiltIn {
        /// The key as written.
        key: String,
        /// The value, without what is secret.
        value: String,
        /// What is missing.
        why: String,
    },
    /// The setting is not the user's to make.
    #[error("{key}: {why}; leave it out")]
    Owned {
        /// The key as written.
        key: String,
        /// Who decides it, and why.
        why: &'static str,
    },
    /// Two settings contradict each other.
    #[error("{key}={value} does not go with {other}: {mend}")]
    Contradiction {
        /// One key.
        key: String,
        /// Its value.
        value: String,
        /// The other setting, `key=value`.
        other: String,
        /// How to make it right.
        mend: &'static str,
    },
    /// A setting needs another one.
    #[error("{key} is missing: {needs} needs it")]
    Missing {
        /// The key that is not written.
        key: &'static str,
        /// The setting that needs it, `key=value`.
        needs: String,
    },
    /// A broker address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No broker is named.
    #[error("no broker is named: write -k host:port or -X bootstrap.servers=host:port")]
    NoBroker,
    /// A file that a secret is to be read from, or fastcapa's, cannot be read.
    #[error("{what} is to be read from {path:?}")]
    File {
        /// The key, or the kind of file.
        what: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// fastcapa's file is not of its form.
    #[error("fastcapa configuration {path:?}: {rule}")]
    Fastcapa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        rule: String,
    },
    /// An environment variable is not text.
    #[error("environment variable {name}: its value is not UTF-8")]
    NotText {
        /// The name.
        name: String,
    },
}

fn hint(nearest: Option<&'static str>) -> String {
    nearest.map_or_else(
        || "; its CONFIGURATION.md lists them".to_owned(),
        |name| format!("; the nearest is {name}"),
    )
}

/// One setting as it was made.
#[derive(Clone)]
struct Setting {
    /// As written: an alias stays an alias.
    key: String,
    /// What an alias stands for.
    canonical: String,
    topic: bool,
    value: String,
}

/// The settings of a Kafka client, in the order they were made; a later one replaces an earlier.
///
/// Every key and value in it has been taken by librdkafka. `Debug` and [`redacted`](Self::redacted) show
/// no secret.
#[derive(Clone, Default)]
pub struct Settings {
    list: Vec<Setting>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({})", self.redacted())
    }
}

impl Settings {
    /// No settings: librdkafka's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The settings of one command: the environment, then `fastcapa`'s file, then each of `set` (`-X`), then
    /// `brokers` (`-k`); a later one replaces an earlier.
    pub fn gather(
        brokers: Option<&str>,
        fastcapa: Option<&Path>,
        set: &[String],
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::new();
        settings.environment(std::env::vars_os())?;
        if let Some(path) = fastcapa {
            settings.fastcapa(path)?;
        }
        for text in set {
            settings.parse(text)?;
        }
        if let Some(brokers) = brokers {
            settings.set("bootstrap.servers", brokers)?;
        }
        settings.brokers()?;
        Ok(settings)
    }

    /// Takes `key=value` as after `-X`: cut at the first `=`.
    ///
    /// The value of a secret key may be `@/path`: it is then read from that file, less a newline at the
    /// end. A secret that begins with `@` comes from a file or the environment.
    pub fn parse(&mut self, text: &str) -> Result<(), SettingsError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(SettingsError::NotKeyValue {
                text: secret::hide_text(text),
            });
        };
        let (key, value) = (key.trim(), value.trim());
        let value = from_file(key, value)?;
        self.insert("-X", false, key, &value)
    }

    /// Makes one setting; the value is taken as it is.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingsError> {
        self.insert("setting", false, key, value)
    }

    /// Makes one setting unless it has been made already, under any of its names.
    pub fn set_default(&mut self, key: &str, value: &str) -> Result<(), SettingsError> {
        if self.get(key).is_some() {
            return Ok(());
        }
        self.set(key, value)
    }

    /// Takes every setting of fastcapa's configuration file: an INI file with the groups
    /// `[kafka-global]` and `[kafka-topic]`.
    pub fn fastcapa(&mut self, path: &Path) -> Result<(), SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::File {
            what: "the fastcapa configuration".to_owned(),
            path: path.to_owned(),
            source,
        })?;
        let refuse = |rule: String| SettingsError::Fastcapa {
            path: path.to_owned(),
            rule,
        };
        // GLib, which fastcapa reads it with, knows neither quotes nor, in these values, escapes.
        let raw = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            ..ParseOption::default()
        };
        let ini = Ini::load_from_str_opt(&text, raw).map_err(|error| {
            refuse(format!(
                "line {} is neither [group] nor key = value",
                error.line
            ))
        })?;
        for (group, settings) in ini.iter() {
            let topic = match group {
                Some("kafka-global") => false,
                Some("kafka-topic") => true,
                None if settings.is_empty() => continue,
                None => return Err(refuse("a setting stands before the first group".to_owned())),
                Some(other) => {
                    return Err(refuse(format!(
                        "group [{other}] is not known; the groups are [kafka-global] and [kafka-topic]"
                    )));
                }
            };
            let group = if topic {
                "[kafka-topic]"
            } else {
                "[kafka-global]"
            };
            let origin = format!("{} {group}", path.display());
            for (key, value) in settings.iter() {
                let key = key.trim();
                if topic && is_of_client(key) {
                    return Err(refuse(format!("{key} belongs in the group [kafka-global]")));
                }
                let value = from_file(key, value.trim())?;
                self.insert(&origin, topic, key, &value)?;
            }
        }
        Ok(())
    }

    /// Takes every variable named [`ENVIRONMENT`] and a key, upper case, with `_` for each dot.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), SettingsError> {
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let Some(rest) = name.strip_prefix(ENVIRONMENT) else {
                continue;
            };
            let row = known::known().iter().find(|row| shout(&row.name) == rest);
            let key = row.map_or_else(
                || rest.to_lowercase().replace('_', "."),
                |row| row.name.clone(),
            );
            let value = value.to_str().ok_or_else(|| SettingsError::NotText {
                name: name.to_owned(),
            })?;
            self.insert(name, row.is_some_and(|row| row.topic), &key, value)?;
        }
        Ok(())
    }

    /// The value of `key`, made under this name or another for the same.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (canonical, topic) = self.place(key);
        self.list
            .iter()
            .find(|made| made.canonical == canonical && made.topic == topic)
            .map(|made| made.value.as_str())
    }

    /// Whether `key` is true, as librdkafka reads it; `default` where it is not made.
    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, is_true)
    }

    /// One setting as it was written, `key=value`, without what is secret.
    pub fn redact(text: &str) -> String {
        match text.split_once('=') {
            Some((key, value)) => format!("{key}={}", secret::shown(key, value)),
            None => secret::hide_text(text),
        }
    }

    /// Whether a text in which settings are written may hold a secret.
    pub(crate) fn may_hide(text: &str) -> bool {
        secret::is_secret(text)
    }

    /// Whether no setting was made.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Every setting made, in order: the key as written, and the value. Secrets are among them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list
            .iter()
            .map(|made| (made.key.as_str(), made.value.as_str()))
    }

    /// The brokers that are named.
    pub fn brokers(&self) -> Result<Vec<BrokerAddress>, SettingsError> {
        let list = self.get(BROKERS).ok_or(SettingsError::NoBroker)?;
        Ok(address::brokers(list)?)
    }

    /// The settings for logs and reports, without what is secret.
    pub fn redacted(&self) -> Redacted<'_> {
        Redacted(self)
    }

    /// The settings as the `rdkafka` crate takes them.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for made in &self.list {
            config.set(made.native(), &made.value);
        }
        config
    }

    /// The settings completed for the librdkafka sink; see [`ProducerSettings`].
    pub fn producer(&self) -> Result<ProducerSettings, SettingsError> {
        ProducerSettings::new(self)
    }

    /// Checks one setting and makes it; `of_topic` where it must be one of a topic.
    fn insert(
        &mut self,
        origin: &str,
        of_topic: bool,
        key: &str,
        value: &str,
    ) -> Result<(), SettingsError> {
        let row = known::find(key, of_topic.then_some(true));
        let made = match row {
            Some(row) => {
                check_kind(row, key, value)?;
                Setting {
                    key: key.to_owned(),
                    canonical: row.canonical.clone(),
                    topic: row.topic,
                    value: value.to_owned(),
                }
            }
            None => self.unlisted(key, value),
        };
        if made.canonical == BROKERS {
            address::brokers(value)?;
        }
        try_on(&made, origin)?;
        self.list
            .retain(|old| old.canonical != made.canonical || old.topic != made.topic);
        self.list.push(made);
        Ok(())
    }

    /// A setting that is not in librdkafka's table: hidden, `topic.` and a name, or wrong.
    fn unlisted(&self, key: &str, value: &str) -> Setting {
        let (canonical, topic) = self.place(key);
        Setting {
            key: key.to_owned(),
            canonical,
            topic,
            value: value.to_owned(),
        }
    }

    /// `key` as it was written: an alias stays an alias.
    fn written(&self, key: &str) -> String {
        let (canonical, topic) = self.place(key);
        let made = |made: &&Setting| made.canonical == canonical && made.topic == topic;
        let found = self.list.iter().find(made);
        found.map_or_else(|| key.to_owned(), |made| made.key.clone())
    }

    fn place(&self, key: &str) -> (String, bool) {
        if let Some(row) = known::find(key, None) {
            return (row.canonical.clone(), row.topic);
        }
        let of_topic = key.strip_prefix("topic.").unwrap_or(key);
        known::find(of_topic, Some(true)).map_or_else(
            || (key.to_owned(), false),
            |row| (row.canonical.clone(), true),
        )
    }
}

impl Setting {
    /// The key under which librdkafka files it in the right place: `topic.` makes it the topic's where
    /// the client has one of the same name.
    fn native(&self) -> String {
        if self.topic {
            return format!("topic.{}", self.canonical);
        }
        self.canonical.clone()
    }
}

/// The name of a setting in the environment, without the prefix.
fn shout(name: &str) -> String {
    name.to_uppercase().replace(['.', '-'], "_")
}

fn from_file(key: &str, value: &str) -> Result<String, SettingsError> {
    let Some(path) = value.strip_prefix('@') else {
        return Ok(value.to_owned());
    };
    if !secret::may_be_file(key) {
        return Ok(value.to_owned());
    }
    let text = fs::read_to_string(path).map_err(|source| SettingsError::File {
        what: key.to_owned(),
        path: PathBuf::from(path),
        source,
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Refuses what librdkafka would read otherwise than it is written: it takes `5s` for 5 and `010` for 8.
fn check_kind(row: &Known, key: &str, value: &str) -> Result<(), SettingsError> {
    match row.kind {
        Kind::Callback => Err(SettingsError::Owned {
            key: key.to_owned(),
            why: "it is a function of the program, not a value",
        }),
        Kind::Integer { range: (min, max) } => {
            let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
            if !digits.starts_with(|c: char| c.is_ascii_digit()) {
                return Ok(());
            }
            let octal = digits.len() > 1 && digits.starts_with('0');
            match value.parse::<i64>() {
                Ok(number) if !octal && (min..=max).contains(&number) => Ok(()),
                _ => Err(SettingsError::Invalid {
                    key: key.to_owned(),
                    value: secret::shown(&row.canonical, value),
                    rule: format!("it takes a whole number from {min} to {max}"),
                }),
            }
        }
        Kind::Other => Ok(()),
    }
}

/// Lets librdkafka judge one setting.
fn try_on(made: &Setting, origin: &str) -> Result<(), SettingsError> {
    let mut config = ClientConfig::new();
    config.set(made.native(), &made.value);
    let key = made.key.clone();
    let value = secret::shown(&made.canonical, &made.value);
    let rule = match config.create_native_config() {
        Ok(_) => return Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            return Err(SettingsError::Unknown {
                origin: origin.to_owned(),
                nearest: known::nearest(&key),
                key,
            });
        }
        Err(KafkaError::ClientConfig(_, rule, ..)) => rule,
        Err(other) => other.to_string(),
    };
    let rule = secret::without(
        &made.canonical,
        &made.value,
        rule.trim().trim_end_matches('.'),
    );
    Err(match missing(&rule) {
        Some(why) => SettingsError::NotBuiltIn { key, value, why },
        None => SettingsError::Invalid { key, value, rule },
    })
}

/// What librdkafka says is missing in this build, where that is why it refuses a setting.
fn missing(rule: &str) -> Option<String> {
    let marks = ["not supported in this build: ", "Unsupported value "];
    marks
        .iter()
        .find_map(|mark| rule.split_once(mark))
        .map(|(_, why)| why.to_owned())
}

/// Whether librdkafka reads a value as true.
fn is_true(value: &str) -> bool {
    ["true", "t", "1"].contains(&value.to_lowercase().as_str())
}

/// Whether `key` is a setting of the client and of no topic.
fn is_of_client(key: &str) -> bool {
    known::find(key, Some(true)).is_none() && known::find(key, Some(false)).is_some()
}
