//! The first words with a cluster through the native client: is it there, has it the topic, how large may a
//! batch be.
//!
//! The rule: a capture starts only on an answer. What stands in the way is named within a bounded time, with
//! every broker and what is known of it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;

use crate::kafka::BrokerAddress;
use crate::kafka::client::{Client, Event, Known, Obstacle};
use crate::kafka::connect::{self, ClientError, ConnectError, Trouble};
use crate::kafka::connection::Bodies;
use crate::kafka::settings::{NativeSettings, ProducerSettings, Settings};
use crate::kafka::{topic, verdict};
use crate::signals;

use super::KafkaSink;

/// A topic that was just made may be unknown to some brokers for a moment.
const PROPAGATION: Duration = Duration::from_secs(1);

/// The longest sleep: within this a signal ends the asking.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The most that the broker is asked for its limit: it may take its time, or forbid the question.
const LIMIT_ANSWER: Duration = Duration::from_secs(3);

/// What a broker takes unless it is told otherwise: `message.max.bytes` of Kafka.
const DEFAULT_LIMIT: usize = 1_048_588;

/// A topic that is to be made where it is missing (`--create-topic`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    /// The number of its partitions; at least 1.
    pub partitions: i32,
    /// How many brokers keep each; -1 for the cluster's own default.
    pub replication: i16,
}

/// A cluster that has answered, and what a sink needs to know of it.
#[derive(Clone, Debug)]
pub struct Cluster {
    producer: ProducerSettings,
    native: NativeSettings,
    known: Known,
    max_batch: Option<usize>,
    /// `batch.size`, where the user says it.
    batch_size: Option<usize>,
}

impl Cluster {
    /// Asks the brokers of `settings` for `topic`, for at most `limit`, and makes it where it is missing and
    /// `create` says so.
    ///
    /// Waits. Asking never creates the topic unless the settings say `allow.auto.create.topics=true`.
    pub fn connect(
        settings: &Settings,
        topic: &str,
        create: Option<CreateTopic>,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        topic::check(topic)?;
        let producer = settings.producer()?;
        let native = NativeSettings::new(&producer, topic)?;
        let client = Client::new(
            native.terms.clone(),
            (0, 1),
            &Known::default(),
            Arc::default(),
        );
        let client = client.map_err(no_descriptor)?;
        let mut asking = Asking {
            client,
            native: &native,
            end: Instant::now() + limit,
            limit,
            events: Vec::new(),
        };
        asking.first_answer(create)?;
        let told = asking.limit();
        let written = settings.get("message.max.bytes");
        let written = written.and_then(|bytes| bytes.parse().ok());
        Ok(Self {
            known: asking.client.known(),
            batch_size: settings
                .get("batch.size")
                .and_then(|size| size.parse().ok()),
            max_batch: written
                .or(told)
                .and_then(|bytes: u32| bytes.try_into().ok()),
            producer,
            native,
        })
    }

    /// The number of partitions of the topic; at least 1.
    pub fn partitions(&self) -> usize {
        self.known.partitions()
    }

    /// The brokers of the cluster, as they advertise themselves.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerAddress> {
        self.known.brokers()
    }

    /// The largest record batch that is to be made, in bytes: `batch.size` where the user says it, and no more
    /// than may be sent: what the user says, else what the broker tells,
    /// else what brokers take unless they are told otherwise.
    pub fn max_batch(&self) -> usize {
        let max_batch = self.max_batch.unwrap_or(DEFAULT_LIMIT);
        self.batch_size
            .map_or(max_batch, |size| max_batch.min(size))
    }

    /// The settings in use, defaults among them, and what the user is to be told of them.
    pub fn settings(&self) -> &ProducerSettings {
        &self.producer
    }

    /// Sink number `index` of `sinks`: its partitions are those whose number divided by `sinks` leaves `index`.
    pub fn sink(&self, index: usize, sinks: usize) -> Result<KafkaSink, ConnectError> {
        let max_batch = self.max_batch.unwrap_or(usize::MAX);
        let sink = KafkaSink::new(self.native.clone(), (index, sinks), &self.known, max_batch);
        sink.map_err(no_descriptor)
    }
}

fn no_descriptor(cause: io::Error) -> ConnectError {
    ClientError {
        said: format!("no eventfd: {cause}"),
    }
    .into()
}

/// No batch is sent while a cluster is asked.
struct NoBatch;

impl Bodies for NoBatch {
    fn body(&self, _: usize) -> &[u8] {
        &[]
    }
}

struct Asking<'a> {
    client: Client,
    native: &'a NativeSettings,
    end: Instant,
    limit: Duration,
    events: Vec<Event>,
}

