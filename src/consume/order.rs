//! The two orders in which records are handled: as they come, or by packet time across partitions.
//!
//! The rule: memory is bounded whatever the partitions hold. By time, at most [`HELD`] bytes of records
//! are held back over all partitions (1 MiB for each where there are many), and librdkafka fetches as
//! much ahead; a partition that is far ahead of the others is left where it is.
//!
//! A record goes out by time once every partition has either filled its share or reached its end, or once
//! it has been held for [`HOLD`]. Within a share any disorder is mended; a record that comes later than
//! that goes out as soon as it can, and is counted.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;

use super::ConsumeError;
use super::reading::Reading;
use super::topic::{Context, Topic};
use crate::packet::Timestamp;

/// How long to wait for a record before signals and the reader are looked after again.
const TICK: Duration = Duration::from_millis(100);

/// Bytes of records that are held back to be sorted, over all partitions.
const HELD: usize = 64 << 20;

/// Kilobytes of each partition that librdkafka fetches ahead: several answers of a broker.
pub(super) const PREFETCH: u32 = 8 << 10;

/// The least share of one partition.
const LEAST_SHARE: usize = 1 << 20;

/// What librdkafka and the heap need for a record beyond its value.
const OVERHEAD: usize = 512;

/// How long a live record waits for earlier ones of other partitions: many times a sensor's linger
/// (50 ms), and still a person's patience.
const HOLD: Duration = Duration::from_secs(1);

/// The lowest offset of each partition that has come and was not handled.
pub(super) type Left = Vec<(i32, i64)>;

/// Handles records as they come, until the reading is over.
pub(super) fn as_they_come(topic: &Topic, reading: &mut Reading<'_>) -> Result<Left, ConsumeError> {
    while !reading.is_over() && !reading.has_ended() {
        let mut found = topic.consumer.poll(Duration::ZERO);
        if found.is_none() {
            reading.rest(&|_| None)?;
            found = topic.consumer.poll(TICK);
        }
        match found {
            None => {}
            Some(Ok(record)) => reading.take(&record)?,
            Some(Err(error)) => reading.trouble(error)?,
        }
    }
    Ok(Left::new())
}

fn share(partitions: usize) -> usize {
    (HELD / partitions.max(1)).max(LEAST_SHARE)
}

/// Handles records by packet time, until the reading is over. `queues` are those of its partitions.
pub(super) fn by_time(
    topic: &Topic,
    queues: &mut [PartitionQueue<Context>],
    reading: &mut Reading<'_>,
) -> Result<Left, ConsumeError> {
    let sorter = thread::current();
    for queue in &mut *queues {
        let sorter = sorter.clone();
        queue.set_nonempty_callback(move || sorter.unpark());
    }
    let feeds: Vec<_> = reading
        .partitions()
        .iter()
        .map(|partition| Feed {
            number: partition.number,
            held: 0,
            ended: reading.ends() && partition.done,
        })
        .collect();
    let mut merge = Merge {
        share: share(feeds.len()),
        feeds,
        heap: BinaryHeap::new(),
    };
    while !reading.is_over() && !merge.is_over(reading) {
        let mut moved = merge.stray(topic, reading)?;
        for (at, queue) in queues.iter().enumerate() {
            moved |= merge.fill(at, queue, reading)?;
        }
        moved |= merge.drain(reading)?;
        if !moved {
            reading.rest(&|number| merge.lowest(number))?;
            thread::park_timeout(TICK);
        }
    }
    let lowest = |feed: &Feed| Some((feed.number, merge.lowest(feed.number)?));
    Ok(merge.feeds.iter().filter_map(lowest).collect())
}

/// One partition on its way into the heap.
#[derive(Debug)]
struct Feed {
    number: i32,
    /// Bytes that are held of it.
    held: usize,
    /// Whether nothing more of it is wanted.
    ended: bool,
}

/// A record that waits for its turn.
struct Held<'a> {
    time: Timestamp,
    partition: i32,
    offset: i64,
    feed: usize,
    since: Instant,
    record: BorrowedMessage<'a>,
}

impl Held<'_> {
    fn rank(&self) -> (Timestamp, i32, i64) {
        (self.time, self.partition, self.offset)
    }

    fn size(&self) -> usize {
        self.record.payload_len() + OVERHEAD
    }
}

