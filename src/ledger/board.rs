//! The register of everything that counts, shared by all threads.
//!
//! The rule: it is locked only to add to it and to read it, never on the packet path. What counts
//! is behind an `Arc` and written by its one thread.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::counters::{PublisherCounters, QueueCounters, QueueState};
use crate::format::write::InterfaceTotals;
use crate::histogram::Histogram;
use crate::kafka::counters::ProducerCounters;
use crate::packet::Timestamp;
use crate::xdp::Attach;

/// How packets are taken from an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// AF_XDP.
    Xdp,
    /// libpcap.
    Pcap,
    /// Read from a capture file.
    File,
    /// Made in memory.
    Synthetic,
}

impl Mode {
    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Pcap => "pcap",
            Self::File => "file",
            Self::Synthetic => "synthetic",
        }
    }
}

/// The kind of sink that a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// The native Kafka producer.
    Kafka,
    /// Kafka through librdkafka.
    Librdkafka,
    /// A capture file.
    File,
    /// Nothing is kept.
    Discard,
}

impl SinkKind {
    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Librdkafka => "librdkafka",
            Self::File => "file",
            Self::Discard => "discard",
        }
    }
}

/// An interface, or a file or other input in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceEntry {
    /// The device's name, the file's path, or `synthetic`.
    pub name: String,
    /// How packets are taken from it.
    pub mode: Mode,
    /// Whether AF_XDP runs without the kernel copying packets.
    pub zero_copy: bool,
    /// Where the XDP program runs; nowhere without AF_XDP.
    pub attach: Option<Attach>,
}

/// A queue and the worker that serves it.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    /// Its interface, as [`Board::add_interface`] numbered it.
    pub interface: usize,
    /// Its number on the interface.
    pub queue: u32,
    /// The number of its worker.
    pub worker: usize,
    /// The core its worker is pinned to.
    pub cpu: Option<usize>,
    /// The most packets between kernel and worker: the RX ring's size; elsewhere the longest burst.
    pub ring: u64,
    /// The most records that all batches of the worker hold together; an upper bound will do.
    pub records: u64,
    /// What its worker and source count.
    pub counters: Arc<QueueCounters>,
    /// Arrival to batch.
    pub latency: Histogram,
}

/// A publisher.
#[derive(Clone, Debug)]
pub struct PublisherEntry {
    /// What it counts.
    pub counters: Arc<PublisherCounters>,
    /// Batch to acknowledgement.
    pub latency: Histogram,
}

/// Something that should move: its name, whether it is expected to, and what it counts while it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// Its name for people.
    pub(crate) name: String,
    /// Whether it is expected to move.
    pub(crate) is_due: bool,
    /// What it counts.
    pub(crate) beats: u64,
}

/// The register; cheap to clone.
#[derive(Clone, Debug)]
pub struct Board(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: SystemTime,
    clock: Instant,
    sink: SinkKind,
    destination: OnceLock<String>,
    attached: AtomicBool,
    connected: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) interfaces: Vec<(InterfaceEntry, Option<Driver>)>,
    pub(crate) queues: Vec<QueueEntry>,
    pub(crate) publishers: Vec<PublisherEntry>,
    pub(crate) producers: Vec<Arc<ProducerCounters>>,
}

impl Entries {
    /// A queue's name for people.
    pub(crate) fn label(&self, queue: &QueueEntry) -> String {
        let interface = self.interfaces.get(queue.interface);
        let name = interface.map_or("?", |(entry, _)| entry.name.as_str());
        format!("{name} queue {}", queue.queue)
    }
}

impl Board {
    /// An empty register of a run that starts now and writes to `destination` (a topic, a path; may
    /// be empty).
    pub fn new(sink: SinkKind, destination: &str) -> Self {
        Self(Arc::new(Shared {
            started: SystemTime::now(),
            clock: Instant::now(),
            sink,
            destination: match destination {
                "" => OnceLock::new(),
                known => OnceLock::from(known.to_owned()),
            },
            attached: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            entries: Mutex::default(),
        }))
    }

    /// Adds an interface and returns its number. The driver's figures count from here on.
    pub fn add_interface(&self, entry: InterfaceEntry) -> usize {
        let live = matches!(entry.mode, Mode::Xdp | Mode::Pcap);
        let driver = live.then(|| Driver::read(&entry.name)).flatten();
        let mut entries = self.entries();
        entries.interfaces.push((entry, driver));
        entries.interfaces.len() - 1
    }

    /// Replaces what is known of an interface: the mode it came up in.
    ///
    /// Panics where `add_interface` never returned `number`.
    pub fn set_interface(&self, number: usize, entry: InterfaceEntry) {
        self.entries().interfaces[number].0 = entry;
    }

