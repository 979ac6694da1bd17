//! Captures into a real Kafka broker: what the topic holds is what the ledger calls delivered.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::{RwLock, RwLockReadGuard};

use support::broker::{Topic, accounted, brokers, kafka, sent};
use support::sensor::Start;
use support::{RINGTAP, balanced, code, count, run, said, sum, verify};

/// Held for writing by the test that restarts the broker.
static BROKER: RwLock<()> = RwLock::new(());

fn broker() -> RwLockReadGuard<'static, ()> {
    BROKER
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A capture file of numbered frames.
fn file(folder: &Path, frames: u64, size: &str) -> String {
    let path = folder.join("frames.pcapng").display().to_string();
    let source = format!("synthetic,size={size},flows=5");
    let frames = frames.to_string();
    let words = [
        "capture", "--source", &source, "-c", &frames, "-q", "-w", &path,
    ];
    let output = Command::new(RINGTAP).args(words).output().unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    path
}

#[test]
fn a_file_goes_to_a_topic_whole() {
    let _broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), 20_000, "60-1514");
    let topic = Topic::new(3, &[]);
    let ended = Start::new(&format!("-r {path} {}", topic.sink()))
        .run()
        .with(0);
    let held = topic.read(&sent(20_000));
    let ledger = accounted(&ended, &held);
    assert_eq!(held.records, 20_000);
    assert_eq!(ledger["interfaces"][0]["mode"], "file");

    let back = folder.path().join("back.pcapng");
    let brokers = brokers();
    let words = [
        "consume",
        "-k",
        &brokers,
        "-t",
        topic.name(),
        "-o",
        "begin",
        "-e",
        "-w",
    ];
    let output = Command::new(RINGTAP)
        .args(words)
        .arg(&back)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    let report = verify(&back, &sent(20_000));
    assert_eq!(report["complete"], true, "{report:#}");
}

#[test]
fn every_record_goes_into_a_topic_of_one_partition_from_memory() {
    let _broker = broker();
    let topic = Topic::new(1, &[]);
    let words = format!("--source synthetic,size=imix -c 100000 {}", topic.sink());
    let ended = Start::new(&words).run().with(0);
    let held = topic.read(&sent(100_000));
    accounted(&ended, &held);
    assert_eq!(held.records, 100_000);
}

#[test]
fn records_that_are_too_large_are_counted_and_the_rest_goes_on() {
    let _broker = broker();
    let topic = Topic::new(1, &[("max.message.bytes", "6000")]);
    let words = format!("--source synthetic,size=60-9014 -c 2928 {}", topic.sink());
    let ended = Start::new(&words).run().with(4);
    let ledger = accounted(&ended, &topic.read(&sent(2_928)));
    let refused = count(&ledger, "/failed/reasons/too_large");
    // Every size from 60 to 9,014 about equally often, of which a third is larger than 6,000.
    assert!((900..1_100).contains(&refused), "{ledger:#}");
    assert_eq!(count(&ledger, "/failed/not_persisted"), refused);
}

#[test]
fn without_acks_records_are_unconfirmed_and_the_exit_code_is_0() {
    let _broker = broker();
    let topic = Topic::new(1, &[]);
    let words = format!("--source synthetic -c 5000 -X acks=0 {}", topic.sink());
    let ended = Start::new(&words).run().with(0);
    let ledger = ended.ledger();
    balanced(&ledger);
    assert_eq!(count(&ledger, "/total/unconfirmed"), 5_000);
    assert_eq!(count(&ledger, "/total/delivered"), 0);
}

#[test]
fn a_missing_topic_is_3_with_the_command_that_makes_it() {
    let _broker = broker();
    let sink = format!("-k {} -t not-made", brokers());
    let ended = Start::new(&format!("--source synthetic {sink}")).run();
    ended.saying(3, &["not-made", "does not exist", "--create"]);
}

#[test]
fn kcat_and_the_tools_of_kafka_take_what_is_written() {
    let _broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), 1_000, "60-1514");
    let topic = Topic::new(1, &[("flush.messages", "1")]);
    let words = format!("-r {path} {} -X compression.type=lz4", topic.sink());
    Start::new(&words).run().with(0);
    let name = topic.name();
    let brokers = brokers();
    let from = [
        "-C",
        "-q",
        "-e",
        "-b",
        &brokers,
        "-t",
        name,
        "-o",
        "beginning",
    ];
    let shown = run("kcat", from.iter().copied().chain(["-f", "%K %S\\n"]));
    assert_eq!(shown.lines().count(), 1_000);
    assert!(shown.lines().all(|line| line.starts_with("8 ")), "{shown}");

    let offsets = kafka(
        "tool",
        &[
            "org.apache.kafka.tools.GetOffsetShell",
            "--bootstrap-server",
            &brokers,
            "--topic",
            name,
        ],
    );
    assert_eq!(offsets.trim(), format!("{name}:0:1000"));
    let consumer = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let shown = kafka(
        "tool",
        &[
            consumer,
            "--bootstrap-server",
            &brokers,
            "--topic",
            name,
            "--from-beginning",
            "--max-messages",
            "1000",
            "--timeout-ms",
            "30000",
            "--property",
            "print.offset=true",
            "--property",
            "print.value=false",
        ],
    );
    let offsets = shown.lines().filter(|line| line.starts_with("Offset:"));
    assert_eq!(offsets.count(), 1_000, "{shown}");
    let log = format!(
        "{}/data/{name}-0/00000000000000000000.log",
        std::env::var("RINGTAP_TEST_KAFKA_DIR").unwrap()
    );
    let dump = [
        "kafka.tools.DumpLogSegments",
        "--deep-iteration",
        "--files",
        &log,
    ];
    let shown = kafka("tool", &dump);
    let records = shown.lines().filter(|line| line.contains("keySize: 8 "));
    assert_eq!(records.count(), 1_000, "{shown}");
    assert!(shown.contains("isvalid: true") && !shown.contains("isvalid: false"));
}

