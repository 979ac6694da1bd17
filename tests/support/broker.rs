//! A real Kafka broker: topics of a test's own, and what they hold.
//!
//! `RINGTAP_TEST_BROKERS` names the broker, `RINGTAP_TEST_KAFKA_DIR` the folder that `scripts/kafka start`
//! was given. A test that lacks one fails.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};

use ringtap::check::Checker;

use super::sensor::PATIENCE;
use super::{printed, said};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("this test needs {name}: run it by scripts/test, or set it"))
}

/// The broker's address.
pub(crate) fn brokers() -> String {
    variable("RINGTAP_TEST_BROKERS")
}

/// Runs `scripts/kafka COMMAND DIR WORDS` and returns what it prints.
pub(crate) fn kafka(command: &str, words: &[&str]) -> String {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka"))
        .args([command, &variable("RINGTAP_TEST_KAFKA_DIR")])
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command} {words:?}: {}\n{}",
        said(&output),
        printed(&output)
    );
    printed(&output)
}

/// A topic; deleted when dropped.
#[derive(Debug)]
pub(crate) struct Topic {
    name: String,
}

/// What a topic holds.
#[derive(Debug)]
pub(crate) struct Held {
    /// The number of records.
    pub(crate) records: u64,
    /// The keys of each partition, in the order of its offsets: microseconds.
    pub(crate) keys: BTreeMap<i32, Vec<u64>>,
    /// What the checker says of the values, as `ringtap verify` says it.
    pub(crate) report: Value,
}

impl Topic {
    /// A topic with settings of its own.
    pub(crate) fn new(partitions: i32, settings: &[(&str, &str)]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let name = format!("ringtap-test-{}", now.as_nanos());
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = blocking(admin().create_topics([&topic], &options));
        made.unwrap().into_iter().next().unwrap().unwrap();
        Self { name }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The words that make `ringtap capture` write to it.
    pub(crate) fn sink(&self) -> String {
        format!("-k {} -t {}", brokers(), self.name)
    }

    /// Reads it from begin to end, and checks each value as a frame of a generator.
    pub(crate) fn read(&self, sent: &Value) -> Held {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers())
            .set("group.id", "ringtap-test")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), PATIENCE).unwrap();
        let mut assignment = TopicPartitionList::new();
        let mut expected = 0;
        for partition in metadata.topics()[0].partitions() {
            let marks = consumer.fetch_watermarks(&self.name, partition.id(), PATIENCE);
            let (low, high) = marks.unwrap();
            expected += u64::try_from(high - low).unwrap();
            let added =
                assignment.add_partition_offset(&self.name, partition.id(), Offset::Beginning);
            added.unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut checker = Checker::new();
        let mut keys: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
        let mut records = 0;
        let end = Instant::now() + PATIENCE;
        while records < expected {
            assert!(Instant::now() < end, "read {records} of {expected}");
            let Some(message) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let message = message.unwrap();
            let key = message.key().unwrap();
            let key = u64::from_be_bytes(key.try_into().expect("a key has 8 bytes"));
            keys.entry(message.partition()).or_default().push(key);
            checker.check(message.payload().unwrap());
            records += 1;
        }
        let streams = sent["streams"].as_array().unwrap().iter();
        let number = |stream: &Value, of: &str| stream[of].as_u64().unwrap();
        let streams = streams.map(|stream| {
            let name = u32::try_from(number(stream, "stream")).unwrap();
            (name, number(stream, "frames"))
        });
        Held {
            records,
            keys,
            report: json!(checker.report(&streams.collect())),
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let _ = blocking(admin().delete_topics(&[&self.name], &AdminOptions::new()));
    }
}

fn admin() -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).create().unwrap()
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}
