//! The first words with a cluster: is it there, does it know us, has it the topic.
//!
//! The rule: a capture starts only on an answer. What stands in the way is named within a bounded time,
//! with the broker and with what librdkafka says of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::kafka::BrokerAddress;
use crate::kafka::settings::{ProducerSettings, Settings, SettingsError};
use crate::record::Encoding;
use crate::signals;

use super::LibrdkafkaSink;
use super::client::ClientError;
use super::log::Log;

/// A topic that was just made may be unknown to some brokers for a moment.
const PROPAGATION: Duration = Duration::from_secs(1);

/// The longest that one question waits: within this a signal ends the asking.
const LONGEST_QUESTION: Duration = Duration::from_secs(2);

/// The most that the broker is asked for its limit: it may take its time, or forbid the question.
const LIMIT_ANSWER: Duration = Duration::from_secs(3);

/// What went wrong with one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its address as far as it is known.
    pub broker: String,
    /// What librdkafka says.
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
    /// librdkafka refuses them as a whole.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The topic's name is none.
    #[error(
        "topic {topic:?}: a topic's name has 1 to 249 letters, digits, dots, dashes and underscores"
    )]
    TopicName {
        /// The name.
        topic: String,
    },
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
        /// The brokers, with what OpenSSL says.
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

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs_f64())
}

