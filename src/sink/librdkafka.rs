//! The sink that publishes through librdkafka: Kerberos, OAUTHBEARER, and every setting there is.
//!
//! The rule: a batch lent to librdkafka stays in its slot, untouched, until each of its records is
//! answered. librdkafka copies no payload; it points into the batch.
//!
//! A batch goes to the partition that it says, or to the sink's partitions in turn, one batch each. Where librdkafka's own queue is full, the
//! rest of a batch waits in its slot and goes on when reports come. A fatal error ends a client, not the
//! sink, and so does one that stands still while the cluster answers others: what was sent is waited for,
//! then a new client takes over. It gets what librdkafka says was never sent, and nothing else: what was sent
//! and not answered is counted as possibly persisted, and is in the topic at most once.

mod client;
mod connect;
mod outcome;
mod slot;
mod watchdog;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::batch::Batch;
use crate::kafka::connect::{ClientError, ConnectError};
use crate::kafka::log::Log;
use crate::kafka::settings::ProducerSettings;
use crate::record::{Encoding, RecordTime};
use crate::sink::{Finished, Sink, SinkError};

use client::{Client, Kind, Purge};
pub use connect::Cluster;
use slot::{Ended, Slot};
use watchdog::{Question, STATISTICS, Watchdog};

/// The most batches the sink holds. librdkafka keeps about 190 bytes for each record it was lent; this
/// bounds them, and the rest waits in our ring at no cost.
pub const MAX_BATCHES: usize = 16;

/// Two batches for each partition, one on the wire and one behind it, and this many more.
///
/// What waits inside librdkafka beyond that costs cache and a thread of it that polls without rest: with
/// one partition, 16 batches took 1.5 times the CPU of 4, at the same rate.
const SPARE_BATCHES: usize = 2;

/// How long records in flight may still be answered after their client has ended, before they are given up.
const FATAL_GRACE: Duration = Duration::from_secs(5);

/// A record's time to be delivered where the user wrote none: librdkafka's own.
const DELIVERY: Duration = Duration::from_secs(300);

/// How long purged records may take to be reported before the client is dropped with them.
const PURGE_GRACE: Duration = Duration::from_secs(5);

/// How often a sink in trouble looks again without being woken.
const RETRY: Duration = Duration::from_millis(100);

/// Receives librdkafka's statistics as JSON.
pub type OnStatistics = Box<dyn FnMut(&str) + Send>;

/// A sink for some partitions of one topic, through a librdkafka producer of its own.
pub struct LibrdkafkaSink {
    /// Dropped first: its threads read the batches.
    client: Option<Client>,
    slots: Box<[Option<Slot>]>,
    /// The slots in use, in the order their batches came.
    order: VecDeque<usize>,
    done: Vec<Finished>,
    settings: ProducerSettings,
    topic: String,
    partitions: Vec<i32>,
    next_partition: usize,
    /// How many batches it takes at a time.
    window: usize,
    /// Whether a burst may go by one call: the record's time is now, and there is no header.
    by_burst: bool,
    is_full: bool,
    over: Option<Over>,
    watchdog: Watchdog,
    is_finishing: bool,
    /// What records have been lost by, said once each.
    told: Vec<Code>,
    log: Log,
    on_statistics: Option<OnStatistics>,
    wake: EventFd,
}

/// A client that has ended.
#[derive(Debug)]
struct Over {
    why: Ended,
    since: Instant,
    code: Code,
    said: String,
    purged: Option<Instant>,
}

impl fmt::Debug for LibrdkafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LibrdkafkaSink")
            .field("topic", &self.topic)
            .field("partitions", &self.partitions)
            .field("batches", &self.order.len())
            .finish_non_exhaustive()
    }
}

