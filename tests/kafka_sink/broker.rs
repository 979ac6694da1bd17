//! The protocol, with real brokers: the current release and the oldest one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ringtap::counters::Failed;
use ringtap::packet::LinkType;
use ringtap::record::{Encoding, RecordInfo};
use ringtap::sink::{kafka, librdkafka};

use crate::support::broker::Kafka;
use crate::support::producer::{Producer, settings};
use crate::support::records::{BURSTS, TIMED, batch_of, batches, check, micros, run};
use crate::support::sensor::PATIENCE;

/// Runs a case over every producer, with either release.
fn everywhere(case: impl Fn(Producer, Kafka) + Sync) {
    Producer::each(|producer| {
        for kafka in [Kafka::Current, Kafka::Old] {
            case(producer, kafka);
        }
    });
}

#[test]
fn keys_values_and_times_are_read_back_to_the_byte() {
    everywhere(|producer, kafka| {
        let topic = kafka.topic(2, &[]);
        let sizes = |number: u64| 8 + usize::try_from(number * 37 % 3_000).unwrap();
        let batches = (0..6)
            .map(|at| batch_of(at * 1_000..(at + 1) * 1_000, &TIMED, sizes))
            .collect();
        let total = run(topic.under(producer, &TIMED, &[]), batches);
        assert_eq!(total.outcome.delivered, 6_000);
        let read = topic.records();
        check(&read, &total);
        let mut partitions = BTreeMap::new();
        for record in read {
            assert_eq!(record.value.len(), sizes(record.number()));
            assert_eq!(
                record.millis,
                i64::try_from(micros(record.number()) / 1_000).unwrap()
            );
            assert!(record.headers.is_empty());
            let batch = record.number() / 1_000;
            let partition = partitions.entry(batch).or_insert(record.partition);
            assert_eq!(*partition, record.partition, "a batch is in one partition");
        }
        assert_eq!(partitions.into_values().collect::<BTreeSet<_>>().len(), 2);
    });
}

#[test]
fn records_of_files_bear_the_time_of_now() {
    everywhere(|producer, kafka| {
        let topic = kafka.topic(1, &[]);
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let sink = topic.under(producer, &BURSTS, &[]);
        let total = run(sink, batches(3, 5_000, &BURSTS));
        assert_eq!(total.outcome.delivered, 15_000);
        let read = topic.records();
        check(&read, &total);
        let before = i64::try_from(before.as_millis()).unwrap();
        assert!(read.iter().all(|record| record.millis >= before));
    });
}

#[test]
fn the_rt_header_travels_with_every_record() {
    everywhere(|producer, kafka| {
        let topic = kafka.topic(1, &[]);
        let encoding = Encoding {
            headers: true,
            ..TIMED
        };
        let sink = topic.under(producer, &encoding, &[]);
        let total = run(sink, batches(2, 500, &encoding));
        let read = topic.records();
        check(&read, &total);
        assert_eq!(read.len(), 1_000);
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
    });
}

#[test]
fn the_limit_of_the_topic_is_known_before_the_first_record() {
    let topic = Kafka::Current.topic(1, &[("max.message.bytes", "20000")]);
    let settings = settings(&Kafka::Current.brokers(), &[]);
    let cluster = librdkafka::Cluster::connect(&settings, topic.name(), PATIENCE).unwrap();
    assert_eq!(cluster.max_batch(), Some(20_000));
    let cluster = kafka::Cluster::connect(&settings, topic.name(), None, PATIENCE).unwrap();
    assert_eq!(cluster.max_batch(), 20_000);
}

#[test]
fn a_small_limit_of_the_topic_is_obeyed() {
    everywhere(|producer, kafka| {
        let topic = kafka.topic(1, &[("max.message.bytes", "20000")]);
        let size = |number| if number == 700 { 30_000 } else { 100 };
        let batches = vec![batch_of(0..2_000, &BURSTS, size)];
        let total = run(topic.under(producer, &BURSTS, &[]), batches);
        assert_eq!(total.outcome.not_persisted[Failed::TooLarge as usize], 1);
        assert_eq!(total.outcome.delivered, 1_999, "{total:?}");
        check(&topic.records(), &total);
    });
}

#[test]
fn every_codec_is_read_back_to_the_byte() {
    everywhere(|producer, kafka| {
        for codec in ["gzip", "snappy", "lz4", "zstd"] {
            let topic = kafka.topic(1, &[]);
            let codec = format!("compression.codec={codec}");
            let sink = topic.under(producer, &BURSTS, &[&codec]);
            let total = run(sink, batches(2, 2_000, &BURSTS));
            assert_eq!(total.outcome.delivered, 4_000, "{codec}");
            check(&topic.records(), &total);
        }
    });
}

#[test]
fn kafkas_own_tool_finds_every_batch_valid() {
    everywhere(|producer, kafka| {
        let topic = kafka.topic(1, &[("flush.messages", "1")]);
        let sink = topic.under(producer, &TIMED, &[]);
        let total = run(sink, batches(4, 1_000, &TIMED));
        assert_eq!(total.outcome.delivered, 4_000);
        let segment = format!(
            "{}/data/{}-0/00000000000000000000.log",
            kafka.folder(),
            topic.name()
        );
        let tool = "kafka.tools.DumpLogSegments";
        let text = kafka.run("tool", &[tool, "--deep-iteration", "--files", &segment]);
        let lines = text.lines().map(str::to_lowercase);
        let records = lines.filter(|line| line.contains("keysize: 8 "));
        assert_eq!(records.count(), 4_000, "{text}");
        assert!(text.contains("isvalid: true") && !text.contains("isvalid: false"));
    });
}
