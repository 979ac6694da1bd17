//! The native Kafka sink: a batch goes from the worker to the broker without being touched again.
//!
//! The rule: a batch stays in its slot, unchanged, from its first dispatch until its last answer. It is sealed
//! in its own memory and written to the socket from there; only a batch that a broker finds too large is
//! written anew, in pieces, into the one reserve.
//!
//! The path: [`KafkaSink::send`] puts a batch into a slot and gives the slot to a partition; `pump` asks each
//! partition what may go, seals it and queues a request; `kafka::connection` writes head, batch and tail with one
//! vectored write. The answer comes back through `Client::turn` as an event, the partition makes an
//! outcome of it, and the batch goes back to its worker.

mod connect;
mod slots;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use crate::batch::{Batch, Codec, Compressor};
use crate::kafka::client::{Client, Event, Known};
use crate::kafka::counters::ProducerCounters;
use crate::kafka::partition::{Dispatch, Ended, Partition};
use crate::kafka::request::Produce;
use crate::kafka::settings::{Acks, NativeSettings};
use crate::kafka::verdict::{self, Verdict};
use crate::sink::{Finished, Sink, SinkError};

pub use connect::{Cluster, CreateTopic};
use slots::Slots;

/// How many batches may lie here that cannot be sent at once: one follows on an answer without a pause, and
/// all others fill up in the ring meanwhile.
const PARKED: usize = 2;

/// The longest that a broker may ask us to leave it alone; more is a damaged answer.
const LONGEST_THROTTLE: Duration = Duration::from_secs(60);

/// A sink for some partitions of one topic, through connections of its own.
#[derive(Debug)]
pub struct KafkaSink {
    client: Client,
    counters: Arc<ProducerCounters>,
    settings: NativeSettings,
    topic: String,
    partitions: Vec<Partition>,
    slots: Slots,
    /// The largest batch that is offered to a broker, in bytes.
    max_batch: usize,
    /// The partition that the next batch is offered to first.
    next: usize,
    events: Vec<Event>,
    ended: Vec<Ended>,
    done: Vec<Finished>,
    is_idempotent: bool,
    /// Error codes that cost records, said once each.
    told: Vec<i16>,
    /// What the sink cannot go on after.
    broken: Option<SinkError>,
    compressor: Compressor,
}

impl KafkaSink {
    /// A sink for the partitions whose number divided by `share.1` leaves `share.0`.
    fn new(
        settings: NativeSettings,
        share: (usize, usize),
        known: &Known,
        max_batch: usize,
    ) -> io::Result<Self> {
        let counters = Arc::<ProducerCounters>::default();
        let mut sink = Self {
            client: Client::new(settings.terms.clone(), share, known, counters.clone())?,
            counters,
            topic: settings.terms.topic.clone(),
            is_idempotent: settings.is_idempotent,
            partitions: Vec::new(),
            slots: Slots::default(),
            max_batch,
            next: 0,
            events: Vec::new(),
            ended: Vec::new(),
            done: Vec::new(),
            told: Vec::new(),
            broken: None,
            compressor: Compressor::new(Codec::None),
            settings,
        };
        sink.rearrange();
        Ok(sink)
    }

    /// What it counts of its requests and its brokers.
    pub fn counters(&self) -> Arc<ProducerCounters> {
        self.counters.clone()
    }

    /// Compresses each batch with `codec` before it is sent.
    pub fn compress(&mut self, codec: Codec) {
        self.compressor = Compressor::new(codec);
    }

    /// The partition that takes the next batch: each in turn, of those that can send it at once; where none
    /// can, the next.
    fn choose(&self, now: Instant) -> usize {
        let count = self.partitions.len();
        let mut turn = (0..count).map(|step| (self.next + step) % count);
        turn.find(|at| self.is_open(*at, now)).unwrap_or(self.next)
    }

    fn is_open(&self, at: usize, now: Instant) -> bool {
        let partition = &self.partitions[at];
        partition.is_open(&self.settings.patience)
            && partition
                .leader()
                .is_some_and(|node| self.client.is_open(node, now))
    }

    /// Does all that can be done without waiting, and sends what may go.
    fn turn(&mut self, now: Instant) {
        self.client.turn(now, &self.slots, &mut self.events);
        self.hear(now);
        for partition in &mut self.partitions {
            partition.expire(now, &mut self.ended);
        }
        self.settle();
        if self.pump(now) {
            // What was queued just now is written at once.
            self.client.turn(now, &self.slots, &mut self.events);
            self.hear(now);
            self.settle();
        }
    }

    /// Asks every partition what may go, seals it and hands it to the leader's connection.
    fn pump(&mut self, now: Instant) -> bool {
        let mut is_any = false;
        for at in 0..self.partitions.len() {
            let Some(node) = self.partitions[at].leader() else {
                continue;
            };
            if !self.client.is_open(node, now) {
                continue;
            }
            let partition = &mut self.partitions[at];
            if partition.asks_for_id(now) {
                let number = partition.number();
                let is_asked = self.client.ask_producer_id(node, number, now);
                if !is_asked {
                    partition.identify(None, now, &self.settings.patience);
                }
                is_any |= is_asked;
            }
            while let Some(dispatch) =
                self.partitions[at].dispatch(now, &self.settings.patience, self.slots.has_reserve())
            {
                is_any = true;
                if !self.dispatch(at, node, &dispatch, now) {
                    break;
                }
            }
        }
        is_any
    }