impl PartialEq for Held<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Held<'_> {}

impl PartialOrd for Held<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held<'_> {
    /// The earliest is the greatest, since the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.rank().cmp(&self.rank())
    }
}

/// Records of all partitions, the earliest first.
struct Merge<'a> {
    feeds: Vec<Feed>,
    share: usize,
    heap: BinaryHeap<Held<'a>>,
}

impl<'a> Merge<'a> {
    fn is_over(&self, reading: &Reading<'_>) -> bool {
        reading.ends() && self.heap.is_empty() && self.feeds.iter().all(|feed| feed.ended)
    }

    /// The lowest offset that is held of a partition.
    fn lowest(&self, number: i32) -> Option<i64> {
        let of_it = self.heap.iter().filter(|held| held.partition == number);
        of_it.map(|held| held.offset).min()
    }

    /// Serves the consumer's own queue, which brings errors and, where librdkafka has it so, a record.
    fn stray(&mut self, topic: &'a Topic, reading: &mut Reading<'_>) -> Result<bool, ConsumeError> {
        match topic.consumer.poll(Duration::ZERO) {
            None => Ok(false),
            Some(Ok(record)) => {
                let number = record.partition();
                let feed = self.feeds.iter().position(|feed| feed.number == number);
                if let Some(at) = feed {
                    self.hold(at, record, reading)?;
                }
                Ok(true)
            }
            Some(Err(error)) => self.trouble(error, reading).map(|()| true),
        }
    }

    /// Takes what is at hand of one partition, up to its share; whether there was something.
    fn fill(
        &mut self,
        at: usize,
        queue: &'a PartitionQueue<Context>,
        reading: &mut Reading<'_>,
    ) -> Result<bool, ConsumeError> {
        let mut moved = false;
        while self.feeds[at].held < self.share && !self.feeds[at].ended {
            match queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(record)) => self.hold(at, record, reading)?,
                Some(Err(error)) => self.trouble(error, reading)?,
            }
            moved = true;
        }
        Ok(moved)
    }

    fn hold(
        &mut self,
        at: usize,
        record: BorrowedMessage<'a>,
        reading: &mut Reading<'_>,
    ) -> Result<(), ConsumeError> {
        if reading.fetched(&record) {
            self.feeds[at].ended = true;
        }
        // What holds no packet has no place in time; it is counted at once.
        let Some(time) = reading.time(&record) else {
            return reading.take(&record);
        };
        let held = Held {
            time,
            partition: record.partition(),
            offset: record.offset(),
            feed: at,
            since: Instant::now(),
            record,
        };
        self.feeds[at].held += held.size();
        self.heap.push(held);
        Ok(())
    }

    fn trouble(
        &mut self,
        error: KafkaError,
        reading: &mut Reading<'_>,
    ) -> Result<(), ConsumeError> {
        if let KafkaError::PartitionEOF(number) = error {
            let feed = self.feeds.iter_mut().find(|feed| feed.number == number);
            if let Some(feed) = feed.filter(|_| reading.ends()) {
                feed.ended = true;
            }
            return Ok(());
        }
        reading.trouble(error)
    }

    /// Handles every record whose turn has come; whether there was one.
    fn drain(&mut self, reading: &mut Reading<'_>) -> Result<bool, ConsumeError> {
        let mut moved = false;
        let now = Instant::now();
        while let Some(first) = self.heap.peek() {
            let old = !reading.ends() && now.duration_since(first.since) >= HOLD;
            if !old && !self.is_settled() {
                break;
            }
            let held = self.heap.pop().expect("the heap has a first record");
            self.feeds[held.feed].held -= held.size();
            reading.take(&held.record)?;
            moved = true;
            if reading.is_over() {
                break;
            }
        }
        Ok(moved)
    }

    /// Whether no partition can still bring a record that is earlier than the first one.
    fn is_settled(&self) -> bool {
        let mut feeds = self.feeds.iter();
        feeds.all(|feed| feed.ended || feed.held >= self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together_and_from_below() {
        assert_eq!(share(1), HELD);
        assert_eq!(share(4) * 4, HELD);
        assert_eq!(share(1_000), LEAST_SHARE);
    }
}
