//! The protocol, with a real broker.
//!
//! `RINGTAP_TEST_BROKERS=host:port` names it, and `RINGTAP_TEST_KAFKA_DIR` is the folder it was started in with
//! `scripts/kafka start`. A test that lacks one fails.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use ringtap::counters::Failed;
use ringtap::packet::LinkType;
use ringtap::record::{Encoding, RecordInfo};
use ringtap::sink::librdkafka::Cluster;

use crate::support::{
    BURSTS, PATIENCE, TIMED, batch_of, batches, check, micros, read_back, run, settings, sink,
};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("this test needs {name}: run it by scripts/test, or set it"))
}

fn brokers() -> String {
    variable("RINGTAP_TEST_BROKERS")
}

/// Makes a topic of its own for one test, with settings of its own.
fn topic(name: &str, partitions: i32, config: &[(&str, &str)]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let name = format!("ringtap-{name}-{}", now.as_nanos());
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap();
    let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    for (key, value) in config {
        topic = topic.set(key, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let made = runtime
        .block_on(admin.create_topics([&topic], &options))
        .unwrap();
    made.into_iter().next().unwrap().unwrap();
    name
}

#[test]
fn keys_values_and_times_are_read_back_to_the_byte() {
    let topic = topic("bytes", 2, &[]);
    let sizes = |number: u64| 8 + usize::try_from(number * 37 % 3_000).unwrap();
    let batches = (0..6)
        .map(|at| batch_of(at * 1_000..(at + 1) * 1_000, &TIMED, sizes))
        .collect();
    let total = run(sink(&brokers(), &topic, &TIMED, &[]), batches);
    assert_eq!(total.outcome.delivered, 6_000);
    let read = read_back(&brokers(), &topic);
    check(&read, &total);
    for record in read {
        assert_eq!(record.value.len(), sizes(record.number()));
        assert_eq!(
            record.millis,
            i64::try_from(micros(record.number()) / 1_000).unwrap()
        );
        assert_eq!(
            record.partition,
            i32::from((record.number() / 1_000) % 2 == 1)
        );
        assert!(record.headers.is_empty());
    }
}

#[test]
fn records_of_files_bear_the_time_of_now() {
    let topic = topic("now", 1, &[]);
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let total = run(
        sink(&brokers(), &topic, &BURSTS, &[]),
        batches(3, 5_000, &BURSTS),
    );
    assert_eq!(total.outcome.delivered, 15_000);
    let read = read_back(&brokers(), &topic);
    check(&read, &total);
    let before = i64::try_from(before.as_millis()).unwrap();
    assert!(read.iter().all(|record| record.millis >= before));
}

#[test]
fn the_rt_header_travels_with_every_record() {
    let topic = topic("headers", 1, &[]);
    let encoding = Encoding {
        headers: true,
        ..TIMED
    };
    let total = run(
        sink(&brokers(), &topic, &encoding, &[]),
        batches(2, 500, &encoding),
    );
    let read = read_back(&brokers(), &topic);
    check(&read, &total);
    for record in read {
        let [(name, value)] = record.headers.as_slice() else {
            panic!("{record:?}");
        };
        assert_eq!(name, "rt");
        let info = RecordInfo::decode(value).unwrap();
        assert_eq!(info.sequence, record.number());
        assert_eq!(info.time.nanos(), micros(record.number()) * 1_000 + 123);
        assert_eq!((info.queue, info.interface), (7, 3));
        assert_eq!(info.link_type, LinkType::ETHERNET);
        assert_eq!(info.orig_len, 60);
    }
}

#[test]
fn a_small_limit_of_the_topic_is_asked_for_and_obeyed() {
    let topic = topic("limit", 1, &[("max.message.bytes", "20000")]);
    let cluster = Cluster::connect(&settings(&brokers(), &[]), &topic, PATIENCE).unwrap();
    assert_eq!(cluster.max_batch(), Some(20_000));
    let size = |number| if number == 700 { 30_000 } else { 100 };
    let batches = vec![batch_of(0..2_000, &BURSTS, size)];
    let total = run(cluster.sink(vec![0], &BURSTS).unwrap(), batches);
    assert_eq!(total.outcome.not_persisted[Failed::TooLarge as usize], 1);
    assert_eq!(total.outcome.delivered, 1_999, "{total:?}");
    check(&read_back(&brokers(), &topic), &total);
}

#[test]
fn every_codec_is_read_back_to_the_byte() {
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let topic = topic(codec, 1, &[]);
        let codec = format!("compression.codec={codec}");
        let sink = sink(&brokers(), &topic, &BURSTS, &[&codec]);
        let total = run(sink, batches(2, 2_000, &BURSTS));
        assert_eq!(total.outcome.delivered, 4_000, "{codec}");
        check(&read_back(&brokers(), &topic), &total);
    }
}

#[test]
fn kafkas_own_tool_finds_every_batch_valid() {
    let dir = variable("RINGTAP_TEST_KAFKA_DIR");
    let topic = topic("dump", 1, &[("flush.messages", "1")]);
    let total = run(
        sink(&brokers(), &topic, &TIMED, &[]),
        batches(4, 1_000, &TIMED),
    );
    assert_eq!(total.outcome.delivered, 4_000);
    std::thread::sleep(Duration::from_millis(200));
    let dump = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka"))
        .args(["tool", &dir, "kafka.tools.DumpLogSegments"])
        .args(["--deep-iteration", "--files"])
        .arg(format!("{dir}/data/{topic}-0/00000000000000000000.log"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&dump.stdout);
    assert!(dump.status.success(), "{text}");
    let records = text
        .lines()
        .filter(|line| line.contains("keySize: 8 "))
        .count();
    assert_eq!(records, 4_000, "{text}");
    assert!(text.contains("isvalid: true") && !text.contains("isvalid: false"));
}
