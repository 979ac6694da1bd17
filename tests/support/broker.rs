//! Real Kafka brokers: topics of a test's own, and what they hold.
//!
//! `RINGTAP_TEST_BROKERS` names the current broker and `RINGTAP_TEST_KAFKA_DIR` the folder that `scripts/kafka`
//! was given; the other ones have variables of their own. A test that lacks one fails.

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
use ringtap::record::Encoding;

use super::producer::{Producer, Tested};
use super::records::{Read, read_back};
use super::sensor::{Ended, PATIENCE, eventually};
use super::{balanced, count, printed, said, sound, sum};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("this test needs {name}: run it by scripts/test, or set it"))
}

/// A Kafka that the tests write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kafka {
    /// One broker of the current release.
    Current,
    /// One broker of the oldest release.
    Old,
    /// Three brokers of the current release, any of which may be killed.
    Cluster,
}

impl Kafka {
    /// Its addresses.
    pub(crate) fn brokers(self) -> String {
        variable(match self {
            Self::Current => "RINGTAP_TEST_BROKERS",
            Self::Old => "RINGTAP_TEST_OLD_BROKERS",
            Self::Cluster => "RINGTAP_TEST_CLUSTER_BROKERS",
        })
    }

    /// The folder it was started in.
    pub(crate) fn folder(self) -> String {
        variable(match self {
            Self::Current => "RINGTAP_TEST_KAFKA_DIR",
            Self::Old => "RINGTAP_TEST_OLD_DIR",
            Self::Cluster => "RINGTAP_TEST_CLUSTER_DIR",
        })
    }

    /// Runs `scripts/kafka COMMAND DIR WORDS` and returns what it prints.
    pub(crate) fn run(self, command: &str, words: &[&str]) -> String {
        script(command, &self.folder(), words)
    }

    /// A topic of a test's own, with settings of its own.
    pub(crate) fn topic(self, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let topic = Topic {
            kafka: self,
            name: format!("ringtap-test-{}", now.as_nanos()),
        };
        topic.make(partitions, settings);
        topic
    }
}

/// The current broker's address.
pub(crate) fn brokers() -> String {
    Kafka::Current.brokers()
}

/// Runs `scripts/kafka COMMAND` on the current broker and returns what it prints.
pub(crate) fn kafka(command: &str, words: &[&str]) -> String {
    Kafka::Current.run(command, words)
}

/// Runs `scripts/kafka COMMAND FOLDER WORDS` and returns what it prints.
pub(crate) fn script(command: &str, folder: &str, words: &[&str]) -> String {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka"))
        .args([command, folder])
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
    kafka: Kafka,
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
    /// A topic of the current broker, with settings of its own.
    pub(crate) fn new(partitions: i32, settings: &[(&str, &str)]) -> Self {
        Kafka::Current.topic(partitions, settings)
    }

    /// Makes it: for the first time, or again after [`delete`](Self::delete).
    pub(crate) fn make(&self, partitions: i32, settings: &[(&str, &str)]) {
        let copies = if self.kafka == Kafka::Cluster { 3 } else { 1 };
        let mut topic = NewTopic::new(&self.name, partitions, TopicReplication::Fixed(copies));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let admin = admin(&self.kafka.brokers());
        let made = blocking(admin.create_topics([&topic], &options));
        made.unwrap().into_iter().next().unwrap().unwrap();
        // What the controller has made, a busy broker may not know yet.
        let known = |leaders: usize| usize::try_from(partitions) == Ok(leaders);
        eventually("the brokers know the topic", || {
            let metadata = admin.inner().fetch_metadata(Some(&self.name), PATIENCE);
            metadata.is_ok_and(|metadata| {
                let found = metadata.topics()[0].partitions().iter();
                known(found.filter(|partition| partition.leader() >= 0).count())
            })
        });
    }

    /// Deletes it, with all that it holds.
    pub(crate) fn delete(&self) {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let admin = admin(&self.kafka.brokers());
        let gone = blocking(admin.delete_topics(&[&self.name], &options));
        gone.unwrap().into_iter().next().unwrap().unwrap();
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The words that make `ringtap capture` write to it.
    pub(crate) fn sink(&self) -> String {
        format!("-k {} -t {}", self.kafka.brokers(), self.name)
    }

    /// A sink of `producer` for every partition of it.
    pub(crate) fn under(&self, producer: Producer, encoding: &Encoding, more: &[&str]) -> Tested {
        producer.sink(&self.kafka.brokers(), &self.name, encoding, more)
    }

    /// Waits until each of so many partitions holds records.
    pub(crate) fn fills(&self, partitions: i32) {
        let mut config = ClientConfig::new();
        let config = config.set("bootstrap.servers", self.kafka.brokers());
        let consumer: BaseConsumer = config.create().unwrap();
        eventually("every partition is written to", || {
            (0..partitions).all(|partition| {
                let marks = consumer.fetch_watermarks(&self.name, partition, PATIENCE);
                marks.is_ok_and(|(_, high)| high > 0)
            })
        });
    }

    /// Every record of it, of numbered packets.
    pub(crate) fn records(&self) -> Vec<Read> {
        read_back(&self.kafka.brokers(), &self.name)
    }

    /// Reads it from begin to end, and checks each value as a frame of a generator.
    pub(crate) fn read(&self, sent: &Value) -> Held {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.brokers())
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
        let admin = admin(&self.kafka.brokers());
        let _ = blocking(admin.delete_topics(&[&self.name], &AdminOptions::new()));
    }
}

/// Asserts that the topic holds each delivered record once and no other, and returns the ledger.
pub(crate) fn accounted(ended: &Ended, held: &Held) -> Value {
    let ledger = ended.ledger();
    balanced(&ledger);
    let delivered = count(&ledger, "/total/delivered");
    assert_eq!(held.records, delivered, "{ledger:#}");
    assert_eq!(count(&ledger, "/failed/possibly_persisted"), 0);
    let lost = sum(&ledger["dropped"]) + count(&ledger, "/failed/not_persisted");
    assert_eq!(sound(&held.report), lost, "{ledger:#}");
    ledger
}

/// What a generator says that sent `frames`.
pub(crate) fn sent(frames: u64) -> Value {
    json!({"streams": [{"stream": 0, "frames": frames}]})
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).create().unwrap()
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}
