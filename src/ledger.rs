//! The ledger: where every frame went, and whether the sums are right.
//!
//! The rule: it only reads. It is built from the [`Board`] by reading each counter downstream
//! first, it evaluates the equations, and it is never corrected: what does not add up is shown.
//!
//! `seen = delivered + unconfirmed + failed + dropped + aside` holds after a drain; the equations
//! of `equations` say between which two points a frame is missing where it does not.

mod board;
mod equations;
mod file;
mod process;
mod reading;
mod snapshot;
mod table;

use serde::{Serialize, Serializer};

use crate::counters::QueueState;
use crate::histogram::Quantiles;
use crate::kafka::counters::ProducerReading;

pub use crate::xdp::Attach;
pub(crate) use board::Pulse;
pub use board::{Board, Driver, InterfaceEntry, Mode, PublisherEntry, QueueEntry, SinkKind};
pub use equations::Equation;
pub use file::LedgerError;
pub use process::CpuSeconds;
pub use reading::{Counts, PublisherReading, QueueReading};
pub(crate) use table::number;

/// Whether packets may still be on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The sensor runs: what an equation leaves over may be as much as the queues hold.
    Running,
    /// Everything was drained and every thread has ended: it must be 0.
    Drained,
}

/// Whether a finished run delivered all that it received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitClass {
    /// It did; exit code 0.
    Clean,
    /// Records were left over, failed, or are in no place; exit code 4.
    LeftOver,
}

/// Everything that was counted, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// ringtap's version.
    pub version: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// When the run began, RFC 3339, UTC.
    pub started: String,
    /// When this was read, RFC 3339, UTC.
    pub ended: String,
    /// Seconds between the two.
    pub seconds: f64,
    /// Whether packets were still on their way.
    pub phase: Phase,
    /// The exit code of the run, once it is known.
    pub exit_code: Option<u8>,
    /// Whether every equation holds.
    pub balanced: bool,
    /// Packets that are in no place: the sum of what equations leave over beyond their limits.
    pub unaccounted: u64,
    /// The sums along the path.
    pub total: Totals,
    /// Packets lost before the sink and packets shed, by reason.
    pub dropped: Counts,
    /// Records the sink could not store.
    pub failed: Failures,
    /// Packets that were not to be captured: filtered, over the count, on a queue not ours.
    pub aside: Counts,
    /// Packets that are counted elsewhere too: cut, clamped in time, out of order.
    pub remarks: Counts,
    /// The kind of sink.
    pub sink: SinkKind,
    /// Where it writes to.
    pub destination: String,
    /// The interfaces, files or other inputs.
    pub interfaces: Vec<InterfaceLine>,
    /// The queues.
    pub queues: Vec<QueueLine>,
    /// The publishers.
    pub publishers: Vec<PublisherReading>,
    /// What the native producer counts of its requests and its brokers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<ProducerReading>,
    /// The equations, with what each leaves over.
    pub equations: Vec<Equation>,
    /// Processor time used.
    pub cpu_seconds: CpuSeconds,
    /// Resident memory.
    pub memory_bytes: u64,
    /// How long packets took.
    pub latency_ns: Latency,
}

/// The sums along the path, in packets; each but `seen` is counted as such and then summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Frames the XDP program saw; elsewhere received, and dropped as libpcap reports.
    pub seen: u64,
    /// Packets that sources offered to workers.
    pub received: u64,
    /// Packets written to batches.
    pub batched: u64,
    /// Records taken by publishers.
    pub published: u64,
    /// Records the sink's store has confirmed.
    pub delivered: u64,
    /// Records sent with no answer asked for.
    pub unconfirmed: u64,
    /// Records given to the sink and not answered yet.
    pub in_flight: u64,
    /// Bytes received, as captured.
    pub received_bytes: u64,
    /// Bytes batched, as written.
    pub batched_bytes: u64,
    /// Batches published.
    pub batches: u64,
    /// Bytes published, as Kafka record batches.
    pub published_bytes: u64,
    /// The same before they were compressed.
    pub published_raw_bytes: u64,
}

