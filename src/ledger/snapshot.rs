//! Reading the board into a ledger.
//!
//! The rule: publishers before workers before the kernel, twice; sums are taken from the first
//! reading.

use std::sync::atomic::{Ordering, fence};
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::counters::{Failed, Reason};
use crate::histogram::Histogram;
use crate::kafka::counters::ProducerReading;

use super::board::{Board, Driver, Entries, Mode, QueueEntry};
use super::equations::{self, Equation, Twice};
use super::process::{self, CpuSeconds};
use super::reading::{Counts, PublisherReading, QueueReading};
use super::{Failures, InterfaceLine, Latency, Ledger, Phase, QueueLine, Totals};

impl Board {
    /// Reads everything and evaluates the equations.
    ///
    /// Costs some ten microseconds and a few file reads; for a few calls a second.
    pub fn snapshot(&self, phase: Phase) -> Ledger {
        let entries = self.entries();
        let first = read(&entries);
        let second = read(&entries);
        let publishers = pair(&first.0, &second.0);
        let queues = pair(&first.1, &second.1);
        let equations = evaluate(&entries, &queues, &publishers, phase);

        let arrival_to_batch = Histogram::merge(entries.queues.iter().map(|queue| &queue.latency));
        let answered = entries.publishers.iter();
        let batch_to_ack = Histogram::merge(answered.map(|publisher| &publisher.latency));
        let interfaces = entries.interfaces.iter().map(|(entry, start)| {
            let now = start.and_then(|start| Some(Driver::read(&entry.name)?.since(start)));
            InterfaceLine {
                entry: entry.clone(),
                driver: now,
            }
        });
        let interfaces: Vec<_> = interfaces.collect();
        let lines = entries.queues.iter().zip(first.1);
        let queues: Vec<_> = lines
            .map(|(entry, counts)| QueueLine::new(entry, counts, &interfaces))
            .collect();
        let unaccounted = equations.iter().map(|equation| equation.unaccounted).sum();
        let stuck = match phase {
            Phase::Running => 0,
            Phase::Drained => first.0.iter().map(|publisher| publisher.in_flight).sum(),
        };
        let (sink, destination) = self.sink();
        let producer = ProducerReading::of(&entries.producers);
        Ledger {
            version: env!("CARGO_PKG_VERSION"),
            kernel: process::kernel_release(),
            started: rfc3339(self.started()),
            ended: rfc3339(SystemTime::now()),
            seconds: self.seconds(),
            phase,
            exit_code: None,
            balanced: unaccounted == 0 && stuck == 0,
            unaccounted,
            total: Totals::new(&queues, &interfaces, &first.0),
            dropped: dropped(&queues, &first.0),
            failed: Failures::new(&first.0),
            aside: aside(&queues),
            remarks: remarks(&queues, &first.0, producer.as_ref()),
            sink,
            destination: destination.to_owned(),
            interfaces,
            queues,
            producer,
            publishers: first.0,
            equations,
            cpu_seconds: CpuSeconds::now(),
            memory_bytes: process::resident_bytes(),
            latency_ns: Latency {
                arrival_to_batch,
                batch_to_ack,
            },
        }
    }
}

impl QueueLine {
    fn new(entry: &QueueEntry, counts: QueueReading, interfaces: &[InterfaceLine]) -> Self {
        let interface = interfaces.get(entry.interface);
        Self {
            interface: interface.map_or_else(String::new, |found| found.entry.name.clone()),
            queue: entry.queue,
            worker: entry.worker,
            cpu: entry.cpu,
            state: entry.counters.state(),
            number: entry.interface,
            counts,
        }
    }

    /// Frames that reached the point of capture.
    pub(crate) fn seen(&self, xdp: bool) -> u64 {
        let counts = &self.counts;
        if xdp {
            return counts.xdp_seen;
        }
        counts.received + counts.kernel_drops()
    }

    /// Packets that came through the socket after the program's own figures were read, while the sensor
    /// runs: the program has seen and redirected these as well, as surely as they came.
    pub(crate) fn ahead(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Running => self.seen(false).saturating_sub(self.counts.xdp_redirected),
            Phase::Drained => 0,
        }
    }
}

