//! The topic that is read: its partitions, from which offset to which, and what is committed for a group.
//!
//! The rule: partitions are assigned by hand and offsets are settled before the first fetch. A group only
//! keeps offsets; nobody is ever rebalanced, and no reader waits for another.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::position::Start;
use super::stop::Stop;
use super::{ConsumeError, Options};
use crate::kafka::Settings;
use crate::kafka::ask::{Asks, Said, aside, first_answer, is_passing, refused};
use crate::kafka::connect::ConnectError;

/// How long the brokers may take for their first answer, and for each question after it.
const ANSWER: Duration = Duration::from_secs(15);

/// How long the last commit may take.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// How often a stop is looked for meanwhile.
const TICK: Duration = Duration::from_millis(100);

/// The group that is named where the user names none. Nothing is ever committed for it.
const NO_GROUP: &str = "ringtap-consume";

/// What is set unless the user wrote something else, with the reason.
const DEFAULTS: [(&str, &str); 4] = [
    ("group.id", NO_GROUP),
    // A batch that was damaged on the way is not taken for packets.
    ("check.crcs", "true"),
    // The default waits a second when the queue was full, and a backlog is read in bursts of silence.
    ("fetch.queue.backoff.ms", "10"),
    ("socket.keepalive.enable", "true"),
];

/// What is not the user's to set, with the reason.
const OWNED: [(&str, &str); 4] = [
    // Offsets are committed here, after what was read is written out.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Offsets that are gone are named, not skipped over.
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
];

/// What the consumer's threads tell.
#[derive(Clone, Default)]
pub(super) struct Context(Said);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ConsumerContext for Context {}

impl Asks for BaseConsumer<Context> {
    fn ask(&self, topic: &str, limit: Duration) -> KafkaResult<Metadata> {
        self.fetch_metadata(Some(topic), limit)
    }

    fn serve(&self, limit: Duration) {
        let _ = self.poll(limit);
    }
}

/// One partition that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// Its number.
    pub number: i32,
    /// The offset after the last record that was handed to us.
    pub fetched: i64,
    /// The offset after the last record that was handled.
    pub next: i64,
    /// The offset that ended it when reading began.
    pub end: i64,
    /// Whether its end was reached, where reading is to end there.
    pub done: bool,
    /// What was committed last; -1 where nothing was.
    pub committed: i64,
}

/// A topic that answers.
pub(super) struct Topic {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) name: String,
    /// How many partitions it has.
    count: i32,
    /// The group that offsets are committed for.
    pub(super) group: Option<String>,
}

impl Topic {
    /// Connects and looks the topic up. Waits for at most fifteen seconds.
    pub(super) fn open(options: &Options, prefetch: Option<u32>) -> Result<Self, ConsumeError> {
        let settings = &options.settings;
        let group = settings.get("group.id").map(str::to_owned);
        let mut config = settings.consumer()?;
        for (key, value) in DEFAULTS {
            if settings.get(key).is_none() {
                config.set(key, value);
            }
        }
        if let Some(kbytes) = prefetch
            && settings.get("queued.max.messages.kbytes").is_none()
        {
            config.set("queued.max.messages.kbytes", kbytes.to_string());
        }
        for (key, value) in OWNED {
            config.set(key, value);
        }
        if settings.get("debug").is_some() {
            config.set_log_level(RDKafkaLogLevel::Debug);
        }
        let context = Context::default();
        let consumer = BaseConsumer::from_config_and_context(&config, context.clone())
            .map_err(|error| ConnectError::Client(refused(&error)))?;
        let consumer = Arc::new(consumer);
        let written = settings.brokers()?;
        let creates = settings.get("allow.auto.create.topics") == Some("true");
        let topic = &options.topic;
        let answer = first_answer(&consumer, &context.0, topic, &written, ANSWER, creates)?;
        let found = answer.topics().iter().find(|found| found.name() == topic);
        let count = found.map_or(0, |found| found.partitions().len());
        Ok(Self {
            consumer,
            name: options.topic.clone(),
            count: i32::try_from(count).unwrap_or(i32::MAX),
            group: group.filter(|_| !options.anonymous),
        })
    }

