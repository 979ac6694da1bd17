//! Numbered packets in, records out.
//!
//! The rule: every batch that a sink gives back is kept by the numbers of its packets with what became of it, so
//! that the topic is held against the fate of each batch and not against a sum.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use ringtap::batch::{Batch, Origin};
use ringtap::packet::{Clock, LinkType, Packet, Timestamp};
use ringtap::record::{Encoding, KeyTime, RecordTime};
use ringtap::sink::{Finished, Outcome};

use super::producer::Tested;
use super::sensor::PATIENCE;

/// 21 November 2026, in microseconds.
const EPOCH: u64 = 1_795_219_200_000_000;

/// Records with the packet's time: one call each.
pub(crate) const TIMED: Encoding = Encoding {
    key_time: KeyTime::Micros,
    record_time: RecordTime::Packet,
    headers: false,
    snaplen: 65_535,
};

/// Records with the time of now and no header: many a call.
pub(crate) const BURSTS: Encoding = Encoding {
    record_time: RecordTime::Now,
    ..TIMED
};

/// The time of packet `number` in microseconds.
pub(crate) fn micros(number: u64) -> u64 {
    EPOCH + number * 1_000
}

/// The bytes of packet `number`: its number, then a pattern of it.
pub(crate) fn frame(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend((8..size).map(|at| {
        number
            .wrapping_mul(31)
            .wrapping_add(at as u64)
            .to_le_bytes()[0]
    }));
    bytes
}

/// A batch of packets, the size of each given by its number.
pub(crate) fn batch_of(
    numbers: Range<u64>,
    encoding: &Encoding,
    size: impl Fn(u64) -> usize,
) -> Batch {
    let bytes: usize = numbers.clone().map(|number| size(number) + 80).sum();
    let mut batch = Batch::new(bytes + 1_024, 0);
    for number in numbers {
        let data = frame(number, size(number));
        let packet = Packet {
            clock: Clock::Arrival,
            time: Timestamp::from_nanos(micros(number) * 1_000 + 123),
            orig_len: u32::try_from(data.len()).unwrap(),
            link_type: LinkType::ETHERNET,
            interface: 3,
            data: &data,
            more: &[],
        };
        let origin = Origin {
            queue: 7,
            sequence: number,
        };
        batch.push(&packet, encoding, origin).unwrap();
    }
    batch
}

/// `count` batches of `each` packets of 60 bytes, numbered through.
pub(crate) fn batches(count: u64, each: u64, encoding: &Encoding) -> Vec<Batch> {
    (0..count)
        .map(|at| batch_of(at * each..(at + 1) * each, encoding, |_| 60))
        .collect()
}

/// What became of everything that was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Total {
    pub(crate) sent: u64,
    pub(crate) given: usize,
    pub(crate) outcome: Outcome,
    pub(crate) batches: usize,
    /// What became of each batch, by the number of its first packet.
    pub(crate) fates: BTreeMap<u64, Fate>,
}

/// What became of one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) records: u64,
    pub(crate) outcome: Outcome,
}

impl Total {
    pub(crate) fn add(&mut self, finished: &[Finished]) {
        for finished in finished {
            let outcome = finished.outcome;
            let records = u64::from(finished.batch.count());
            assert_eq!(accounted(&outcome), records, "{outcome:?}");
            let first = finished.batch.records().next().unwrap();
            let fate = Fate { records, outcome };
            let known = self.fates.insert(number(first.value), fate);
            assert!(known.is_none(), "a batch came back twice: {fate:?}");
            self.outcome.delivered += outcome.delivered;
            self.outcome.unconfirmed += outcome.unconfirmed;
            self.outcome.possibly_persisted += outcome.possibly_persisted;
            for (sum, count) in self
                .outcome
                .not_persisted
                .iter_mut()
                .zip(outcome.not_persisted)
            {
                *sum += count;
            }
            self.batches += 1;
        }
    }

    /// Panics unless every record has exactly one fate.
    pub(crate) fn balance(&self) {
        assert_eq!(accounted(&self.outcome), self.sent, "{self:?}");
    }
}

fn accounted(outcome: &Outcome) -> u64 {
    outcome.delivered + outcome.unconfirmed + outcome.possibly_persisted + not_persisted(outcome)
}

/// The records that are certainly not stored.
pub(crate) fn not_persisted(outcome: &Outcome) -> u64 {
    outcome.not_persisted.iter().sum()
}

/// The number of the packet with these bytes.
fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().unwrap())
}

/// Sends one batch to a sink that has room.
pub(crate) fn give(sink: &mut Tested, batch: Batch, total: &mut Total) {
    total.sent += u64::from(batch.count());
    total.given += 1;
    sink.send(batch);
}