impl Totals {
    fn new(
        queues: &[QueueLine],
        interfaces: &[InterfaceLine],
        publishers: &[PublisherReading],
    ) -> Self {
        let mut total = Self::default();
        for queue in queues {
            let interface = interfaces.get(queue.number);
            let xdp = interface.is_some_and(|interface| interface.entry.mode == Mode::Xdp);
            total.seen += queue.seen(xdp);
            total.received += queue.counts.received;
            total.received_bytes += queue.counts.received_bytes;
            total.batched += queue.counts.batched;
            total.batched_bytes += queue.counts.batched_bytes;
        }
        for publisher in publishers {
            total.published += publisher.published;
            total.published_bytes += publisher.bytes;
            total.published_raw_bytes += publisher.raw_bytes;
            total.batches += publisher.batches;
            total.delivered += publisher.delivered;
            total.unconfirmed += publisher.unconfirmed;
            total.in_flight += publisher.in_flight;
        }
        total
    }
}

impl Failures {
    fn new(publishers: &[PublisherReading]) -> Self {
        let named = Failed::ALL.iter().map(|reason| {
            let counts = publishers.iter().map(|publisher| publisher.not_persisted);
            (reason.name(), counts.map(|by| by[reason.index()]).sum())
        });
        let possible = publishers
            .iter()
            .map(|publisher| publisher.possibly_persisted);
        Self {
            not_persisted: publishers.iter().map(PublisherReading::refused).sum(),
            possibly_persisted: possible.sum(),
            reasons: Counts(named.collect()),
        }
    }
}

/// All counters once: publishers before workers before the kernel.
fn read(entries: &Entries) -> (Vec<PublisherReading>, Vec<QueueReading>) {
    let publishers = entries.publishers.iter();
    let publishers = publishers.map(|entry| PublisherReading::new(&entry.counters));
    let publishers = publishers.collect();
    fence(Ordering::Acquire);
    let queues = entries.queues.iter();
    let queues = queues.map(|entry| QueueReading::new(&entry.counters));
    (publishers, queues.collect())
}

fn pair<T: Clone>(first: &[T], second: &[T]) -> Vec<Twice<T>> {
    let pairs = first.iter().cloned().zip(second.iter().cloned());
    pairs
        .map(|(first, second)| Twice { first, second })
        .collect()
}

fn evaluate(
    entries: &Entries,
    queues: &[Twice<QueueReading>],
    publishers: &[Twice<PublisherReading>],
    phase: Phase,
) -> Vec<Equation> {
    let mut equations = Vec::new();
    for (entry, read) in entries.queues.iter().zip(queues) {
        let interface = entries.interfaces.get(entry.interface);
        let xdp = interface.is_some_and(|(interface, _)| interface.mode == Mode::Xdp);
        let (at, room) = (entries.label(entry), (entry.ring, entry.records));
        equations.extend(equations::of_queue(&at, xdp, room, read, phase));
    }
    let records = entries.queues.iter().map(|entry| entry.records);
    let records = records.fold(0, u64::saturating_add);
    let taken = |publisher: &PublisherReading| publisher.published + publisher.shed;
    let rings = Twice {
        first: (
            queues.iter().map(|queue| queue.first.handed).sum(),
            publishers.iter().map(|read| taken(&read.first)).sum(),
        ),
        second: (
            queues.iter().map(|queue| queue.second.handed).sum(),
            publishers.iter().map(|read| taken(&read.second)).sum(),
        ),
    };
    equations.push(equations::of_rings(records, &rings, phase));
    for (number, read) in publishers.iter().enumerate() {
        let at = format!("publisher {number}");
        equations.push(equations::of_publisher(&at, records, read, phase));
    }
    equations
}