    /// Settles where each of `wanted`, or of all partitions, begins and ends.
    pub(super) fn positions(
        &self,
        wanted: Option<&[i32]>,
        start: Start,
        settings: &Settings,
    ) -> Result<Vec<Partition>, ConsumeError> {
        let count = self.count;
        let numbers = match wanted {
            None => (0..count).collect(),
            Some(wanted) => wanted.to_vec(),
        };
        if let Some(partition) = numbers.iter().find(|number| **number >= count) {
            return Err(ConsumeError::NoPartition {
                topic: self.name.clone(),
                partition: *partition,
                count,
            });
        }
        let mut partitions = Vec::new();
        let mut oldest = Vec::new();
        for number in numbers {
            let (low, high) = self.watermarks(number)?;
            oldest.push(low);
            partitions.push(Partition {
                number,
                fetched: high,
                next: high,
                end: high,
                done: false,
                committed: -1,
            });
        }
        match start {
            Start::End => {}
            Start::Begin => set(&mut partitions, &oldest),
            Start::Offset(offset) => self.at_offset(&mut partitions, &oldest, |_| Some(offset)),
            Start::Time(time) => {
                let found = self.first_since(&partitions, time.millis())?;
                self.at_offset(&mut partitions, &oldest, |at| found[at]);
            }
            Start::Stored => {
                let stored = self.stored(&partitions)?;
                let from_end = settings
                    .get("auto.offset.reset")
                    .is_some_and(|policy| ["latest", "largest", "end"].contains(&policy));
                for (at, partition) in partitions.iter_mut().enumerate() {
                    partition.committed = stored[at].unwrap_or(-1);
                }
                let high: Vec<_> = partitions.iter().map(|partition| partition.end).collect();
                self.at_offset(&mut partitions, &oldest, |at| {
                    stored[at].or(Some(if from_end { high[at] } else { oldest[at] }))
                });
            }
        }
        for partition in &mut partitions {
            partition.fetched = partition.next;
            partition.done = partition.next >= partition.end;
        }
        Ok(partitions)
    }

    /// Begins to fetch, or begins anew: what was fetched ahead is let go.
    pub(super) fn assign(&self, partitions: &[Partition]) -> Result<(), ConsumeError> {
        let list = self.list(partitions, |partition| partition.fetched)?;
        let doing = || format!("assigning the partitions of topic {}", self.name);
        self.consumer
            .assign(&list)
            .map_err(|cause| self.asking(doing(), cause))
    }

    /// A queue for each partition, in their order.
    ///
    /// Made before [`assign`](Self::assign), no record goes past it, and it stays when they are assigned
    /// anew (`rd_kafka_toppar_fetch_start` leaves alone what the application has forwarded).
    pub(super) fn split(&self, partitions: &[Partition]) -> Vec<PartitionQueue<Context>> {
        partitions
            .iter()
            .map(|partition| {
                self.consumer
                    .split_partition_queue(&self.name, partition.number)
                    .expect("the topic has this partition")
            })
            .collect()
    }

    /// The oldest offset of a partition, and the one after its newest record.
    pub(super) fn watermarks(&self, partition: i32) -> Result<(i64, i64), ConsumeError> {
        let name = self.name.clone();
        let doing = format!("asking for the offsets of topic {name}, partition {partition}");
        self.ask(doing, move |consumer, limit| {
            consumer.fetch_watermarks(&name, partition, limit)
        })
    }

    /// Has the group keep what is `committed` of `offsets`, in the background.
    ///
    /// What goes wrong with it shows at the last one.
    pub(super) fn commit(&self, offsets: &[Partition]) -> Result<(), ConsumeError> {
        let list = self.list(offsets, |partition| partition.committed)?;
        self.consumer
            .commit(&list, CommitMode::Async)
            .map_err(|cause| self.not_committed(cause))
    }