/// Records the sink could not store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Certainly not stored.
    pub not_persisted: u64,
    /// Sent, and the answer never came.
    pub possibly_persisted: u64,
    /// Those not stored, by reason.
    pub reasons: Counts,
}

/// An interface in the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceLine {
    /// Its name and mode.
    #[serde(flatten)]
    pub entry: InterfaceEntry,
    /// What its driver counted since the start; advisory, absent where there is no driver.
    pub driver: Option<Driver>,
}

/// A queue in the ledger.
#[derive(Clone, Debug, Serialize)]
pub struct QueueLine {
    /// The name of its interface.
    pub interface: String,
    /// Its number.
    pub queue: u32,
    /// The number of its worker.
    pub worker: usize,
    /// The core its worker is pinned to.
    pub cpu: Option<usize>,
    /// What it is doing.
    #[serde(serialize_with = "name")]
    pub state: QueueState,
    /// The number of its interface in [`Ledger::interfaces`].
    #[serde(skip)]
    pub number: usize,
    /// What was counted.
    #[serde(flatten)]
    pub counts: QueueReading,
}

/// How long packets took; nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// From the arrival of a packet until it was written to a batch.
    pub arrival_to_batch: Quantiles,
    /// From the hand-over of a batch until its answer.
    pub batch_to_ack: Quantiles,
}

impl Ledger {
    /// Whether the run delivered all that it received. Kernel drops, filtered packets and rejected
    /// ones are told in the ledger and do not count here.
    pub fn exit_class(&self) -> ExitClass {
        let left = self.dropped.get("shed") + self.dropped.get("left_in_ring");
        let failed = self.failed.not_persisted + self.failed.possibly_persisted;
        if left + failed == 0 && self.balanced {
            return ExitClass::Clean;
        }
        ExitClass::LeftOver
    }

    /// The ledger in one line, for the log.
    pub fn summary(&self) -> String {
        let total = &self.total;
        format!(
            "seen {}, received {}, batched {}, published {}, delivered {}, unconfirmed {}, \
             dropped {}, failed {}, aside {}, unaccounted {}",
            total.seen,
            total.received,
            total.batched,
            total.published,
            total.delivered,
            total.unconfirmed,
            self.dropped.sum(),
            self.failed.not_persisted + self.failed.possibly_persisted,
            self.aside.sum(),
            self.unaccounted,
        )
    }

    /// Whether an interface is read by AF_XDP.
    pub(crate) fn is_xdp(&self, queue: &QueueLine) -> bool {
        let interface = self.interfaces.get(queue.number);
        interface.is_some_and(|interface| interface.entry.mode == Mode::Xdp)
    }
}