    fn dispatch(&mut self, at: usize, node: i32, dispatch: &Dispatch, now: Instant) -> bool {
        let partition = &mut self.partitions[at];
        let slot = dispatch.slot;
        let records = self.slots.seal(dispatch);
        if dispatch.is_retry {
            self.counters.retried.add(dispatch.records.into());
        }
        self.counters.pieces.add(dispatch.piece.is_some().into());
        if records > self.max_batch {
            self.slots.release(slot);
            self.slots.follow(self.max_batch);
            let patience = &self.settings.patience;
            let ended = partition.answer(slot, Verdict::TooLarge, now, patience);
            self.ended.extend(ended);
            return true;
        }
        let request = Produce {
            acks: match self.settings.acks {
                Acks::All => -1,
                Acks::Leader => 1,
                Acks::None => 0,
            },
            timeout_ms: self.settings.replicas_ms,
            partition: partition.number(),
            records,
            // These the client knows.
            version: 0,
            correlation: 0,
            client_id: "",
            topic: "",
            topic_id: Uuid::nil(),
        };
        let is_sent = self.client.produce(node, slot, request, now);
        if !is_sent {
            self.slots.release(slot);
            let ended = partition.lose(slot, false, now, &self.settings.patience);
            self.ended.extend(ended);
        }
        is_sent
    }

    /// Takes every event.
    fn hear(&mut self, now: Instant) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.take(event, now);
        }
        self.events = events;
    }

    fn take(&mut self, event: Event, now: Instant) {
        let patience = self.settings.patience;
        match event {
            Event::Produced { slot, produced } => {
                let verdict = Verdict::of(produced.code);
                self.heed(slot, produced.code, produced.throttle_ms, verdict, now);
                let Some(at) = self.place_of(slot) else {
                    return;
                };
                if verdict == Verdict::TooLarge {
                    self.slots.refuse(slot);
                    self.client.ask_limit(now);
                }
                self.slots.release(slot);
                let ended = self.partitions[at].answer(slot, verdict, now, &patience);
                self.ended.extend(ended);
            }
            Event::Written { slot } => {
                let at = self.place_of(slot);
                self.slots.release(slot);
                let ended = at.and_then(|at| self.partitions[at].written(slot));
                self.ended.extend(ended);
            }
            Event::Lost { slot, whole } => {
                let at = self.place_of(slot);
                self.slots.release(slot);
                let ended = at.and_then(|at| self.partitions[at].lose(slot, whole, now, &patience));
                self.ended.extend(ended);
            }
            Event::ProducerId {
                partition,
                code,
                id,
                epoch,
            } => {
                if code != 0 {
                    self.refuse_id(code);
                }
                let known = (code == 0).then_some((id, epoch));
                if let Some(asked) = self.partition(partition) {
                    asked.identify(known, now, &patience);
                }
            }
            Event::NoProducerId { partition } => {
                if let Some(asked) = self.partition(partition) {
                    asked.identify(None, now, &patience);
                }
            }
            Event::Topology => self.rearrange(),
            Event::TopicRefused(code) => self.tell_topic(code),
            Event::Limit(Some(bytes)) => {
                let told = usize::try_from(bytes).unwrap_or(usize::MAX);
                self.max_batch = self.max_batch.min(told);
                self.slots.follow(self.max_batch);
            }
            Event::Limit(None) | Event::Created(..) => {}
        }
    }

    /// Follows from an error code beside what the partition makes of it.
    fn heed(&mut self, slot: usize, code: i16, throttle_ms: i32, verdict: Verdict, now: Instant) {
        let throttle = Duration::from_millis(u64::try_from(throttle_ms).unwrap_or(0));
        self.counters
            .throttled
            .add(u64::try_from(throttle_ms).unwrap_or(0));
        if !throttle.is_zero()
            && let Some(node) = self
                .place_of(slot)
                .and_then(|at| self.partitions[at].leader())
        {
            self.client
                .quieten(node, now + throttle.min(LONGEST_THROTTLE));
        }
        match verdict {
            Verdict::Stored | Verdict::OutOfOrder => {}
            Verdict::Again | Verdict::Unsure => self.client.refresh(now),
            Verdict::Forbidden => self.refuse_id(code),
            _ => self.tell(code),
        }
    }

    /// Says once that records are lost, and by what; how many, the ledger says.
    fn tell(&mut self, code: i16) {
        if self.told.contains(&code) {
            return;
        }
        self.told.push(code);
        let cause = verdict::name(code);
        tracing::warn!(topic = self.topic, %cause, "the broker refuses records; the ledger counts what is lost");
    }

    fn tell_topic(&mut self, code: i16) {
        if self.told.contains(&code) {
            return;
        }
        self.told.push(code);
        let said = verdict::name(code);
        tracing::warn!(
            topic = self.topic,
            said,
            "the brokers no longer know the topic, or we may not see it"
        );
    }

    /// The broker gives us no producer id: goes on without one, unless the user insists.
    fn refuse_id(&mut self, code: i16) {
        let error = ResponseError::try_from_code(code);
        let is_retriable = error.is_some_and(|error| error.is_retriable());
        if is_retriable || !self.is_idempotent {
            return;
        }
        let said = verdict::name(code);
        if self.settings.asked_for_idempotence {
            self.broken.get_or_insert_with(|| SinkError {
                doing: "asking for a producer id, as enable.idempotence=true needs".to_owned(),
                cause: io::Error::other(said),
            });
            return;
        }
        tracing::warn!(
            topic = self.topic,
            "no producer id ({said}); going on without idempotence: after a fault, records may be stored twice"
        );
        self.is_idempotent = false;
        // A second batch could overtake a first one that is sent again.
        self.settings.patience.in_flight = 1;
        for partition in &mut self.partitions {
            partition.do_without_id();
        }
    }

    /// Takes over who leads what; partitions that are new are written to from here on.
    fn rearrange(&mut self) {
        let owned: Vec<_> = self.client.owned().collect();
        let is_first = self.partitions.is_empty();
        let known = self.partitions.len();
        for &number in owned.iter().skip(known) {
            self.partitions
                .push(Partition::new(number, self.is_idempotent));
        }
        if !is_first && owned.len() > known {
            tracing::info!(
                topic = self.topic,
                partitions = self.client.partitions(),
                "the topic has grown"
            );
        }
        let mut moved = 0;
        for partition in &mut self.partitions {
            let leader = self.client.leader(partition.number());
            moved += usize::from(partition.lead(leader));
        }
        if moved > 0 {
            tracing::info!(
                topic = self.topic,
                partitions = moved,
                "other brokers lead now"
            );
        }
    }

    fn partition(&mut self, number: i32) -> Option<&mut Partition> {
        self.partitions
            .iter_mut()
            .find(|partition| partition.number() == number)
    }

    fn place_of(&self, slot: usize) -> Option<usize> {
        self.slots.place(slot)
    }

    /// Gives back what has come to its end.
    fn settle(&mut self) {
        for Ended { slot, outcome } in self.ended.drain(..) {
            let batch = self.slots.take(slot);
            self.done
                .extend(batch.map(|batch| Finished { batch, outcome }));
        }
    }

    /// When something is due although nothing comes.
    fn due(&self, now: Instant) -> Option<Duration> {
        let due = self.partitions.iter().filter_map(Partition::deadline).min();
        due.map(|at| at.saturating_duration_since(now))
    }
}

