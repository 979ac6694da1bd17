//! Topics and records of every kind, and the program that reads them back.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use ringtap::format::read::Reader;
use ringtap::packet::LinkType;

/// The program.
pub(crate) const RINGTAP: &str = env!("CARGO_BIN_EXE_ringtap");

/// How long the broker may take; no figure, only an end to waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// A time in microseconds that everybody can read: 2026-11-21 00:00:00 UTC.
pub(crate) const EPOCH: u64 = 1_795_219_200_000_000;

pub(crate) fn brokers() -> String {
    std::env::var("RINGTAP_TEST_BROKERS")
        .unwrap_or_else(|_| panic!("RINGTAP_TEST_BROKERS names no broker; scripts/test starts one"))
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).create().unwrap()
}

/// Waits for one answer of the broker.
pub(crate) fn wait<T>(answer: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(answer)
}

/// A name that no other test has.
pub(crate) fn name(of: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("consume-{of}-{}", now.as_nanos())
}

/// Makes a topic of its own for one test.
pub(crate) fn topic(of: &str, partitions: i32) -> String {
    let name = name(of);
    let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    let made = wait(admin().create_topics([&topic], &options)).unwrap();
    made.into_iter().next().unwrap().unwrap();
    name
}

/// A record to be produced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
    pub(crate) millis: Option<i64>,
}

/// A record as the Metron contract has it: the packet of `number`, that many milliseconds after [`EPOCH`].
pub(crate) fn packet(number: u64) -> Record {
    Record {
        key: Some((EPOCH + number * 1_000).to_be_bytes().to_vec()),
        value: Some(frame(number)),
        ..Record::default()
    }
}

/// A UDP packet from port 1000 to port 53 where `number` is even, else 80; its number at the end.
pub(crate) fn frame(number: u64) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([
        0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    let port = if number.is_multiple_of(2) { 53 } else { 80 };
    frame.extend([0x03, 0xe8, 0, port, 0, 16, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame
}

/// The number that a packet bears.
pub(crate) fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[frame.len() - 8..].try_into().unwrap())
}

/// Produces `records` in this order, and waits until the broker has them.
pub(crate) fn produce(topic: &str, records: impl IntoIterator<Item = Record>) {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers())
        .set("acks", "all");
    config.set("queue.buffering.max.kbytes", "1048576");
    let producer: BaseProducer = config.create().unwrap();
    for record in records {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            let value = Some(value.as_slice());
            headers = headers.insert(Header { key, value });
        }
        let mut sent = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        sent.timestamp = record.millis;
        if !record.headers.is_empty() {
            sent = sent.headers(headers);
        }
        producer.send(sent).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// `ringtap consume` with the broker and `topic`, and more words.
pub(crate) fn consume(topic: &str, words: &str) -> Command {
    let mut command = Command::new(RINGTAP);
    command.args(["consume", "-k", &brokers(), "-t", topic]);
    command.args(words.split_whitespace());
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Runs it, and asserts that it ends well.
pub(crate) fn done(command: &mut Command) -> Output {
    let output = run(command);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    output
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A packet of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) nanos: u64,
    pub(crate) orig_len: u32,
    pub(crate) link_type: LinkType,
    pub(crate) data: Vec<u8>,
}

/// The packets of a capture file.
pub(crate) fn file(path: &Path) -> Vec<Read> {
    let mut reader = Reader::open(path).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next().unwrap() {
        packets.push(Read {
            nanos: packet.time.nanos(),
            orig_len: packet.orig_len,
            link_type: packet.link_type,
            data: packet.data.to_vec(),
        });
    }
    packets
}

/// The packets in a capture file's bytes.
pub(crate) fn bytes(bytes: &[u8]) -> Vec<Read> {
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(written.path(), bytes).unwrap();
    file(written.path())
}

/// The numbers of the packets in a capture file's bytes.
pub(crate) fn numbers(output: &Output) -> Vec<u64> {
    let packets = bytes(&output.stdout);
    packets.iter().map(|packet| number(&packet.data)).collect()
}
