//! librdkafka's way of asking a cluster: is it there, does it know us, has it the topic.
//!
//! The rule: what stands in the way is named within a bounded time, with the broker and with what
//! librdkafka says of it.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka_sys::rd_kafka_resp_err_t as Code;

use super::address::BrokerAddress;
use super::connect::{self, ClientError, ConnectError, Trouble};
use super::log::Log;
use super::topic;
use crate::signals;

/// A topic that was just made may be unknown to some brokers for a moment.
const PROPAGATION: Duration = Duration::from_secs(1);

/// The longest that one question waits: a refusal meanwhile is seen after it.
const LONGEST_QUESTION: Duration = Duration::from_secs(2);

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
            // A peer that hangs up in the handshake is filed under transport, and so is an alert after it:
            // with TLS 1.3 a broker looks at our certificate only then.
            RDKafkaErrorCode::BrokerTransportFailure
                if text.starts_with("SSL")
                    || text.contains("SSL routines")
                    || text.contains("in state SSL_HANDSHAKE") =>
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
    /// Nothing heard so far; librdkafka's lines go to `log`.
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            ..Self::default()
        }
    }

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

/// How often a signal is looked for while a question waits.
const LOOK: Duration = Duration::from_millis(100);

/// Asks on a thread of its own: a signal ends the wait for the answer, and then there is none.
///
/// What `question` holds stays alive until librdkafka has given up.
pub(crate) fn aside<A: Send + 'static>(question: impl FnOnce() -> A + Send + 'static) -> Option<A> {
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || answer.send(question()));
    while !signals::stop_came() {
        match answered.recv_timeout(LOOK) {
            Ok(answer) => return Some(answer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

/// Whether what a broker answers passes by itself, as after its start: partitions and groups are being
/// taken over.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    let passing = [
        RDKafkaErrorCode::LeaderNotAvailable,
        RDKafkaErrorCode::NotLeaderForPartition,
        RDKafkaErrorCode::ReplicaNotAvailable,
        RDKafkaErrorCode::BrokerNotAvailable,
        RDKafkaErrorCode::UnknownTopicOrPartition,
        RDKafkaErrorCode::CoordinatorLoadInProgress,
        RDKafkaErrorCode::CoordinatorNotAvailable,
        RDKafkaErrorCode::NotCoordinator,
        RDKafkaErrorCode::WaitingForCoordinator,
        RDKafkaErrorCode::FencedLeaderEpoch,
        RDKafkaErrorCode::UnknownLeaderEpoch,
        RDKafkaErrorCode::OffsetNotAvailable,
        RDKafkaErrorCode::NetworkException,
        RDKafkaErrorCode::RequestTimedOut,
        RDKafkaErrorCode::KafkaStorageError,
        RDKafkaErrorCode::BrokerTransportFailure,
    ];
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| passing.contains(&code))
}

/// Asks the brokers for `topic`, for at most `limit`; `said` is what the client's context hears.
///
/// Where asking `creates` the topic, a missing one is waited for. A signal ends it at once.
pub(crate) fn first_answer(
    client: &Arc<impl Asks + Send + Sync + 'static>,
    said: &Said,
    topic: &str,
    written: &[BrokerAddress],
    limit: Duration,
    creates: bool,
) -> Result<Metadata, ConnectError> {
    topic::check(topic)?;
    let end = Instant::now() + limit;
    let mut missing_until = if creates { Some(end) } else { None };
    // Long enough for a slow answer, short enough to see a refusal soon.
    let mut patience = Duration::from_millis(500);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let (asked, name, wait) = (client.clone(), topic.to_owned(), left.min(patience));
        let Some(answer) = aside(move || asked.ask(&name, wait)) else {
            let troubles = known(said, written);
            return Err(ConnectError::Interrupted { troubles });
        };
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
                    thread::sleep(Duration::from_millis(100));
                }
            },
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
    let known = known(said, written);
    Err(ConnectError::given_up(refused, untrusted, known, limit))
}

/// Every broker, with what it said or that it said nothing.
fn known(said: &Said, written: &[BrokerAddress]) -> Vec<Trouble> {
    connect::with_silent(said.troubles(None), written)
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
}