impl Sink for KafkaSink {
    fn has_room(&self) -> bool {
        self.slots.parked() < PARKED && !self.partitions.is_empty()
    }

    fn send(&mut self, mut batch: Batch) {
        batch.compress(&mut self.compressor);
        let now = Instant::now();
        let named = batch.partition().and_then(|number| {
            let owned = |partition: &Partition| partition.number() == number;
            self.partitions.iter().position(owned)
        });
        let at = named.unwrap_or_else(|| self.choose(now));
        let records = batch.count();
        let deadline = now + self.settings.patience.delivery;
        let slot = self.slots.put(batch, at);
        self.partitions[at].push(slot, records, deadline);
        self.next = (at + 1) % self.partitions.len();
        self.turn(now);
    }

    fn poll(
        &mut self,
        wake: BorrowedFd<'_>,
        limit: Duration,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError> {
        let now = Instant::now();
        self.turn(now);
        if self.done.is_empty() && self.broken.is_none() {
            let limit = self.due(now).map_or(limit, |due| due.min(limit));
            let wake = self.has_room().then_some(wake);
            self.client
                .wait(wake, limit, now)
                .map_err(|cause| SinkError {
                    doing: "waiting for the brokers".to_owned(),
                    cause,
                })?;
            self.turn(Instant::now());
        }
        finished.append(&mut self.done);
        self.broken.take().map_or(Ok(()), Err)
    }

    fn finish(&mut self, deadline: Instant, finished: &mut Vec<Finished>) -> Result<(), SinkError> {
        let mut result = Ok(());
        loop {
            let now = Instant::now();
            self.turn(now);
            let left = deadline.saturating_duration_since(now);
            let is_done = self.slots.is_empty() && self.client.is_flushed();
            let is_over = is_done || left.is_zero();
            if is_over || result.is_err() || self.broken.is_some() {
                break;
            }
            let limit = self.due(now).map_or(left, |due| due.min(left));
            result = self
                .client
                .wait(None, limit, now)
                .map_err(|cause| SinkError {
                    doing: "waiting for the last answers".to_owned(),
                    cause,
                });
        }
        let whole = self.client.sent_whole();
        for partition in &mut self.partitions {
            partition.give_up(&|slot| !whole.contains(&slot), &mut self.ended);
        }
        self.settle();
        finished.append(&mut self.done);
        result.and(self.broken.take().map_or(Ok(()), Err))
    }
}