    /// Has the group keep it, and waits for the answer: for at most ten seconds, and not on when the stop
    /// is urgent.
    pub(super) fn commit_last(
        &self,
        offsets: &[Partition],
        stop: &Stop,
    ) -> Result<(), ConsumeError> {
        let list = self.list(offsets, |partition| partition.committed)?;
        let consumer = self.consumer.clone();
        let (answer, answered) = mpsc::channel();
        thread::spawn(move || answer.send(consumer.commit(&list, CommitMode::Sync)));
        let end = Instant::now() + LAST_COMMIT;
        while Instant::now() < end && !stop.is_urgent() {
            match answered.recv_timeout(TICK) {
                Ok(outcome) => return outcome.map_err(|cause| self.not_committed(cause)),
                Err(_) => continue,
            }
        }
        let unanswered = KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut);
        Err(self.not_committed(unanswered))
    }

    /// Begins each partition at the offset that `wanted` names by its place, or at its end; where that is
    /// outside of what there is, at the nearest record.
    fn at_offset(
        &self,
        partitions: &mut [Partition],
        oldest: &[i64],
        wanted: impl Fn(usize) -> Option<i64>,
    ) {
        for (at, partition) in partitions.iter_mut().enumerate() {
            let wanted = wanted(at).unwrap_or(partition.end);
            partition.next = wanted.max(oldest[at]).min(partition.end);
            if partition.next != wanted {
                tracing::warn!(
                    topic = self.name,
                    partition = partition.number,
                    "offset {wanted} is not there: the partition has {} to {}; reading begins at {}",
                    oldest[at],
                    partition.end,
                    partition.next
                );
            }
        }
    }

    /// The first offset of each partition whose record is of this time, in ms, or later.
    fn first_since(
        &self,
        partitions: &[Partition],
        millis: u64,
    ) -> Result<Vec<Option<i64>>, ConsumeError> {
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        let list = self.list(partitions, |_| millis)?;
        let doing = format!("looking for a time in topic {}", self.name);
        let found = self.ask(doing, move |consumer, limit| {
            whole(consumer.offsets_for_times(list.clone(), limit)?)
        })?;
        Ok(self.offsets(&found, partitions))
    }

    fn stored(&self, partitions: &[Partition]) -> Result<Vec<Option<i64>>, ConsumeError> {
        let list = self.list(partitions, |_| 0)?;
        let group = self.group.as_deref().unwrap_or_default();
        let doing = format!("asking for the offsets that group {group} stored");
        let found = self.ask(doing, move |consumer, limit| {
            whole(consumer.committed_offsets(list.clone(), limit)?)
        })?;
        Ok(self.offsets(&found, partitions))
    }

    fn offsets(&self, list: &TopicPartitionList, partitions: &[Partition]) -> Vec<Option<i64>> {
        let offset = |partition: &Partition| {
            let found = list.find_partition(&self.name, partition.number)?;
            match found.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            }
        };
        partitions.iter().map(offset).collect()
    }

    fn list(
        &self,
        partitions: &[Partition],
        offset: impl Fn(&Partition) -> i64,
    ) -> Result<TopicPartitionList, ConsumeError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            let at = Offset::Offset(offset(partition));
            list.add_partition_offset(&self.name, partition.number, at)
                .map_err(|cause| self.asking("listing partitions".to_owned(), cause))?;
        }
        Ok(list)
    }

    /// Asks until there is an answer: what a broker says that was just started passes.
    ///
    /// Waits for at most fifteen seconds; a signal ends it at once.
    fn ask<A: Send + 'static>(
        &self,
        doing: String,
        question: impl Fn(&BaseConsumer<Context>, Duration) -> KafkaResult<A> + Send + Sync + 'static,
    ) -> Result<A, ConsumeError> {
        let end = Instant::now() + ANSWER;
        let question = Arc::new(question);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (consumer, asked) = (self.consumer.clone(), question.clone());
            match aside(move || asked(&consumer, left)) {
                None => return Err(ConsumeError::Interrupted { doing }),
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(cause)) if is_passing(&cause) && Instant::now() + TICK < end => {
                    tracing::debug!("{doing}: {cause}; asking again");
                    thread::sleep(TICK);
                }
                Some(Err(cause)) => return Err(self.asking(doing, cause)),
            }
        }
    }

    fn asking(&self, doing: String, cause: KafkaError) -> ConsumeError {
        ConsumeError::Asking { doing, cause }
    }

    fn not_committed(&self, cause: KafkaError) -> ConsumeError {
        ConsumeError::Commit {
            group: self.group.clone().unwrap_or_default(),
            cause,
        }
    }
}

/// The list, unless a partition of it bears an error.
fn whole(list: TopicPartitionList) -> KafkaResult<TopicPartitionList> {
    for element in list.elements() {
        element.error()?;
    }
    Ok(list)
}

fn set(partitions: &mut [Partition], offsets: &[i64]) {
    for (partition, offset) in partitions.iter_mut().zip(offsets) {
        partition.next = *offset;
    }
}