impl LibrdkafkaSink {
    fn new(
        settings: ProducerSettings,
        topic: &str,
        partitions: Vec<i32>,
        encoding: &Encoding,
        log: Log,
    ) -> Result<Self, ConnectError> {
        assert!(!partitions.is_empty(), "a sink has at least one partition");
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(
            |errno| ClientError {
                said: format!("no eventfd: {errno}"),
            },
        )?;
        let client = Client::new(&client_config(&settings), topic, wake.as_fd())?;
        Ok(Self {
            client: Some(client),
            slots: (0..MAX_BATCHES).map(|_| None).collect(),
            order: VecDeque::with_capacity(MAX_BATCHES),
            done: Vec::with_capacity(MAX_BATCHES),
            over: None,
            watchdog: Watchdog::new(&settings),
            settings,
            topic: topic.to_owned(),
            window: (2 * partitions.len() + SPARE_BATCHES).min(MAX_BATCHES),
            partitions,
            next_partition: 0,
            by_burst: encoding.record_time == RecordTime::Now && !encoding.headers,
            is_full: false,
            is_finishing: false,
            told: Vec::new(),
            log,
            on_statistics: None,
            wake,
        })
    }

    /// Has librdkafka's statistics given to `each`: every five seconds unless `statistics.interval.ms` is
    /// set.
    pub fn on_statistics(&mut self, each: OnStatistics) {
        self.on_statistics = Some(each);
    }

    /// The partitions it fills.
    pub fn partitions(&self) -> &[i32] {
        &self.partitions
    }

    /// The partition whose turn it is.
    fn next_partition(&mut self) -> i32 {
        let partition = self.partitions[self.next_partition];
        self.next_partition = (self.next_partition + 1) % self.partitions.len();
        partition
    }

    /// Hands over what is not librdkafka's yet, batch by batch in the order they came.
    fn hand_over(&mut self) {
        self.is_full = false;
        if self.over.is_some() {
            return;
        }
        let Some(client) = &mut self.client else {
            return;
        };
        for &at in &self.order {
            let slot = self.slots[at].as_mut().expect("a slot in order is in use");
            let stopped = if self.by_burst {
                slot.lend_in_bursts(client, at)
            } else {
                slot.lend_singly(client, at)
            };
            if stopped.is_some() {
                self.is_full = true;
                break;
            }
        }
    }

    /// Takes every report there is.
    fn serve(&mut self) {
        let Some(client) = &self.client else { return };
        let acks = self.settings.acks();
        let may_go_again = !self.is_finishing;
        let mut is_answered = false;
        let mut lost_by = Vec::new();
        while let Some(mut event) = client.next() {
            match event.kind() {
                Kind::Reports => {
                    for report in event.reports() {
                        let slot = self.slots[report.slot]
                            .as_mut()
                            .expect("a record is reported before its slot is emptied");
                        slot.answer(report, acks, may_go_again && self.over.is_some());
                        is_answered |= outcome::is_answer(report);
                        let code = outcome::refusal(report);
                        lost_by.extend(code.filter(|code| !self.told.contains(code)));
                    }
                }
                Kind::Error { code, text } => {
                    self.over = self.over.take().or_else(|| Over::fatal(client));
                    if self.over.is_none() {
                        self.log.write(4, &format!("{code:?}"), &text);
                    }
                }
                Kind::Log {
                    level,
                    facility,
                    text,
                } => self.log.write(level, &facility, &text),
                Kind::Statistics(json) => {
                    self.watchdog.statistics(&json);
                    if let Some(each) = &mut self.on_statistics {
                        each(&json);
                    }
                }
                Kind::Other => {}
            }
        }
        if is_answered {
            self.watchdog.sign();
        }
        for code in lost_by {
            self.tell(code);
        }
        self.collect();
    }

    /// Says once that records are lost, and by what; how many, the ledger says.
    fn tell(&mut self, code: Code) {
        if self.told.contains(&code) {
            return;
        }
        self.told.push(code);
        let topic = &self.topic;
        if code == Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE {
            tracing::warn!(
                topic,
                "the broker refuses record batches as too large; set -X message.max.bytes to the topic's \
                 max.message.bytes"
            );
            return;
        }
        let cause = RDKafkaErrorCode::from(code);
        tracing::warn!(topic, %cause, "records are not delivered; the ledger counts them");
    }

