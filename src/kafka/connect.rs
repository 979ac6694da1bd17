//! What stands in the way of a first connection to a cluster, for producers and consumers of every kind.
//!
//! The rule: an error names each broker with what is known of it, and what to look at first.

use std::fmt;
use std::io;
use std::time::Duration;

use super::address::BrokerAddress;
use super::settings::SettingsError;
use super::topic::TopicNameError;

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("no Kafka client comes of these settings: {said}")]
pub struct ClientError {
    /// What the client says of it.
    pub said: String,
}

impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        Self::other(error)
    }
}

/// What went wrong with one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its address as far as it is known.
    pub broker: String,
    /// What the client says of it.
    pub said: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.broker, self.said)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The settings are refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No client comes of them.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The topic's name is none.
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
    /// No broker answered.
    #[error(
        "no broker answers within {}: {}; check the addresses and security.protocol",
        seconds(*.limit),
        list(.troubles)
    )]
    Unreachable {
        /// How long they were asked.
        limit: Duration,
        /// Every broker, with what is known of it.
        troubles: Vec<Trouble>,
    },
    /// A signal came first.
    #[error("interrupted while waiting for the first answer of {}", list(.troubles))]
    Interrupted {
        /// Every broker, with what is known of it.
        troubles: Vec<Trouble>,
    },
    /// The brokers do not take our name and password, ticket or token.
    #[error(
        "the brokers refuse our authentication: {}; check sasl.mechanism, sasl.username and \
         sasl.password",
        list(.troubles)
    )]
    Authentication {
        /// The brokers, with what they say.
        troubles: Vec<Trouble>,
    },
    /// No encrypted connection comes about.
    #[error(
        "no TLS connection to the brokers: {}; check security.protocol and ssl.ca.location",
        list(.troubles)
    )]
    Tls {
        /// The brokers, with what the TLS library says.
        troubles: Vec<Trouble>,
    },
    /// The topic does not exist.
    #[error(
        "topic {topic:?} does not exist; create it with: kafka-topics.sh --bootstrap-server {broker} \
         --create --topic {topic} --partitions N --replication-factor N"
    )]
    TopicMissing {
        /// The topic.
        topic: String,
        /// A broker to ask.
        broker: String,
    },
    /// We may not see the topic.
    #[error(
        "topic {topic:?}: we are not authorised for it; grant Describe on it, with Write to capture or \
         Read to consume"
    )]
    TopicNotAuthorized {
        /// The topic.
        topic: String,
    },
    /// The broker answers with another error.
    #[error("topic {topic:?}: the broker says {said}")]
    Topic {
        /// The topic.
        topic: String,
        /// What it says.
        said: String,
    },
}

impl ConnectError {
    /// The error of an asking that is given up: refusals are told before what may be their consequence. `known`
    /// is of every broker.
    pub(crate) fn given_up(
        refused: Vec<Trouble>,
        untrusted: Vec<Trouble>,
        known: Vec<Trouble>,
        limit: Duration,
    ) -> Self {
        if !refused.is_empty() {
            return Self::Authentication { troubles: refused };
        }
        if !untrusted.is_empty() {
            return Self::Tls {
                troubles: untrusted,
            };
        }
        Self::Unreachable {
            limit,
            troubles: known,
        }
    }
}

/// `troubles`, and each of the brokers `written` that said nothing.
pub(crate) fn with_silent(mut troubles: Vec<Trouble>, written: &[BrokerAddress]) -> Vec<Trouble> {
    for broker in written.iter().map(ToString::to_string) {
        if !troubles.iter().any(|trouble| trouble.broker == broker) {
            troubles.push(Trouble {
                broker,
                said: "no answer".to_owned(),
            });
        }
    }
    troubles
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}

fn list(troubles: &[Trouble]) -> String {
    let texts: Vec<_> = troubles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