    /// Adds a queue.
    pub fn add_queue(&self, entry: QueueEntry) {
        self.entries().queues.push(entry);
    }

    /// Adds a publisher.
    pub fn add_publisher(&self, entry: PublisherEntry) {
        self.entries().publishers.push(entry);
    }

    /// Adds what a native sink counts of its requests and its brokers.
    pub fn add_producer(&self, counters: Arc<ProducerCounters>) {
        self.entries().producers.push(counters);
    }

    /// Says whether packets are being taken; for `/readyz`.
    pub fn set_attached(&self, attached: bool) {
        self.0.attached.store(attached, Ordering::Release);
    }

    /// Says where is written to, unless it is known already.
    pub fn set_destination(&self, destination: &str) {
        let _ = self.0.destination.set(destination.to_owned());
    }

    /// Says whether the sink is connected; for `/readyz`.
    pub fn set_connected(&self, connected: bool) {
        self.0.connected.store(connected, Ordering::Release);
    }

    /// Whether packets are being taken.
    pub fn is_attached(&self) -> bool {
        self.0.attached.load(Ordering::Acquire)
    }

    /// Whether the sink is connected.
    pub fn is_connected(&self) -> bool {
        self.0.connected.load(Ordering::Acquire)
    }

    /// What an Interface Statistics Block says of the interface of this name, over all its queues.
    pub(crate) fn interface_totals(&self, name: &str) -> InterfaceTotals {
        let entries = self.entries();
        let sum = |count: fn(&QueueCounters) -> u64| {
            let of_name = |queue: &&QueueEntry| {
                entries
                    .interfaces
                    .get(queue.interface)
                    .is_some_and(|(entry, _)| entry.name == name)
            };
            entries
                .queues
                .iter()
                .filter(of_name)
                .map(|queue| count(&queue.counters))
                .sum::<u64>()
        };
        let dropped = sum(|queue| {
            queue.rx_dropped.get() + queue.rx_ring_full.get() + queue.pcap_dropped.get()
        });
        let received = sum(|queue| queue.received.get());
        let start = self
            .started()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        InterfaceTotals {
            start: Some(Timestamp::from_nanos(
                u64::try_from(start.as_nanos()).unwrap_or(u64::MAX),
            )),
            end: Some(Timestamp::now()),
            received: Some(received + dropped),
            interface_dropped: Some(sum(|queue| queue.pcap_if_dropped.get())),
            accepted: Some(sum(|queue| queue.batched.get()) + dropped),
            system_dropped: Some(dropped),
            delivered: Some(received),
        }
    }

    /// The turns of every worker; one that has ended is not expected to turn.
    pub(crate) fn turns(&self) -> Vec<Pulse> {
        let entries = self.entries();
        let turns = entries.queues.iter().map(|queue| Pulse {
            name: entries.label(queue),
            is_due: !matches!(
                queue.counters.state(),
                QueueState::Starting | QueueState::Ended | QueueState::Gone
            ),
            beats: queue.counters.turns.get(),
        });
        turns.collect()
    }

    /// The answers of every sink; one that owes none is not expected to answer.
    pub(crate) fn answers(&self) -> Vec<Pulse> {
        let entries = self.entries();
        let publishers = entries.publishers.iter().enumerate();
        let answers = publishers.map(|(number, publisher)| Pulse {
            name: format!("publisher {number}"),
            is_due: publisher.counters.in_flight.get() > 0,
            beats: publisher.counters.answers(),
        });
        answers.collect()
    }

    pub(crate) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn started(&self) -> SystemTime {
        self.0.started
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.0.clock.elapsed().as_secs_f64()
    }

    pub(crate) fn sink(&self) -> (SinkKind, &str) {
        let destination = self.0.destination.get();
        (self.0.sink, destination.map_or("", String::as_str))
    }
}

/// What the driver counts on an interface; advisory, as each driver counts.
///
/// Source: `Documentation/ABI/testing/sysfs-class-net-statistics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// `rx_packets`: packets it received.
    pub received: u64,
    /// `rx_missed_errors`: packets the hardware had no room for.
    pub missed: u64,
}

impl Driver {
    /// Reads the figures of `interface` in this network namespace.
    pub(crate) fn read(interface: &str) -> Option<Self> {
        let figure = |name| {
            let path = format!("/sys/class/net/{interface}/statistics/{name}");
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Some(Self {
            received: figure("rx_packets")?,
            missed: figure("rx_missed_errors")?,
        })
    }

    /// What was counted since `start`.
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            received: self.received.wrapping_sub(start.received),
            missed: self.missed.wrapping_sub(start.missed),
        }
    }
}