    /// Moves every batch whose records are all answered out of its slot.
    fn collect(&mut self) {
        let (slots, done) = (&mut self.slots, &mut self.done);
        self.order.retain(|&at| {
            if !slots[at].as_ref().is_some_and(Slot::is_done) {
                return true;
            }
            done.extend(slots[at].take().map(Slot::finish));
            false
        });
    }

    /// Whether a record is with librdkafka and not answered.
    fn is_waiting(&self) -> bool {
        self.slots.iter().flatten().any(Slot::is_waiting)
    }

    /// Brings a client that has ended to its end, and makes the next one when nothing of it is left.
    fn recover(&mut self) -> Result<(), SinkError> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        if self.over.is_none() && self.is_full {
            self.over = Over::fatal(client);
        }
        let is_waiting = self.is_waiting();
        if self.over.is_none() {
            self.over = match is_waiting {
                true => self.stall(),
                false => None,
            };
            if !is_waiting {
                self.watchdog.sign();
            }
        }
        let (Some(over), Some(client)) = (&mut self.over, &self.client) else {
            return Ok(());
        };
        if !is_waiting {
            return self.rebuild();
        }
        match over.purged {
            None if over.since.elapsed() > FATAL_GRACE => {
                over.purged = Some(Instant::now());
                client.purge(Purge::All);
            }
            Some(purged) if purged.elapsed() > PURGE_GRACE => return self.rebuild(),
            None | Some(_) => {}
        }
        Ok(())
    }

    /// Ends a client that stands still while the cluster answers others.
    fn stall(&mut self) -> Option<Over> {
        let client = self.client.as_ref()?;
        let question = || Question {
            config: self.settings.client_config(),
            topic: self.topic.clone(),
            partitions: self.partitions.clone(),
            log: self.log.clone(),
        };
        let silent = self.watchdog.stalled(question)?;
        client.purge(Purge::Queue);
        Some(Over {
            why: Ended::Stalled,
            since: Instant::now(),
            code: Code::RD_KAFKA_RESP_ERR__TIMED_OUT,
            said: format!(
                "it has sent nothing for {} s, and the brokers answer others",
                silent.as_secs()
            ),
            purged: None,
        })
    }

    fn rebuild(&mut self) -> Result<(), SinkError> {
        let Some(over) = self.over.take() else {
            return Ok(());
        };
        self.client = None;
        for slot in self.slots.iter_mut().flatten() {
            slot.abandon();
        }
        let is_refused = matches!(
            over.code,
            Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED
                | Code::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE
        );
        if is_refused && self.settings.is_idempotent() {
            self.do_without_idempotence(&over)?;
        } else {
            tracing::error!(
                topic = self.topic,
                "librdkafka's producer is given up: {}; a new one takes over",
                over.said
            );
        }
        let limit = delivery_limit(&self.settings);
        for &at in &self.order {
            let slot = self.slots[at].as_mut().expect("a slot in order is in use");
            slot.renew(over.why, limit);
        }
        self.collect();
        self.watchdog = Watchdog::new(&self.settings);
        let config = client_config(&self.settings);
        let client = Client::new(&config, &self.topic, self.wake.as_fd());
        self.client = Some(client.map_err(|error| SinkError {
            doing: format!("making a new producer for topic {}", self.topic),
            cause: error.into(),
        })?);
        self.hand_over();
        Ok(())
    }

    /// The broker gives us no producer id: goes on without one, unless the user insists.
    fn do_without_idempotence(&mut self, over: &Over) -> Result<(), SinkError> {
        if self.settings.asked_for_idempotence() {
            return Err(SinkError {
                doing: "asking for a producer id, as enable.idempotence=true needs".to_owned(),
                cause: io::Error::other(over.said.clone()),
            });
        }
        tracing::warn!(
            topic = self.topic,
            "no producer id ({}); going on without idempotence: after a fault, records may be stored twice",
            over.said
        );
        let settings = self.settings.clone().without_idempotence();
        self.settings = settings.map_err(|error| SinkError {
            doing: "switching idempotence off".to_owned(),
            cause: io::Error::other(error),
        })?;
        Ok(())
    }

    /// Waits for a report, for `wake` if the sink could take a batch, or for `limit`.
    fn wait(&self, wake: BorrowedFd<'_>, limit: Duration) -> Result<(), SinkError> {
        let is_troubled = self.is_full || self.over.is_some();
        let limit = if is_troubled { limit.min(RETRY) } else { limit };
        let mut fds = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(wake, PollFlags::POLLIN),
        ];
        let watched = if self.has_room() { 2 } else { 1 };
        let limit = TimeSpec::from_duration(limit);
        match ppoll(&mut fds[..watched], Some(limit), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(SinkError {
                doing: "waiting for librdkafka".to_owned(),
                cause: errno.into(),
            }),
        }
    }

    /// Reports, hand-over, recovery: all that can be done without waiting.
    fn turn(&mut self) -> Result<(), SinkError> {
        // An empty eventfd is no error, and a full one cannot be.
        let _ = self.wake.read();
        self.serve();
        self.recover()?;
        if self.is_full {
            self.hand_over();
            self.collect();
        }
        Ok(())
    }

    /// Gives up what is left: purges, and drops the client if it does not report in time.
    fn give_up(&mut self) {
        self.is_finishing = true;
        for slot in self.slots.iter_mut().flatten() {
            slot.give_up_rest();
        }
        self.collect();
        if let Some(client) = &self.client {
            client.purge(Purge::All);
        }
        let end = Instant::now() + PURGE_GRACE;
        while self.is_waiting() && Instant::now() < end {
            self.serve();
            std::thread::sleep(Duration::from_millis(1));
        }
        self.serve();
        self.client = None;
        for slot in self.slots.iter_mut().flatten() {
            slot.abandon();
        }
        self.collect();
    }
}

