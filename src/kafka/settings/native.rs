//! What the native producer makes of the settings, and which of them it knows.
//!
//! The rule: a setting that it does not know is never passed over. `--producer auto` then takes librdkafka,
//! and says which setting it was.

use std::time::Duration;

use super::{Acks, ProducerSettings, Settings, SettingsError};
use crate::kafka::client::{Reconnect, Terms};
use crate::kafka::connection::Profile;
use crate::kafka::partition::{MAX_IN_FLIGHT, Patience};
use crate::kafka::security::{self, Security};

/// What the native producer knows, by librdkafka's own names, beyond the way to a broker.
const KNOWN: [&str; 23] = [
    "metadata.broker.list",
    "client.id",
    "request.required.acks",
    "enable.idempotence",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "batch.size",
    "queue.buffering.max.ms",
    // What these two bound is bounded by --buffer.
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "message.timeout.ms",
    "request.timeout.ms",
    "socket.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "message.send.max.retries",
    "retry.backoff.ms",
    "retry.backoff.max.ms",
    "reconnect.backoff.ms",
    "reconnect.backoff.max.ms",
    "topic.metadata.refresh.interval.ms",
    "allow.auto.create.topics",
    "compression.codec",
    "compression.level",
];

/// A setting that only librdkafka knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the native producer does not know {key}={value}")]
pub struct NotNative {
    /// The key as written.
    pub key: String,
    /// The value, without what is secret.
    pub value: String,
}

/// The settings of the native producer, complete.
#[derive(Clone, Debug)]
pub(crate) struct NativeSettings {
    pub(crate) terms: Terms,
    pub(crate) patience: Patience,
    pub(crate) acks: Acks,
    pub(crate) is_idempotent: bool,
    /// Whether idempotence was asked for, and is not only the default.
    pub(crate) asked_for_idempotence: bool,
    /// How long a broker may wait for its replicas, in milliseconds.
    pub(crate) replicas_ms: i32,
}

impl Settings {
    /// The first setting that the native producer does not know, if there is one.
    pub fn not_native(&self) -> Option<NotNative> {
        let is_known =
            |key: &str, value: &str| KNOWN.contains(&key) || security::understands(key, value);
        let has_level = self.compression().is_ok();
        let mut made = self.list.iter();
        let unknown = made.find(|made| {
            let is_level = made.canonical == "compression.level";
            !is_known(&made.canonical, &made.value) || is_level && !has_level
        });
        let unknown = unknown.map(|unknown| NotNative {
            key: unknown.key.clone(),
            value: super::secret::shown(&unknown.canonical, &unknown.value),
        });
        let kerberos = security::assumes_kerberos(self).then(|| NotNative {
            key: "sasl.mechanisms".to_owned(),
            value: "GSSAPI".to_owned(),
        });
        unknown.or(kerberos)
    }
}

impl NativeSettings {
    /// Takes over what was decided for a producer of any kind, for `topic`.
    ///
    /// Reads the files of TLS.
    pub(crate) fn new(producer: &ProducerSettings, topic: &str) -> Result<Self, SettingsError> {
        let settings = producer.settings();
        let millis = |key, default| Duration::from_millis(number(settings, key, default));
        let delivery = match number(settings, "message.timeout.ms", 300_000) {
            // Zero is for ever, as in librdkafka.
            0 => Duration::from_secs(u64::from(u32::MAX)),
            limit => Duration::from_millis(limit),
        };
        let in_flight = number(settings, "max.in.flight", 5);
        let in_flight = usize::try_from(in_flight).unwrap_or(MAX_IN_FLIGHT);
        let refresh = match settings.get("topic.metadata.refresh.interval.ms") {
            Some("-1") => Duration::from_secs(u64::from(u32::MAX)),
            _ => millis("topic.metadata.refresh.interval.ms", 60_000),
        };
        Ok(Self {
            terms: Terms {
                profile: Profile {
                    client_id: settings.get("client.id").unwrap_or("ringtap").to_owned(),
                    security: Security::new(settings)?,
                    setup_timeout: millis("socket.connection.setup.timeout.ms", 30_000),
                    answer_timeout: millis("socket.timeout.ms", 60_000).min(delivery),
                },
                reconnect: Reconnect {
                    first: millis("reconnect.backoff.ms", 100),
                    longest: millis("reconnect.backoff.max.ms", 10_000),
                },
                refresh,
                bootstrap: settings.brokers()?,
                topic: topic.to_owned(),
                creates: settings.get("allow.auto.create.topics") == Some("true"),
            },
            patience: Patience {
                delivery,
                retries: u32::try_from(number(settings, "retries", u64::from(u32::MAX)))
                    .unwrap_or(u32::MAX),
                backoff: millis("retry.backoff.ms", 100),
                backoff_max: millis("retry.backoff.max.ms", 1_000),
                in_flight: in_flight.clamp(1, MAX_IN_FLIGHT),
            },
            acks: producer.acks(),
            is_idempotent: producer.is_idempotent(),
            asked_for_idempotence: producer.asked_for_idempotence(),
            replicas_ms: i32::try_from(number(settings, "request.timeout.ms", 30_000))
                .unwrap_or(i32::MAX),
        })
    }
}

/// A setting that is a number; [`Settings`] has checked that it is one.
fn number(settings: &Settings, key: &str, default: u64) -> u64 {
    let written = settings.get(key).and_then(|value| value.parse().ok());
    written.unwrap_or(default)
}
