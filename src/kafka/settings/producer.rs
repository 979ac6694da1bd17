//! What the librdkafka sink makes of the settings: its defaults, and what it does not leave to the user.
//!
//! The rule: what the user wrote stands, or is refused in words; it is never quietly replaced.

use std::fs;
use std::path::PathBuf;

use rdkafka::ClientConfig;

use super::{Settings, SettingsError, is_true};

/// How many acknowledgements a record needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Every in-sync replica.
    All,
    /// The leader.
    Leader,
    /// None: nothing is ever confirmed.
    None,
}

/// The settings of a producer, complete and without contradictions.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    settings: Settings,
    acks: Acks,
    idempotent: bool,
    asked: bool,
    notices: Vec<String>,
}

/// What is written unless the user wrote something else, with the reason.
const DEFAULTS: [(&str, &str); 10] = [
    ("client.id", "ringtap"),
    ("acks", "all"),
    // A misspelt topic is an error, not a new topic.
    ("allow.auto.create.topics", "false"),
    // Messages are bounded by the batches that the sink takes; bytes bound the rest.
    ("queue.buffering.max.messages", "0"),
    ("queue.buffering.max.kbytes", "1048576"),
    // Records come by the batch; this only has to outlast their hand-over.
    ("linger.ms", "20"),
    // 100,000 records of 60 bytes fill a request; the default of 10,000 does not.
    ("batch.num.messages", "100000"),
    ("message.max.bytes", "1000000"),
    // After a refusal of the topic, librdkafka tries again when it is next told of it.
    ("topic.metadata.refresh.interval.ms", "60000"),
    // A broker that vanished without a word is noticed.
    ("socket.keepalive.enable", "true"),
];

/// The settings whose value is the path of a file or folder to read.
const FILES: [&str; 6] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "sasl.kerberos.keytab",
];

/// The most unanswered requests that idempotence allows (Kafka protocol).
const MAX_IN_FLIGHT: i64 = 5;

impl ProducerSettings {
    pub(super) fn new(written: &Settings) -> Result<Self, SettingsError> {
        written.brokers()?;
        written.check_sasl()?;
        written.check_files()?;
        check_owned(written)?;
        let mut settings = written.clone();
        for (key, value) in DEFAULTS {
            settings.set_default(key, value)?;
        }
        let max = settings
            .get("message.max.bytes")
            .unwrap_or_default()
            .to_owned();
        settings.set_default("batch.size", &max)?;
        if settings.get("reconnect.backoff.ms").is_none() {
            // A returned broker is found soon: the buffers upstream hold a minute, not an hour.
            settings.set_default("reconnect.backoff.max.ms", "2000")?;
        }

        let acks = acks(&settings)?;
        let asked = written.get("enable.idempotence").is_some_and(is_true);
        let mut producer = Self {
            settings,
            acks,
            idempotent: true,
            asked,
            notices: Vec::new(),
        };
        producer.decide_idempotence(written)?;
        Ok(producer)
    }

    /// The settings, defaults among them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// As the `rdkafka` crate takes them.
    pub fn client_config(&self) -> ClientConfig {
        self.settings.client_config()
    }

    /// How many acknowledgements a record needs.
    pub fn acks(&self) -> Acks {
        self.acks
    }

    /// Whether the producer is idempotent.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether the user wrote `enable.idempotence=true`.
    pub fn asked_for_idempotence(&self) -> bool {
        self.asked
    }

    /// What the user is to be told once, at start.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The same without idempotence: for brokers that refuse it.
    pub(crate) fn without_idempotence(mut self) -> Result<Self, SettingsError> {
        self.switch_off()?;
        Ok(self)
    }

    /// The same with record batches of at most `bytes`, unless the user wrote a size.
    pub(crate) fn limit_batches(
        &mut self,
        written: &Settings,
        bytes: u32,
    ) -> Result<(), SettingsError> {
        if written.get("message.max.bytes").is_some() {
            return Ok(());
        }
        let bytes = bytes.clamp(1_000, 1_000_000).to_string();
        self.settings.set("message.max.bytes", &bytes)?;
        if written.get("batch.size").is_none() {
            self.settings.set("batch.size", &bytes)?;
        }
        Ok(())
    }

    fn decide_idempotence(&mut self, written: &Settings) -> Result<(), SettingsError> {
        if written.get("enable.idempotence").is_some() && !self.asked {
            return self.switch_off();
        }
        let Some(against) = self.against_idempotence(written) else {
            return self.settings.set("enable.idempotence", "true");
        };
        if self.asked {
            return Err(SettingsError::Contradiction {
                key: "enable.idempotence".to_owned(),
                value: "true".to_owned(),
                other: against,
                mend: "leave out one of them",
            });
        }
        self.notices.push(format!(
            "enable.idempotence is switched off, because {against} does not go with it: after a fault, \
             records may be stored twice"
        ));
        self.switch_off()
    }