fn list(troubles: &[Trouble]) -> String {
    let texts: Vec<_> = troubles.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// A cluster that has answered, and what a sink needs to know of it.
#[derive(Clone, Debug)]
pub struct Cluster {
    producer: ProducerSettings,
    topic: String,
    partitions: i32,
    brokers: Vec<BrokerAddress>,
    max_batch: Option<u32>,
    log: Log,
}

impl Cluster {
    /// Asks the brokers of `settings` for `topic`, for at most `limit`.
    ///
    /// Waits. The topic is never created unless the settings say `allow.auto.create.topics=true`.
    pub fn connect(
        settings: &Settings,
        topic: &str,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        check_topic(topic)?;
        let mut producer = settings.producer()?;
        let log = Log::default();
        let said = Said {
            log: log.clone(),
            ..Said::default()
        };
        let mut config = producer.client_config();
        // Only asks; a producer id is for those who write.
        config.set("enable.idempotence", "false");
        let client = BaseProducer::from_config_and_context(&config, said.clone())
            .map_err(|error| refused(&error))?;
        let written = settings.brokers()?;
        let creates = producer.settings().get("allow.auto.create.topics") == Some("true");
        let metadata = first_answer(&client, &said, topic, &written, limit, creates)?;
        let partitions = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .map_or(0, |found| found.partitions().len());
        let brokers = metadata
            .brokers()
            .iter()
            .map(|broker| BrokerAddress {
                host: broker.host().to_owned(),
                port: u16::try_from(broker.port()).unwrap_or_default(),
            })
            .collect();
        drop(client);
        let max_batch = max_batch(&config, topic);
        if let Some(bytes) = max_batch {
            producer.limit_batches(settings, bytes)?;
        }
        Ok(Self {
            producer,
            topic: topic.to_owned(),
            partitions: i32::try_from(partitions).expect("a topic has fewer than 2^31 partitions"),
            brokers,
            max_batch,
            log,
        })
    }

    /// The number of partitions of the topic; at least 1.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// The brokers of the cluster, as they advertise themselves.
    pub fn brokers(&self) -> &[BrokerAddress] {
        &self.brokers
    }

    /// The largest record batch that the topic takes in bytes, where the broker tells us.
    pub fn max_batch(&self) -> Option<u32> {
        self.max_batch
    }

    /// The settings in use, defaults among them, and what the user is to be told of them.
    pub fn settings(&self) -> &ProducerSettings {
        &self.producer
    }

    /// A sink for some of the partitions, which no other sink may have.
    ///
    /// `encoding` is that of the batches it will get.
    pub fn sink(
        &self,
        partitions: Vec<i32>,
        encoding: &Encoding,
    ) -> Result<LibrdkafkaSink, ConnectError> {
        LibrdkafkaSink::new(
            self.producer.clone(),
            &self.topic,
            partitions,
            encoding,
            self.log.clone(),
        )
    }

    /// The partitions of publisher `index` of `publishers`: every one is in exactly one list.
    pub fn share(&self, index: usize, publishers: usize) -> Vec<i32> {
        (0..self.partitions)
            .skip(index)
            .step_by(publishers.max(1))
            .collect()
    }
}

/// What a client that asks has heard.
#[derive(Clone, Default)]
pub(crate) struct Said {
    log: Log,
    troubles: Arc<Mutex<BTreeMap<String, (RDKafkaErrorCode, String)>>>,
}

impl ClientContext for Said {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.log.write(level as i32, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error
            .rdkafka_error_code()
            .unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::AllBrokersDown {
            return;
        }
        let (broker, text) = split(reason);
        let code = match code {
            // A peer that hangs up in the handshake is filed under transport.
            RDKafkaErrorCode::BrokerTransportFailure
                if text.starts_with("SSL") || text.contains("in state SSL_HANDSHAKE") =>
            {
                RDKafkaErrorCode::SSL
            }
            code => code,
        };
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.insert(broker, (code, text));
    }
}

impl ProducerContext for Said {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl Said {
    /// What is known of the brokers: of one kind of trouble, or of all.
    fn troubles(&self, kind: Option<RDKafkaErrorCode>) -> Vec<Trouble> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles
            .iter()
            .filter(|(_, (code, _))| kind.is_none_or(|kind| kind == *code))
            .map(|(broker, (_, said))| Trouble {
                broker: broker.clone(),
                said: said.clone(),
            })
            .collect()
    }
}

/// Takes `[sasl_]ssl://HOST:PORT/ID: TEXT` apart.
fn split(reason: &str) -> (String, String) {
    let rest = reason.split_once("://").map_or(reason, |(_, rest)| rest);
    let Some((name, text)) = rest.split_once(": ") else {
        return ("a broker".to_owned(), reason.to_owned());
    };
    let broker = name.split('/').next().unwrap_or(name);
    (broker.to_owned(), text.trim().to_owned())
}

/// Why librdkafka refuses to make a client.
pub(crate) fn refused(error: &KafkaError) -> ClientError {
    let said = match error {
        KafkaError::ClientCreation(said) => said.clone(),
        other => other.to_string(),
    };
    ClientError { said }
}

fn check_topic(topic: &str) -> Result<(), ConnectError> {
    let is_name = (1..=249).contains(&topic.len())
        && topic != "."
        && topic != ".."
        && topic
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_name {
        return Ok(());
    }
    Err(ConnectError::TopicName {
        topic: topic.to_owned(),
    })
}

/// A client that can ask for metadata.
pub(crate) trait Asks {
    /// Asks for `topic`; waits for at most `limit`.
    fn ask(&self, topic: &str, limit: Duration) -> KafkaResult<Metadata>;
    /// Has the context told of one event, if there is one within `limit`.
    fn serve(&self, limit: Duration);
}

impl Asks for BaseProducer<Said> {
    fn ask(&self, topic: &str, limit: Duration) -> KafkaResult<Metadata> {
        self.client().fetch_metadata(Some(topic), limit)
    }

    fn serve(&self, limit: Duration) {
        self.poll(limit);
    }
}

/// Asks the brokers for `topic`, for at most `limit`; `said` is what the client's context hears.
///
/// Where asking `creates` the topic, a missing one is waited for.
pub(crate) fn first_answer(
    client: &impl Asks,
    said: &Said,
    topic: &str,
    written: &[BrokerAddress],
    limit: Duration,
    creates: bool,
) -> Result<Metadata, ConnectError> {
    check_topic(topic)?;
    let end = Instant::now() + limit;
    let mut missing_until = if creates { Some(end) } else { None };
    // Long enough for a slow answer, short enough to see a refusal soon.
    let mut patience = Duration::from_millis(500);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let answer = client.ask(topic, left.min(patience));
        patience = (patience * 2).min(LONGEST_QUESTION);
        for _ in 0..=written.len() {
            client.serve(Duration::from_millis(1));
        }
        let is_over = Instant::now() >= end;
        match answer {
            Ok(metadata) => match verdict(&metadata, topic, written) {
                Ok(()) => return Ok(metadata),
                Err(error) => {
                    let now = Instant::now();
                    let until = *missing_until.get_or_insert((now + PROPAGATION).min(end));
                    let is_missing = matches!(error, ConnectError::TopicMissing { .. });
                    if !is_missing || now >= until {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            },
            Err(_) if signals::stop_came() => {
                let troubles = known(said, written);
                return Err(ConnectError::Interrupted { troubles });
            }
            Err(_) => give_up(said, written, is_over, limit)?,
        }
    }
}

/// What an answer says of the topic.
fn verdict(
    metadata: &Metadata,
    topic: &str,
    written: &[BrokerAddress],
) -> Result<(), ConnectError> {
    let topic = topic.to_owned();
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let missing = |topic| ConnectError::TopicMissing {
        topic,
        broker: written.first().map(ToString::to_string).unwrap_or_default(),
    };
    match found.map(|found| (found.error(), found.partitions().len())) {
        None | Some((None, 0)) => Err(missing(topic)),
        Some((None, _)) => Ok(()),
        Some((
            Some(
                Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                | Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            ),
            _,
        )) => Err(missing(topic)),
        Some((Some(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), _)) => {
            Err(ConnectError::TopicNotAuthorized { topic })
        }
        Some((Some(other), _)) => Err(ConnectError::Topic {
            topic,
            said: RDKafkaErrorCode::from(other).to_string(),
        }),
    }
}

/// Ends the asking where it is over, or where every broker has refused us for good.
fn give_up(
    said: &Said,
    written: &[BrokerAddress],
    is_over: bool,
    limit: Duration,
) -> Result<(), ConnectError> {
    let refused = said.troubles(Some(RDKafkaErrorCode::Authentication));
    let untrusted = said.troubles(Some(RDKafkaErrorCode::SSL));
    if !is_over && refused.len() + untrusted.len() < written.len() {
        return Ok(());
    }
    if !refused.is_empty() {
        return Err(ConnectError::Authentication { troubles: refused });
    }
    if !untrusted.is_empty() {
        return Err(ConnectError::Tls {
            troubles: untrusted,
        });
    }
    let troubles = known(said, written);
    Err(ConnectError::Unreachable { limit, troubles })
}

/// Every broker, with what it said or that it said nothing.
fn known(said: &Said, written: &[BrokerAddress]) -> Vec<Trouble> {
    let mut troubles = said.troubles(None);
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

/// The topic's `max.message.bytes`, where we may ask for it.
fn max_batch(config: &rdkafka::ClientConfig, topic: &str) -> Option<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    let admin = AdminClient::from_config_and_context(config, Said::default()).ok()?;
    let options = AdminOptions::new().request_timeout(Some(LIMIT_ANSWER));
    let resource = ResourceSpecifier::Topic(topic);
    let answer = runtime.block_on(admin.describe_configs([&resource], &options));
    let resources = answer.ok()?;
    let resource = resources.first()?.as_ref().ok()?;
    let entry = resource.get("max.message.bytes")?;
    entry.value.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafkas_words_are_taken_apart_into_broker_and_trouble() {
        assert_eq!(
            split("sasl_ssl://a.example:9093/bootstrap: SSL handshake failed: x: y"),
            (
                "a.example:9093".to_owned(),
                "SSL handshake failed: x: y".to_owned()
            )
        );
        assert_eq!(split("127.0.0.1:1/1: refused").0, "127.0.0.1:1");
        assert_eq!(split("[::1]:9092/bootstrap: refused").0, "[::1]:9092");
    }

    #[test]
    fn a_topic_that_cannot_be_is_refused_without_asking() {
        for topic in ["", ".", "..", "a b", "a/b", &"x".repeat(250)] {
            assert!(check_topic(topic).is_err(), "{topic}");
        }
        check_topic("pcap-1_2.x").unwrap();
    }
}