#[test]
fn every_codec_is_read_by_kafkas_own_tools_and_by_librdkafka() {
    let _broker = broker();
    let dir = std::env::var("RINGTAP_TEST_KAFKA_DIR").unwrap();
    let cases = [
        ("lz4", "lz4", "publisher"),
        ("zstd:9", "zstd", "publisher"),
        ("snappy", "snappy", "publisher"),
        ("gzip", "gzip", "worker"),
        ("auto", "lz4", "worker"),
    ];
    for (codec, name, on) in cases {
        let topic = Topic::new(1, &[("flush.messages", "1")]);
        let words = format!(
            "--source synthetic,size=60 -c 20000 --producer native --compression {codec} \
             --compress-on {on} {}",
            topic.sink()
        );
        let ended = Start::new(&words).run().with(0);
        let held = topic.read(&sent(20_000));
        accounted(&ended, &held);
        assert_eq!(held.records, 20_000, "{codec}");

        let segment = format!("{dir}/data/{}-0/00000000000000000000.log", topic.name());
        let words = [
            "kafka.tools.DumpLogSegments",
            "--deep-iteration",
            "--files",
            &segment,
        ];
        let dump = kafka("tool", &words);
        let batches = |of: &str| dump.lines().filter(|line| line.contains(of)).count();
        assert!(
            batches(&format!("compresscodec: {name}")) > 0,
            "{codec}: {dump}"
        );
        assert_eq!(batches("compresscodec: none"), 0, "{codec}");
        assert_eq!(batches("keySize: 8 "), 20_000, "{codec}");
        assert_eq!(batches("isvalid: false"), 0, "{codec}");

        let brokers = brokers();
        let from = [
            "-C",
            "-q",
            "-e",
            "-b",
            &brokers,
            "-o",
            "beginning",
            "-f",
            "%K\\n",
            "-t",
        ];
        let shown = run("kcat", from.iter().copied().chain([topic.name()]));
        assert_eq!(shown.lines().count(), 20_000, "{codec}");
        let words = [
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            "--bootstrap-server",
            &brokers,
            "--topic",
            topic.name(),
            "--from-beginning",
            "--max-messages",
            "20000",
            "--timeout-ms",
            "60000",
            "--property",
            "print.offset=true",
            "--property",
            "print.value=false",
        ];
        let consumed = kafka("tool", &words);
        let last = consumed.lines().rfind(|line| line.starts_with("Offset:"));
        assert_eq!(last, Some("Offset:19999"), "{codec}");
    }
}

mod root {
    use super::support::wire::Wire;
    use super::*;

    #[test]
    fn a_million_frames_off_a_wire_are_each_in_the_topic_or_in_the_ledger() {
        let _broker = broker();
        let topic = Topic::new(2, &[]);
        let wire = Wire::beside_broker();
        let capture = Start::on(&wire, &topic.sink()).ready();
        let sent = wire.generate("--size 60-1514 --flows 64 --cpus 0,1 -c 500000");
        let ended = capture.stop().with(0);
        let held = topic.read(&sent);
        let ledger = accounted(&ended, &held);
        assert_eq!(count(&ledger, "/total/seen"), 1_000_000);
        assert_eq!(ledger["interfaces"][0]["mode"], "xdp", "{}", ended.log);
        // Each queue has a partition of its own, in which time never steps back.
        assert_eq!(held.keys.len(), 2);
        for keys in held.keys.values() {
            assert!(keys.is_sorted());
        }
    }

    #[test]
    fn frames_through_libpcap_are_each_in_the_topic_or_in_the_ledger() {
        let _broker = broker();
        let topic = Topic::new(2, &[]);
        let wire = Wire::beside_broker();
        let capture = Start::on(&wire, &format!("--mode pcap {}", topic.sink())).ready();
        let sent = wire.generate("--size imix --flows 64 --cpus 0,1 -c 100000 --engine socket");
        let ended = capture.stop().with(0);
        accounted(&ended, &topic.read(&sent));
    }

    #[test]
    fn a_broker_that_is_restarted_under_load_gets_all_that_was_received() {
        let _alone = BROKER
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let topic = Topic::new(2, &[]);
        let wire = Wire::beside_broker();
        // What the batches hold comes in a second, so that the kernel drops meanwhile.
        let words = format!("--buffer 8MiB --drain 120 {}", topic.sink());
        let capture = Start::on(&wire, &words).ready();
        let generator = wire.start("--size imix --flows 64 --cpus 0,1 --pps 20000 -c 160000");
        kafka("restart", &[]);
        let sent = generator.finish();
        let ended = capture.stop().with(0);
        let held = topic.read(&sent);
        let ledger = accounted(&ended, &held);
        assert_eq!(count(&ledger, "/total/seen"), 320_000);
        assert!(sum(&ledger["dropped"]) > 0, "{ledger:#}");
        assert_eq!(
            count(&ledger, "/total/delivered"),
            count(&ledger, "/total/received"),
            "{}",
            ended.log
        );
    }
}
