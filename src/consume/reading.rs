//! What becomes of each record, and what is known of the reading as a whole.
//!
//! The rule: every record is read once and is then written, filtered, bad or rejected; an offset is
//! committed only after what came before it is with the reader.

use std::io;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;

use super::decode::Decoder;
use super::output::{Output, Pushed};
use super::stop::Stop;
use super::topic::{Partition, Topic};
use super::{ConsumeError, Options, Summary};
use crate::filter::Filters;
use crate::packet::Timestamp;

/// How often offsets are committed while reading.
const COMMIT: Duration = Duration::from_secs(5);

/// How long a packet may wait in the buffer while more keep coming.
const STALE: Duration = Duration::from_millis(100);

/// The clock is looked at once in so many records.
const LOOK: u64 = 256;

/// A reading under way.
pub(super) struct Reading<'t> {
    topic: &'t Topic,
    options: &'t Options,
    partitions: Vec<Partition>,
    /// Partitions whose end is not reached.
    open: usize,
    decoder: Decoder,
    filter: Option<Filters>,
    output: Output,
    stop: Stop,
    summary: Summary,
    last: Timestamp,
    committed: Instant,
    /// The reader is gone, or takes nothing more.
    closed: bool,
}

impl<'t> Reading<'t> {
    /// A reading of `partitions`, in the order of their numbers.
    pub(super) fn new(
        topic: &'t Topic,
        options: &'t Options,
        partitions: Vec<Partition>,
        filter: Option<Filters>,
        output: Output,
        stop: Stop,
    ) -> Self {
        Self {
            topic,
            options,
            open: partitions
                .iter()
                .filter(|partition| !partition.done)
                .count(),
            partitions,
            decoder: Decoder::new(options.key_time),
            filter,
            output,
            stop,
            summary: Summary::default(),
            last: Timestamp::default(),
            committed: Instant::now(),
            closed: false,
        }
    }

    /// The partitions, and how far each is read.
    pub(super) fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Whether it is to end where the partitions ended when it began.
    pub(super) fn ends(&self) -> bool {
        self.options.exit_at_end
    }

    /// Whether nothing more is wanted, whatever is there.
    pub(super) fn is_over(&self) -> bool {
        self.stop.is_asked() || self.closed || self.is_full()
    }

    /// Whether it is to end at the end, and the last record of every partition was handled.
    pub(super) fn has_ended(&self) -> bool {
        self.ends() && self.open == 0
    }

    fn is_full(&self) -> bool {
        let count = self.options.count;
        count.is_some_and(|count| self.output.taken() >= count)
    }

    /// The time to sort a record by; `None` where it holds no packet.
    pub(super) fn time(&self, record: &BorrowedMessage<'_>) -> Option<Timestamp> {
        self.decoder.time(record)
    }

    /// Notes that a record has come; whether it is the last one that is wanted of its partition.
    pub(super) fn fetched(&mut self, record: &BorrowedMessage<'_>) -> bool {
        let ends = self.ends();
        let partition = self.of(record.partition());
        partition.fetched = record.offset() + 1;
        ends && partition.fetched >= partition.end
    }

    /// Handles one record.
    pub(super) fn take(&mut self, record: &BorrowedMessage<'_>) -> Result<(), ConsumeError> {
        let ends = self.ends();
        let partition = self.of(record.partition());
        let offset = record.offset();
        if ends && offset >= partition.end {
            self.end(record.partition());
            return Ok(());
        }
        partition.fetched = partition.fetched.max(offset + 1);
        partition.next = partition.next.max(offset + 1);
        let ended = partition.next >= partition.end;
        if ended {
            self.end(record.partition());
        }
        self.summary.read += 1;
        self.judge(record)?;
        if self.summary.read.is_multiple_of(LOOK) && self.output.flushed().elapsed() > STALE {
            self.flush()?;
        }
        Ok(())
    }

    fn judge(&mut self, record: &BorrowedMessage<'_>) -> Result<(), ConsumeError> {
        let decoded = match self.decoder.decode(record) {
            Ok(decoded) => decoded,
            Err(bad) => {
                if self.summary.bad == 0 {
                    tracing::warn!(
                        partition = record.partition(),
                        offset = record.offset(),
                        "bad_record: {bad}; others like it are only counted"
                    );
                }
                self.summary.bad += 1;
                return Ok(());
            }
        };
        let packet = &decoded.packet;
        let passes = self.options.window.holds(packet.time)
            && self
                .filter
                .as_mut()
                .is_none_or(|filter| filter.matches(packet));
        if !passes {
            self.summary.filtered += 1;
            return Ok(());
        }
        match self.output.push(&decoded) {
            Pushed::Kept => {}
            Pushed::Full => self.flush()?,
            Pushed::Unfit(unfit) => {
                if self.summary.rejected == 0 {
                    tracing::warn!("rejected: {unfit}; --format pcapng holds every type");
                }
                self.summary.rejected += 1;
                return Ok(());
            }
        }
        self.summary.steps_back += u64::from(packet.time < self.last);
        self.last = packet.time;
        Ok(())
    }