fn dropped(queues: &[QueueLine], publishers: &[PublisherReading]) -> Counts {
    let mut sums = Counts::default();
    let none = QueueReading::default();
    for counts in queues.iter().map(|queue| &queue.counts).chain([&none]) {
        let losses = counts.losses().into_iter();
        sums.add(Counts(
            losses.map(|(_, name, count)| (name, count)).collect(),
        ));
    }
    let shed = publishers.iter().map(|publisher| publisher.shed).sum();
    sums.add(Counts(vec![("shed", shed)]));
    sums
}

fn aside(queues: &[QueueLine]) -> Counts {
    let mut sums = Counts::default();
    let none = QueueReading::default();
    for counts in queues.iter().map(|queue| &queue.counts).chain([&none]) {
        let parts = counts.aside().into_iter();
        sums.add(Counts(
            parts.map(|(_, name, count)| (name, count)).collect(),
        ));
    }
    sums
}

fn remarks(
    queues: &[QueueLine],
    publishers: &[PublisherReading],
    producer: Option<&ProducerReading>,
) -> Counts {
    let sum = |count: fn(&QueueReading) -> u64| queues.iter().map(|q| count(&q.counts)).sum();
    Counts(vec![
        ("truncated", sum(|counts| counts.truncated)),
        ("merged", sum(|counts| counts.merged)),
        ("clamped", sum(|counts| counts.clamped)),
        ("steps_back", sum(|counts| counts.steps_back)),
        (
            "late",
            publishers.iter().map(|publisher| publisher.late).sum(),
        ),
        ("retried", producer.map_or(0, |producer| producer.retried)),
        ("rx_invalid_descs", sum(|counts| counts.rx_invalid_descs)),
        ("fill_ring_empty", sum(|counts| counts.fill_ring_empty)),
    ])
}

fn rfc3339(time: SystemTime) -> String {
    let formatted = OffsetDateTime::from(time).format(&Rfc3339);
    formatted.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;
    use std::thread;

    use super::*;
    use crate::counters::{PublisherCounters, QueueCounters};
    use crate::ledger::{InterfaceEntry, PublisherEntry, SinkKind};

    const BURST: u64 = 64;
    const BATCH: u64 = 4 * BURST;
    const DEPTH: usize = 8;

    #[test]
    fn a_ledger_read_under_load_balances_every_time() {
        let board = Board::new(SinkKind::Discard, "");
        let (queue, publisher) = (Arc::<QueueCounters>::default(), Arc::default());
        let interface = board.add_interface(InterfaceEntry {
            name: "synthetic".into(),
            mode: Mode::Synthetic,
            zero_copy: false,
            attach: None,
        });
        board.add_queue(QueueEntry {
            interface,
            queue: 0,
            worker: 0,
            cpu: None,
            ring: BURST,
            records: BATCH * (u64::try_from(DEPTH).unwrap() + 3),
            counters: Arc::clone(&queue),
            latency: Histogram::new().1,
        });
        board.add_publisher(PublisherEntry {
            counters: Arc::clone(&publisher),
            latency: Histogram::new().1,
        });
        let (push, pop) = sync_channel(DEPTH);
        let worker = thread::spawn(move || {
            for _ in 0..200_000 {
                for _ in 0..BATCH / BURST {
                    queue.received.add(BURST);
                    queue.batched.add(BURST);
                }
                queue.handed.add(BATCH);
                push.send(BATCH).unwrap();
            }
        });
        let publish = move |publisher: &PublisherCounters| {
            for records in pop {
                publisher.published.add(records);
                publisher.delivered.add(records);
            }
        };
        let publishing = thread::spawn(move || publish(&publisher));
        let mut looks = 0_u32;
        while !publishing.is_finished() {
            let ledger = board.snapshot(Phase::Running);
            assert!(ledger.balanced, "look {looks}: {:?}", ledger.equations);
            looks += 1;
        }
        worker.join().unwrap();
        publishing.join().unwrap();
        let ledger = board.snapshot(Phase::Drained);
        assert!(ledger.balanced && looks > 0, "{:?}", ledger.equations);
        assert_eq!(ledger.total.delivered, 200_000 * BATCH);
    }
}