/// Sends `batches` as the sink takes them and polls until none is out; `each` runs after every poll.
pub(crate) fn drive(
    sink: &mut Tested,
    batches: Vec<Batch>,
    total: &mut Total,
    mut each: impl FnMut(&Total),
) {
    let wake = EventFd::new().unwrap();
    let all = total.given + batches.len();
    let mut batches = batches.into_iter();
    let mut finished = Vec::new();
    let end = Instant::now() + PATIENCE;
    while total.batches < all {
        assert!(Instant::now() < end, "the sink stands still: {total:?}");
        while sink.has_room()
            && let Some(batch) = batches.next()
        {
            give(sink, batch, total);
        }
        sink.poll(wake.as_fd(), Duration::from_millis(50), &mut finished)
            .unwrap();
        total.add(&finished);
        finished.clear();
        each(total);
    }
}

/// Polls for `time`.
pub(crate) fn drive_for(sink: &mut Tested, time: Duration, total: &mut Total) {
    let wake = EventFd::new().unwrap();
    let mut finished = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        sink.poll(wake.as_fd(), Duration::from_millis(50), &mut finished)
            .unwrap();
        total.add(&finished);
        finished.clear();
    }
}

/// Sends everything, finishes, and returns what became of it.
pub(crate) fn run(mut sink: Tested, batches: Vec<Batch>) -> Total {
    let mut total = Total::default();
    drive(&mut sink, batches, &mut total, |_| {});
    finish(&mut sink, &mut total, PATIENCE);
    total
}

/// Finishes the sink and checks that every record has one fate.
pub(crate) fn finish(sink: &mut Tested, total: &mut Total, limit: Duration) {
    let mut finished = Vec::new();
    sink.finish(Instant::now() + limit, &mut finished).unwrap();
    total.add(&finished);
    total.balance();
}

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) millis: i64,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Read {
    pub(crate) fn number(&self) -> u64 {
        number(&self.value)
    }

    /// Whether key and value are those of the packet whose number it bears.
    pub(crate) fn is_intact(&self) -> bool {
        self.value == frame(self.number(), self.value.len())
            && self.key == micros(self.number()).to_be_bytes()
    }
}

/// Every record of the topic from the beginning, in order within each partition.
pub(crate) fn read_back(brokers: &str, topic: &str) -> Vec<Read> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "ringtap-test")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition.id(), PATIENCE)
            .unwrap();
        assert_eq!(low, 0, "the topic keeps everything");
        left += high;
        list.add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut read = Vec::new();
    while left > 0 {
        let message = consumer.poll(PATIENCE).expect("a record comes").unwrap();
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| {
                    let value = header.value.unwrap_or_default().to_vec();
                    (header.key.to_owned(), value)
                })
                .collect()
        });
        read.push(Read {
            partition: message.partition(),
            key: message.key().expect("no record is without a key").to_vec(),
            value: message.payload().expect("no value is null").to_vec(),
            millis: message.timestamp().to_millis().unwrap(),
            headers,
        });
        left -= 1;
    }
    read
}

/// Panics unless the topic holds every record that was delivered, once, in order within its partition, and
/// intact; none that was counted as not persisted; and what is possibly persisted at most once.
pub(crate) fn check(read: &[Read], total: &Total) {
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    for record in read {
        let number = record.number();
        if let Some(before) = last.insert(record.partition, number) {
            assert_ne!(before, number, "a record is there twice");
            assert!(before < number, "{before} before {number}");
        }
    }
    let seen = times(read);
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "records are there twice: {twice:?}");
    check_fates(&seen, total);
}

/// As [`check`], where sequence numbers are not kept: what is sent again after a lost answer is there twice, and
/// what was sent behind a refused batch before it.
pub(crate) fn check_unsequenced(read: &[Read], total: &Total) {
    check_fates(&times(read), total);
}

/// How often each number is there; panics at a record that is not what was sent.
fn times(read: &[Read]) -> BTreeMap<u64, u32> {
    let mut seen = BTreeMap::new();
    for record in read {
        assert!(record.is_intact(), "{record:?}");
        *seen.entry(record.number()).or_default() += 1;
    }
    seen
}

/// Holds what is stored against the fate of each batch.
fn check_fates(seen: &BTreeMap<u64, u32>, total: &Total) {
    let mut known = 0;
    for (&first, fate) in &total.fates {
        let stored = seen.range(first..first + fate.records).count() as u64;
        let Outcome {
            delivered,
            unconfirmed,
            possibly_persisted,
            ..
        } = fate.outcome;
        let most = delivered + unconfirmed + possibly_persisted;
        assert!(
            (delivered..=most).contains(&stored),
            "of the batch from {first}, {stored} are in the topic: {fate:?}"
        );
        known += stored;
    }
    assert_eq!(known, seen.len() as u64, "records that nobody sent");
}