    /// Handles an error or event that came in place of a record.
    pub(super) fn trouble(&mut self, error: KafkaError) -> Result<(), ConsumeError> {
        let (code, fatal) = match error {
            KafkaError::PartitionEOF(number) => {
                self.end(number);
                return Ok(());
            }
            KafkaError::MessageConsumption(code) => (code, false),
            KafkaError::MessageConsumptionFatal(code) => (code, true),
            other => {
                tracing::debug!("{other}");
                return Ok(());
            }
        };
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => self.go_on(),
            Code::GroupAuthorizationFailed if self.topic.group.is_none() => Ok(()),
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition => Err(self.refused(code)),
            _ if fatal => Err(self.refused(code)),
            // librdkafka tries again, and has logged it.
            _ => Ok(()),
        }
    }

    /// Goes on at the oldest record of each partition whose next one is not there any more.
    fn go_on(&mut self) -> Result<(), ConsumeError> {
        for at in 0..self.partitions.len() {
            let Partition {
                number, fetched, ..
            } = self.partitions[at];
            let (low, high) = match self.topic.watermarks(number) {
                Ok(marks) => marks,
                Err(ConsumeError::Interrupted { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            if (low..=high).contains(&fetched) {
                continue;
            }
            if fetched < low {
                self.summary.gone += low.abs_diff(fetched);
            }
            tracing::warn!(
                partition = number,
                "offset {fetched} is gone (retention, or a topic made anew): reading goes on at {low}"
            );
            let partition = &mut self.partitions[at];
            partition.fetched = low;
            partition.next = low;
            if partition.end <= low {
                self.end(number);
            }
        }
        // librdkafka has ceased to fetch, and takes no seek then.
        self.topic.assign(&self.partitions)
    }

    /// To be called while nothing is at hand: flushes, looks after the reader, commits what is due.
    ///
    /// `held` tells the lowest offset of a partition that has come and is not handled.
    pub(super) fn rest(&mut self, held: &dyn Fn(i32) -> Option<i64>) -> Result<(), ConsumeError> {
        self.flush()?;
        self.closed |= self.output.reader_is_gone();
        if self.committed.elapsed() < COMMIT || self.closed {
            return Ok(());
        }
        self.committed = Instant::now();
        let news = self.news(held);
        if !news.is_empty() {
            self.topic.commit(&news)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ConsumeError> {
        let outcome = self.output.flush();
        self.outcome(outcome)
    }

    /// A reader that has seen enough ends the reading, and is no failure.
    fn outcome(&mut self, outcome: io::Result<()>) -> Result<(), ConsumeError> {
        let Err(cause) = outcome else {
            return Ok(());
        };
        match cause.kind() {
            io::ErrorKind::BrokenPipe => {}
            io::ErrorKind::TimedOut => tracing::warn!(
                "the reader of {} stands still: what is left is given up",
                self.output.name()
            ),
            _ => {
                return Err(ConsumeError::Output {
                    name: self.output.name().to_owned(),
                    cause,
                });
            }
        }
        self.closed = true;
        Ok(())
    }

    /// The partitions of which the group is to keep something new. Nothing may be in the buffer.
    fn news(&mut self, held: &dyn Fn(i32) -> Option<i64>) -> Vec<Partition> {
        let mut news = Vec::new();
        if self.topic.group.is_none() {
            return news;
        }
        for partition in &mut self.partitions {
            let lowest = held(partition.number);
            let upto = lowest.map_or(partition.next, |lowest| lowest.min(partition.next));
            if upto != partition.committed {
                partition.committed = upto;
                news.push(*partition);
            }
        }
        news
    }

    /// Writes the end of the output and commits.
    ///
    /// `left` is what has come and was not handled.
    pub(super) fn finish(&mut self, left: &[(i32, i64)]) -> Result<(), ConsumeError> {
        if !self.closed {
            let outcome = self.output.finish();
            self.outcome(outcome)?;
        }
        if self.closed || self.topic.group.is_none() {
            return Ok(());
        }
        self.news(&|number| {
            let found = left.iter().find(|(of, _)| *of == number);
            found.map(|(_, offset)| *offset)
        });
        self.topic.commit_last(&self.partitions, &self.stop)
    }

    /// The sums so far.
    pub(super) fn summary(&self) -> Summary {
        Summary {
            written: self.output.written(),
            unwritten: self.output.taken() - self.output.written(),
            ..self.summary
        }
    }

    fn end(&mut self, number: i32) {
        let partition = self.of(number);
        if !partition.done {
            partition.done = true;
            self.open -= 1;
        }
    }

    fn of(&mut self, number: i32) -> &mut Partition {
        let at = self
            .partitions
            .binary_search_by_key(&number, |partition| partition.number);
        let at = at.expect("only these partitions are assigned");
        &mut self.partitions[at]
    }

    fn refused(&self, code: Code) -> ConsumeError {
        ConsumeError::Refused {
            topic: self.topic.name.clone(),
            code,
        }
    }
}