fn name<S: Serializer>(state: &QueueState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::counters::{Failed, PublisherCounters, QueueCounters, Rejected};
    use crate::histogram::Histogram;

    /// A board with two queues of AF_XDP, one file and a publisher, on which 1,000 frames each were
    /// seen and every count that can be is above 0; it balances.
    pub(crate) fn busy(sink: SinkKind, unit: u64) -> (Board, Vec<Arc<QueueCounters>>) {
        let board = Board::new(sink, "packets");
        let entry = |name: &str, mode, attach| InterfaceEntry {
            name: name.to_owned(),
            mode,
            zero_copy: false,
            attach,
        };
        let xdp = board.add_interface(entry("rt-eth1", Mode::Xdp, Some(Attach::Native)));
        let file = board.add_interface(entry("/captures/monday.pcap", Mode::File, None));
        let publisher = Arc::new(PublisherCounters::default());
        let mut queues = Vec::new();
        for (interface, queue) in [(xdp, 0), (xdp, 1), (file, 0)] {
            let counters = Arc::new(QueueCounters::default());
            if interface == xdp {
                counters.xdp_seen.add(1_000 * unit);
                counters.xdp_redirected.add(900 * unit);
                counters.xdp_passed.add(90 * unit);
                counters.xdp_filtered.add(7 * unit);
                counters.xdp_aborted.add(3 * unit);
                counters.rx_dropped.add(30 * unit);
                counters.rx_ring_full.add(50 * unit);
                counters.redirect_errors.add(15 * unit);
                counters.left_in_ring.add(5 * unit);
            }
            counters.received.add(800 * unit);
            counters.accounted.add(800 * unit);
            counters.filtered.add(40 * unit);
            counters.over_count.add(30 * unit);
            counters.rejected[Rejected::LinkType as usize].add(20 * unit);
            counters.rejected[Rejected::TooLong as usize].add(10 * unit);
            counters.merged.add(unit);
            counters.batched.add(700 * unit);
            counters.handed.add(690 * unit);
            counters.shed.add(10 * unit);
            counters.truncated.add(unit);
            counters.clamped.add(unit);
            counters.steps_back.add(unit);
            counters.rx_invalid_descs.add(unit);
            counters.fill_ring_empty.add(unit);
            counters.set_state(QueueState::Up);
            publisher.published.add(680 * unit);
            publisher.shed.add(10 * unit);
            publisher.delivered.add(600 * unit);
            publisher.unconfirmed.add(10 * unit);
            for reason in &publisher.not_persisted {
                reason.add(10 * unit);
            }
            publisher.possibly_persisted.add(10 * unit);
            publisher.late.add(unit);
            queues.push(Arc::clone(&counters));
            let (mut recorder, latency) = Histogram::new();
            recorder.record(Duration::from_micros(700), 700);
            board.add_queue(QueueEntry {
                interface,
                queue,
                worker: queues.len() - 1,
                cpu: Some(1),
                ring: 64,
                records: 100,
                counters,
                latency,
            });
        }
        board.add_publisher(PublisherEntry {
            counters: publisher,
            latency: Histogram::new().1,
        });
        (board, queues)
    }

    #[test]
    fn what_was_seen_is_delivered_failed_dropped_or_aside() {
        let ledger = busy(SinkKind::Kafka, 1).0.snapshot(Phase::Drained);
        assert_eq!((ledger.balanced, ledger.unaccounted), (true, 0));
        assert_eq!(ledger.total.seen, 2_800);
        let failed = ledger.failed.not_persisted + ledger.failed.possibly_persisted;
        let stored = ledger.total.delivered + ledger.total.unconfirmed;
        assert_eq!(
            stored + failed + ledger.dropped.sum() + ledger.aside.sum(),
            ledger.total.seen
        );
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let mut ledger = busy(SinkKind::Librdkafka, 1).0.snapshot(Phase::Drained);
        ledger.exit_code = Some(4);
        let json: serde_json::Value = serde_json::from_str(&ledger.json()).unwrap();
        assert_eq!(json["balanced"], true);
        assert_eq!(json["unaccounted"], 0);
        assert_eq!(json["exit_code"], 4);
        assert_eq!(json["sink"], "librdkafka");
        let totals = [
            ("seen", 2_800),
            ("received", 2_400),
            ("batched", 2_100),
            ("published", 2_040),
            ("delivered", 1_800),
            ("unconfirmed", 30),
        ];
        for (name, count) in totals {
            assert_eq!(json["total"][name], count, "{name}");
        }
        let losses = [
            ("rx_dropped", 60),
            ("rx_ring_full", 100),
            ("redirect_errors", 30),
            ("left_in_ring", 10),
            ("pcap_dropped", 0),
            ("pcap_if_dropped", 0),
            ("rejected_link_type", 60),
            ("shed", 60),
        ];
        for (name, count) in losses {
            assert_eq!(json["dropped"][name], count, "{name}");
        }
        assert_eq!(json["failed"]["not_persisted"], 180);
        assert_eq!(json["failed"]["possibly_persisted"], 30);
        assert_eq!(json["failed"]["reasons"]["disk"], 30);
        let interface = &json["interfaces"][0];
        assert_eq!(interface["name"], "rt-eth1");
        assert_eq!(interface["mode"], "xdp");
        assert_eq!(interface["zero_copy"], false);
        assert_eq!(interface["attach"], "native");
        assert_eq!(json["interfaces"][1]["attach"], serde_json::Value::Null);
        assert_eq!(json["queues"][1]["queue"], 1);
        assert_eq!(json["queues"][1]["state"], "up");
        assert_eq!(json["queues"][1]["rejected"]["too_long"], 10);
        assert!(json["cpu_seconds"]["user"].is_f64() && json["cpu_seconds"]["system"].is_f64());
        for quantile in ["p50", "p99", "p999", "max"] {
            assert!(json["latency_ns"]["arrival_to_batch"][quantile].as_u64() > Some(690_000));
            assert_eq!(json["latency_ns"]["batch_to_ack"][quantile], 0);
        }
    }

    #[test]
    fn a_packet_missing_on_one_queue_is_named_and_not_balanced_by_another() {
        let (board, queues) = busy(SinkKind::File, 1);
        queues[0].batched.add(1);
        queues[1].received.add(1);
        let ledger = board.snapshot(Phase::Drained);
        assert!(!ledger.balanced);
        let off = ledger
            .equations
            .iter()
            .filter(|equation| equation.unaccounted > 0);
        let off: Vec<_> = off
            .map(|off| (off.number, off.at.as_str(), off.residual))
            .collect();
        let expected = [
            (3, "rt-eth1 queue 0", -1),
            (4, "rt-eth1 queue 0", 1),
            (2, "rt-eth1 queue 1", -1),
            (3, "rt-eth1 queue 1", 1),
        ];
        assert_eq!(off, expected);
        assert_eq!(ledger.unaccounted, 4);
        assert_eq!(ledger.exit_class(), ExitClass::LeftOver);
    }

    #[test]
    fn what_is_under_way_balances_while_running_and_not_after_the_drain() {
        let (board, queues) = busy(SinkKind::File, 1);
        queues[2].received.add(90);
        queues[2].batched.add(90);
        let running = board.snapshot(Phase::Running);
        assert!(running.balanced, "{:?}", running.equations);
        let drained = board.snapshot(Phase::Drained);
        assert_eq!((drained.balanced, drained.unaccounted), (false, 90));
    }

    #[test]
    fn the_kernel_figures_of_a_running_sensor_are_held_against_what_was_received_then() {
        let (board, queues) = busy(SinkKind::File, 1);
        for counter in [&queues[0].received, &queues[0].batched, &queues[0].handed] {
            counter.add(50);
        }
        let running = board.snapshot(Phase::Running);
        assert!(running.balanced, "{:?}", running.equations);
    }

    #[test]
    fn kernel_drops_and_filtered_packets_leave_the_exit_code_alone() {
        let (board, publisher) = (
            Board::new(SinkKind::Discard, ""),
            PublisherCounters::default(),
        );
        let publisher = Arc::new(publisher);
        let interface = board.add_interface(InterfaceEntry {
            name: "no-such-interface".into(),
            mode: Mode::Pcap,
            zero_copy: false,
            attach: None,
        });
        let counters = Arc::new(QueueCounters::default());
        board.add_queue(QueueEntry {
            interface,
            queue: 0,
            worker: 0,
            cpu: None,
            ring: 1,
            records: 1,
            counters: Arc::clone(&counters),
            latency: Histogram::new().1,
        });
        board.add_publisher(PublisherEntry {
            counters: Arc::clone(&publisher),
            latency: Histogram::new().1,
        });
        counters.pcap_dropped.set(3);
        counters.received.add(9);
        counters.filtered.add(5);
        counters.rejected[0].add(1);
        for counter in [&counters.batched, &counters.handed, &publisher.published] {
            counter.add(3);
        }
        publisher.delivered.add(3);
        let ledger = board.snapshot(Phase::Drained);
        assert_eq!(ledger.exit_class(), ExitClass::Clean);
        assert_eq!((ledger.total.seen, ledger.dropped.sum()), (12, 4));

        publisher.published.add(1);
        publisher.in_flight.set(1);
        counters.received.add(1);
        counters.batched.add(1);
        counters.handed.add(1);
        assert!(board.snapshot(Phase::Running).balanced);
        let ledger = board.snapshot(Phase::Drained);
        assert_eq!(
            (ledger.unaccounted, ledger.exit_class()),
            (1, ExitClass::LeftOver)
        );

        publisher.not_persisted[Failed::Disk as usize].add(1);
        publisher.in_flight.set(0);
        let ledger = board.snapshot(Phase::Drained);
        assert_eq!(
            (ledger.unaccounted, ledger.exit_class()),
            (0, ExitClass::LeftOver)
        );
    }
}
