//! The first words with a cluster for the librdkafka sink: is it there, has it the topic, what does it take.
//!
//! The rule: a capture starts only on an answer, and every sink of it is made from the one that came.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::BaseProducer;

use crate::kafka::BrokerAddress;
use crate::kafka::ask::{Said, first_answer, refused};
use crate::kafka::connect::ConnectError;
use crate::kafka::log::Log;
use crate::kafka::settings::{ProducerSettings, Settings};
use crate::kafka::topic;
use crate::record::Encoding;

use super::LibrdkafkaSink;

/// The most that the broker is asked for its limit: it may take its time, or forbid the question.
const LIMIT_ANSWER: Duration = Duration::from_secs(3);

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
        topic::check(topic)?;
        let mut producer = settings.producer()?;
        let log = Log::default();
        let said = Said::new(log.clone());
        let mut config = producer.client_config();
        // Only asks; a producer id is for those who write.
        config.set("enable.idempotence", "false");
        let client = BaseProducer::from_config_and_context(&config, said.clone());
        let client = Arc::new(client.map_err(|error| refused(&error))?);
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