impl Over {
    /// The fatal error of a client that has one.
    fn fatal(client: &Client) -> Option<Self> {
        let (code, said) = client.fatal()?;
        client.purge(Purge::Queue);
        Some(Self {
            why: Ended::Fatal,
            since: Instant::now(),
            code,
            said,
            purged: None,
        })
    }
}

/// The settings of a client that says what it has sent: the watchdog goes by it.
fn client_config(settings: &ProducerSettings) -> ClientConfig {
    let mut config = settings.client_config();
    if settings.settings().get("statistics.interval.ms").is_none() {
        config.set("statistics.interval.ms", STATISTICS.as_millis().to_string());
    }
    config
}

/// How long a record may be on its way; 0 is for ever.
fn delivery_limit(settings: &ProducerSettings) -> Duration {
    let written = settings.settings().get("message.timeout.ms");
    match written.and_then(|text| text.parse().ok()) {
        Some(0) => Duration::MAX,
        Some(millis) => Duration::from_millis(millis),
        None => DELIVERY,
    }
}

impl Sink for LibrdkafkaSink {
    fn has_room(&self) -> bool {
        self.order.len() < self.window && !self.is_full && self.over.is_none()
    }

    fn send(&mut self, batch: Batch) {
        let free = self.slots.iter().position(Option::is_none);
        let at = free.expect("a batch is sent only where there is room");
        let partition = batch.partition().unwrap_or_else(|| self.next_partition());
        self.slots[at] = Some(Slot::new(batch, partition));
        self.order.push_back(at);
        self.hand_over();
        self.collect();
    }

    fn poll(
        &mut self,
        wake: BorrowedFd<'_>,
        limit: Duration,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError> {
        self.turn()?;
        if self.done.is_empty() {
            self.wait(wake, limit)?;
            self.turn()?;
        }
        finished.append(&mut self.done);
        Ok(())
    }

    fn finish(&mut self, deadline: Instant, finished: &mut Vec<Finished>) -> Result<(), SinkError> {
        let mut result = Ok(());
        while !self.order.is_empty() && result.is_ok() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Some(client) = &self.client {
                client.flush(left.min(RETRY));
            }
            result = self.turn();
        }
        self.give_up();
        finished.append(&mut self.done);
        result
    }
}