impl Asking<'_> {
    fn step(&mut self, until: Instant) -> Result<Instant, ConnectError> {
        let now = Instant::now();
        self.client.turn(now, &NoBatch, &mut self.events);
        if self.events.is_empty() {
            let left = until.saturating_duration_since(now).min(LONGEST_WAIT);
            let waited = self.client.wait(None, left, now);
            waited.map_err(|cause| ClientError {
                said: format!("poll: {cause}"),
            })?;
        }
        Ok(Instant::now())
    }

    /// Waits until the topic is known, with a leader for each partition or without.
    fn first_answer(&mut self, create: Option<CreateTopic>) -> Result<(), ConnectError> {
        let mut create = create;
        let mut missing_since = None;
        loop {
            let now = self.step(self.end)?;
            for event in std::mem::take(&mut self.events) {
                match event {
                    Event::Topology => return Ok(()),
                    Event::TopicRefused(code) => {
                        let since = *missing_since.get_or_insert(now);
                        self.refused(code, now.saturating_duration_since(since), &mut create)?;
                    }
                    Event::Created(code, said) => self.created(code, &said)?,
                    _ => {}
                }
            }
            self.give_up(now)?;
        }
    }

    /// The brokers answer, but not with the topic.
    fn refused(
        &mut self,
        code: i16,
        since: Duration,
        create: &mut Option<CreateTopic>,
    ) -> Result<(), ConnectError> {
        use ResponseError as E;
        let topic = self.native.terms.topic.clone();
        match ResponseError::try_from_code(code) {
            Some(E::TopicAuthorizationFailed) => {
                return Err(ConnectError::TopicNotAuthorized { topic });
            }
            Some(E::UnknownTopicOrPartition | E::LeaderNotAvailable) => {}
            _ => {
                let said = verdict::name(code);
                return Err(ConnectError::Topic { topic, said });
            }
        }
        if let Some(wanted) = create.take() {
            tracing::info!(
                topic,
                partitions = wanted.partitions,
                "the topic is missing; making it"
            );
            let now = Instant::now();
            let CreateTopic {
                partitions,
                replication,
            } = wanted;
            if !self.client.create_topic(partitions, replication, now) {
                *create = Some(wanted);
            }
            return Ok(());
        }
        let is_made = self.native.terms.creates;
        if since < PROPAGATION || (is_made && Instant::now() < self.end) {
            return Ok(());
        }
        Err(ConnectError::TopicMissing {
            topic,
            broker: self
                .native
                .terms
                .bootstrap
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        })
    }

    fn created(&self, code: i16, said: &str) -> Result<(), ConnectError> {
        match ResponseError::try_from_code(code) {
            None | Some(ResponseError::TopicAlreadyExists) => Ok(()),
            Some(_) => Err(ConnectError::Topic {
                topic: self.native.terms.topic.clone(),
                said: format!("{} to making it ({said})", verdict::name(code)),
            }),
        }
    }

    /// Ends the asking where it is over, or where every broker has refused us for good.
    fn give_up(&self, now: Instant) -> Result<(), ConnectError> {
        let of = |kind: Obstacle| -> Vec<Trouble> {
            let troubles = self
                .client
                .troubles()
                .filter(|(_, found, _)| *found == kind);
            troubles.map(trouble).collect()
        };
        if signals::stop_came() {
            let troubles = self.known();
            return Err(ConnectError::Interrupted { troubles });
        }
        let (refused, untrusted) = (of(Obstacle::Authentication), of(Obstacle::Tls));
        let named = self.native.terms.bootstrap.len();
        if now < self.end && refused.len() + untrusted.len() < named {
            return Ok(());
        }
        let known = self.known();
        Err(ConnectError::given_up(
            refused, untrusted, known, self.limit,
        ))
    }

    /// Every broker, with what is known of it.
    fn known(&self) -> Vec<Trouble> {
        let troubles = self.client.troubles().map(trouble).collect();
        connect::with_silent(troubles, &self.native.terms.bootstrap)
    }

    /// The largest batch of the topic, where we may know it.
    fn limit(&mut self) -> Option<u32> {
        let end = Instant::now() + LIMIT_ANSWER;
        if !self.client.ask_limit(Instant::now()) {
            return None;
        }
        loop {
            let now = self.step(end).ok()?;
            for event in self.events.drain(..) {
                if let Event::Limit(limit) = event {
                    return limit;
                }
            }
            if now >= end || signals::stop_came() {
                return None;
            }
        }
    }
}

fn trouble((broker, _, said): (&BrokerAddress, Obstacle, &str)) -> Trouble {
    Trouble {
        broker: broker.to_string(),
        said: said.to_owned(),
    }
}
