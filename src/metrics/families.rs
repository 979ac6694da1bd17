//! The ledger in Prometheus' classic text format.
//!
//! The rule: every series is there from the start, at 0, and labels come from the set `interface`,
//! `queue`, `stage`, `reason`, `broker`, `topic`, `partition`, `le` alone; never from traffic.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::counters::{Failed, QueueState, Reason};
use crate::histogram::{BOUNDS, Quantiles};
use crate::kafka::counters::BrokerReading;
use crate::ledger::{Attach, Board, Ledger, Mode, PublisherReading, QueueLine, QueueReading};

type Labels<'a> = &'a [(&'static str, &'a str)];

/// The text that `/metrics` answers with.
pub(super) fn text(board: &Board, ledger: &Ledger) -> String {
    let mut families = Families::default();
    queues(&mut families, ledger);
    reasons(&mut families, ledger);
    interfaces(&mut families, ledger);
    publishers(&mut families, ledger);
    producer(&mut families, ledger);
    health(&mut families, board, ledger);
    let families: Vec<_> = families
        .0
        .into_iter()
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    TextEncoder::new()
        .encode_to_string(&families)
        .expect("every family has a name and a metric")
}

/// Counters of a queue: name, help, value.
type PerQueue = (&'static str, &'static str, fn(&QueueReading) -> u64);

const PER_QUEUE: [PerQueue; 20] = [
    (
        "ringtap_redirected_packets_total",
        "Frames the XDP program redirected to the socket.",
        |counts| counts.xdp_redirected,
    ),
    (
        "ringtap_received_packets_total",
        "Packets offered to the worker.",
        |counts| counts.received,
    ),
    (
        "ringtap_received_bytes_total",
        "Bytes offered to the worker, as captured.",
        |counts| counts.received_bytes,
    ),
    (
        "ringtap_batched_packets_total",
        "Packets written to batches.",
        |counts| counts.batched,
    ),
    (
        "ringtap_batched_bytes_total",
        "Bytes written to batches.",
        |counts| counts.batched_bytes,
    ),
    (
        "ringtap_handed_packets_total",
        "Packets in batches handed to a publisher.",
        |counts| counts.handed,
    ),
    (
        "ringtap_handed_batches_total",
        "Batches handed to a publisher.",
        |counts| counts.handed_batches,
    ),
    (
        "ringtap_truncated_packets_total",
        "Packets cut by the snap length.",
        |counts| counts.truncated,
    ),
    (
        "ringtap_merged_packets_total",
        "Packets longer than the interface can have received: merged by the NIC or by GRO.",
        |counts| counts.merged,
    ),
    (
        "ringtap_clamped_packets_total",
        "Packets whose time was raised to that of the one before.",
        |counts| counts.clamped,
    ),
    (
        "ringtap_steps_back_packets_total",
        "Packets of files that are earlier than the one before.",
        |counts| counts.steps_back,
    ),
    (
        "ringtap_invalid_descriptors_total",
        "Descriptors the kernel found invalid; a fault of ringtap's.",
        |counts| counts.rx_invalid_descs,
    ),
    (
        "ringtap_fill_ring_empty_total",
        "Times the fill ring held no frame; a cause of rx_dropped.",
        |counts| counts.fill_ring_empty,
    ),
    (
        "ringtap_turns_total",
        "Turns of the worker's loop.",
        |counts| counts.turns,
    ),
    (
        "ringtap_backpressure_turns_total",
        "Turns in which no batch was left to fill.",
        |counts| counts.backpressure,
    ),
    (
        "ringtap_naps_total",
        "Naps taken because nothing was there.",
        |counts| counts.naps,
    ),
    ("ringtap_polls_total", "Waits on the kernel.", |counts| {
        counts.polls
    }),
    (
        "ringtap_recoveries_total",
        "Times the link came back or the socket was bound again.",
        |counts| counts.recoveries,
    ),
    (
        "ringtap_passed_packets_total",
        "Frames the XDP program left to the host: no socket on the queue.",
        |counts| counts.xdp_passed,
    ),
    (
        "ringtap_rejected_packets_total",
        "Packets received that the worker did not take, all reasons together.",
        QueueReading::rejections,
    ),
];

fn queues(families: &mut Families, ledger: &Ledger) {
    let seen = "Frames at the point of capture: seen by the XDP program, or received and dropped.";
    families.open("ringtap_seen_packets_total", seen, MetricType::COUNTER);
    for queue in &ledger.queues {
        let seen = queue.seen(ledger.is_xdp(queue));
        families.count(&labels(queue, &queue.queue.to_string()), seen);
    }
    for (name, help, count) in PER_QUEUE {
        families.open(name, help, MetricType::COUNTER);
        for queue in &ledger.queues {
            let number = queue.queue.to_string();
            families.count(&labels(queue, &number), count(&queue.counts));
        }
    }
    let up = "Whether the queue receives.";
    families.open("ringtap_queue_up", up, MetricType::GAUGE);
    for queue in &ledger.queues {
        let up = matches!(queue.state, QueueState::Up | QueueState::Draining);
        families.gauge(&labels(queue, &queue.queue.to_string()), u64::from(up));
    }
}