    fn switch_off(&mut self) -> Result<(), SettingsError> {
        self.idempotent = false;
        self.settings.set("enable.idempotence", "false")?;
        // One request at a time: a second one could overtake a first one that is sent again.
        self.settings.set_default("max.in.flight", "1")
    }

    /// The setting, as the user wrote it, that idempotence does not go with.
    fn against_idempotence(&self, written: &Settings) -> Option<String> {
        let number = |key: &str| written.get(key).and_then(|value| value.parse::<i64>().ok());
        if self.acks != Acks::All {
            return Some(format!("acks={}", self.settings.get("acks")?));
        }
        if let Some(flight) = number("max.in.flight").filter(|flight| *flight > MAX_IN_FLIGHT) {
            return Some(format!("max.in.flight={flight}"));
        }
        if number("retries") == Some(0) {
            return Some("retries=0".to_owned());
        }
        let threshold = "queue.buffering.backpressure.threshold";
        number(threshold)
            .filter(|value| *value > 1)
            .map(|value| format!("{threshold}={value}"))
    }
}

impl Settings {
    /// The settings completed for a consumer.
    pub fn consumer(&self) -> Result<ClientConfig, SettingsError> {
        self.brokers()?;
        self.check_sasl()?;
        self.check_files()?;
        let mut settings = self.clone();
        settings.set_default("client.id", "ringtap")?;
        Ok(settings.client_config())
    }

    /// Files that are named must be there: OpenSSL and Kerberos do not say which one is not.
    fn check_files(&self) -> Result<(), SettingsError> {
        for key in FILES {
            let Some(path) = self.get(key).filter(|path| *path != "probe") else {
                continue;
            };
            fs::metadata(path).map_err(|source| SettingsError::File {
                what: key.to_owned(),
                path: PathBuf::from(path),
                source,
            })?;
        }
        Ok(())
    }

    /// OAUTHBEARER has no source of tokens here but librdkafka's own for tests, where OIDC is not built in.
    fn check_sasl(&self) -> Result<(), SettingsError> {
        let Some(mechanism) = self.get("sasl.mechanisms") else {
            return Ok(());
        };
        let has_tokens = self.get("sasl.oauthbearer.method").is_some()
            || self
                .get("enable.sasl.oauthbearer.unsecure.jwt")
                .is_some_and(is_true);
        if !mechanism.eq_ignore_ascii_case("OAUTHBEARER") || has_tokens {
            return Ok(());
        }
        Err(SettingsError::NotBuiltIn {
            key: "sasl.mechanisms".to_owned(),
            value: mechanism.to_owned(),
            why: "tokens from an OIDC endpoint need libcurl; without, there is only \
                  enable.sasl.oauthbearer.unsecure.jwt=true, for tests"
                .to_owned(),
        })
    }
}

fn acks(settings: &Settings) -> Result<Acks, SettingsError> {
    let value = settings.get("acks").unwrap_or("all");
    if value.eq_ignore_ascii_case("all") {
        return Ok(Acks::All);
    }
    match value.parse() {
        Ok(-1) => Ok(Acks::All),
        Ok(0) => Ok(Acks::None),
        Ok(1) => Ok(Acks::Leader),
        _ => Err(SettingsError::Invalid {
            key: "acks".to_owned(),
            value: value.to_owned(),
            rule: "it takes all, 1 or 0".to_owned(),
        }),
    }
}

/// Refuses what the sink decides itself.
fn check_owned(written: &Settings) -> Result<(), SettingsError> {
    type Refused = fn(&str) -> bool;
    let any: Refused = |_| true;
    let owned: [(&str, Refused, &'static str); 6] = [
        (
            "partitioner",
            any,
            "the publisher chooses the partition of every record, the key does not",
        ),
        (
            "delivery.report.only.error",
            is_true,
            "the ledger counts delivered records by their reports",
        ),
        (
            "queuing.strategy",
            |value| value.eq_ignore_ascii_case("lifo"),
            "records go out in the order they came",
        ),
        ("transactional.id", any, "a capture has no transactions"),
        (
            "enabled_events",
            any,
            "the sink asks for the events it needs",
        ),
        ("log.queue", any, "the sink reads librdkafka's log itself"),
    ];
    for (key, refused, why) in owned {
        if written.get(key).is_some_and(refused) {
            return Err(SettingsError::Owned {
                key: key.to_owned(),
                why,
            });
        }
    }
    Ok(())
}