fn labels<'a>(queue: &'a QueueLine, number: &'a str) -> [(&'static str, &'a str); 2] {
    [("interface", &queue.interface), ("queue", number)]
}

fn reasons(families: &mut Families, ledger: &Ledger) {
    let help = "Packets lost before the sink, and packets shed at exit.";
    families.open("ringtap_dropped_packets_total", help, MetricType::COUNTER);
    for queue in &ledger.queues {
        let number = queue.queue.to_string();
        let [interface, queue_label] = labels(queue, &number);
        for (stage, reason, count) in queue.counts.losses() {
            let reason = [interface, queue_label, ("stage", stage), ("reason", reason)];
            families.count(&reason, count);
        }
    }
    let shed = ledger.publishers.iter().map(|publisher| publisher.shed);
    families.count(&[("stage", "publisher"), ("reason", "shed")], shed.sum());

    let help = "Packets that were not to be captured.";
    families.open("ringtap_aside_packets_total", help, MetricType::COUNTER);
    for queue in &ledger.queues {
        let number = queue.queue.to_string();
        let [interface, queue_label] = labels(queue, &number);
        for (stage, reason, count) in queue.counts.aside() {
            let reason = [interface, queue_label, ("stage", stage), ("reason", reason)];
            families.count(&reason, count);
        }
    }

    let help = "Records the sink did not store, or may not have stored (possibly_persisted).";
    families.open("ringtap_failed_packets_total", help, MetricType::COUNTER);
    let named = Failed::ALL.iter().map(|reason| reason.name());
    for reason in named {
        let count = ledger.failed.reasons.get(reason);
        families.count(&[("stage", "sink"), ("reason", reason)], count);
    }
    let possible = [("stage", "sink"), ("reason", "possibly_persisted")];
    families.count(&possible, ledger.failed.possibly_persisted);
}

fn interfaces(families: &mut Families, ledger: &Ledger) {
    let mut gauge = |name, help, value: fn(Mode, Option<Attach>, bool) -> bool| {
        families.open(name, help, MetricType::GAUGE);
        for interface in &ledger.interfaces {
            let entry = &interface.entry;
            let value = value(entry.mode, entry.attach, entry.zero_copy);
            families.gauge(&[("interface", &entry.name)], u64::from(value));
        }
    };
    gauge(
        "ringtap_interface_xdp",
        "Whether AF_XDP takes packets from the interface.",
        |mode, _, _| mode == Mode::Xdp,
    );
    gauge(
        "ringtap_interface_native",
        "Whether the XDP program runs in the driver.",
        |_, attach, _| attach == Some(Attach::Native),
    );
    gauge(
        "ringtap_interface_zero_copy",
        "Whether AF_XDP runs without the kernel copying packets.",
        |_, _, zero_copy| zero_copy,
    );
    let drivers = || {
        let with = ledger.interfaces.iter();
        with.filter_map(|interface| Some((&interface.entry.name, interface.driver?)))
    };
    let received = "Packets the driver received, as it counts.";
    families.open(
        "ringtap_nic_received_packets_total",
        received,
        MetricType::COUNTER,
    );
    for (name, driver) in drivers() {
        families.count(&[("interface", name)], driver.received);
    }
    let missed = "Packets the hardware had no room for, as the driver counts.";
    families.open(
        "ringtap_nic_missed_packets_total",
        missed,
        MetricType::COUNTER,
    );
    for (name, driver) in drivers() {
        families.count(&[("interface", name)], driver.missed);
    }
}

fn publishers(families: &mut Families, ledger: &Ledger) {
    let total = &ledger.total;
    let late = |publisher: &PublisherReading| publisher.late;
    let late = ledger.publishers.iter().map(late).sum();
    let counters = [
        (
            "ringtap_published_packets_total",
            "Records publishers gave to the sink.",
            total.published,
        ),
        (
            "ringtap_published_batches_total",
            "Batches publishers gave to the sink.",
            total.batches,
        ),
        (
            "ringtap_published_bytes_total",
            "Bytes of those batches.",
            total.published_bytes,
        ),
        (
            "ringtap_published_raw_bytes_total",
            "The same before they were compressed.",
            total.published_raw_bytes,
        ),
        (
            "ringtap_delivered_packets_total",
            "Records the sink's store confirmed.",
            total.delivered,
        ),
        (
            "ringtap_unconfirmed_packets_total",
            "Records sent with no answer asked for.",
            total.unconfirmed,
        ),
        (
            "ringtap_late_packets_total",
            "Records the file sink wrote after a later one.",
            late,
        ),
    ];
    for (name, help, count) in counters {
        families.open(name, help, MetricType::COUNTER);
        families.count(&[], count);
    }
    let help = "Records given to the sink and not answered yet.";
    families.open("ringtap_in_flight_packets", help, MetricType::GAUGE);
    families.gauge(&[], total.in_flight);

    let help = "How long packets took: arrival to batch, batch to acknowledgement.";
    families.open("ringtap_latency_seconds", help, MetricType::HISTOGRAM);
    families.histogram("arrival_to_batch", &ledger.latency_ns.arrival_to_batch);
    families.histogram("batch_to_ack", &ledger.latency_ns.batch_to_ack);
}

/// Figures of a broker: name, help, kind, value.
type PerBroker = (
    &'static str,
    &'static str,
    MetricType,
    fn(&BrokerReading) -> f64,
);

const PER_BROKER: [PerBroker; 6] = [
    (
        "ringtap_broker_connected",
        "How many publishers are connected to the broker.",
        MetricType::GAUGE,
        |broker| float(broker.connected),
    ),
    (
        "ringtap_broker_connections_total",
        "Connections to the broker that became ready.",
        MetricType::COUNTER,
        |broker| float(broker.connections),
    ),
    (
        "ringtap_broker_losses_total",
        "Connections to the broker that ended, and attempts that came to nothing.",
        MetricType::COUNTER,
        |broker| float(broker.losses),
    ),
    (
        "ringtap_broker_batches_total",
        "Produce requests made of the broker.",
        MetricType::COUNTER,
        |broker| float(broker.batches),
    ),
    (
        "ringtap_broker_bytes_total",
        "Bytes of their record batches.",
        MetricType::COUNTER,
        |broker| float(broker.bytes),
    ),
    (
        "ringtap_broker_round_trip_seconds",
        "From a Produce request to its answer: the longest of the publishers' last.",
        MetricType::GAUGE,
        |broker| float(broker.round_trip_us) / 1e6,
    ),
];

/// What the native producer counts; nothing with another sink.
fn producer(families: &mut Families, ledger: &Ledger) {
    let Some(producer) = &ledger.producer else {
        return;
    };
    let help = "Records sent again.";
    families.open("ringtap_retried_packets_total", help, MetricType::COUNTER);
    families.count(&[], producer.retried);
    let help = "Pieces that batches too large for the topic were cut to.";
    families.open("ringtap_batch_pieces_total", help, MetricType::COUNTER);
    families.count(&[], producer.pieces);
    let help = "How long brokers asked to be left alone.";
    families.open("ringtap_throttled_seconds_total", help, MetricType::COUNTER);
    let seconds = float(producer.throttled_ms) / 1e3;
    families.push(&[], |metric| metric.set_counter(counter(seconds)));
    for (name, help, kind, value) in PER_BROKER {
        families.open(name, help, kind);
        for broker in &producer.brokers {
            let labels = [("broker", broker.broker.as_str())];
            families.push(&labels, |metric| match kind {
                MetricType::COUNTER => metric.set_counter(counter(value(broker))),
                _ => metric.set_gauge(gauge(value(broker))),
            });
        }
    }
}

fn health(families: &mut Families, board: &Board, ledger: &Ledger) {
    let gauges = [
        (
            "ringtap_attached",
            "Whether packets are being taken.",
            u64::from(board.is_attached()),
        ),
        (
            "ringtap_sink_connected",
            "Whether the sink is connected.",
            u64::from(board.is_connected()),
        ),
        (
            "ringtap_ledger_balanced",
            "Whether every equation of the ledger holds.",
            u64::from(ledger.balanced),
        ),
        (
            "ringtap_ledger_unaccounted_packets",
            "Packets that are in no place.",
            ledger.unaccounted,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory of the sensor.",
            ledger.memory_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        families.open(name, help, MetricType::GAUGE);
        families.gauge(&[], value);
    }
    let help = "Processor time of the sensor, user and system.";
    families.open("process_cpu_seconds_total", help, MetricType::COUNTER);
    let cpu = ledger.cpu_seconds;
    families.push(&[], |metric| {
        metric.set_counter(counter(cpu.user + cpu.system))
    });
}

/// Metric families being written; values go to the one opened last.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn open(&mut self, name: &str, help: &str, kind: MetricType) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.0.push(family);
    }

    fn count(&mut self, labels: Labels<'_>, value: u64) {
        self.push(labels, |metric| metric.set_counter(counter(float(value))));
    }

    fn gauge(&mut self, labels: Labels<'_>, value: u64) {
        self.push(labels, |metric| metric.set_gauge(gauge(float(value))));
    }

    fn histogram(&mut self, stage: &str, of: &Quantiles) {
        let buckets = BOUNDS.iter().zip(of.buckets).map(|(bound, packets)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(packets);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(of.count);
        histogram.set_sample_sum(of.sum);
        self.push(&[("stage", stage)], |metric| {
            metric.set_histogram(histogram)
        });
    }

    fn push(&mut self, labels: Labels<'_>, set: impl FnOnce(&mut Metric)) {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        set(&mut metric);
        let family = self.0.last_mut().expect("a family is opened first");
        family.mut_metric().push(metric);
    }
}

fn gauge(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn counter(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

/// A count as Prometheus takes it: exact up to 2^53, nine quadrillion.
fn float(value: u64) -> f64 {
    let (high, low) = (value >> 32, value & 0xffff_ffff);
    let part = |half| f64::from(u32::try_from(half).expect("half of 64 bits is 32"));
    part(high) * 4_294_967_296.0 + part(low)
}
