//! Counters as they were read at one moment.
//!
//! The rule: downstream is read before upstream, so that a packet on its way is never seen to have
//! arrived without having left.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::counters::{Failed, PublisherCounters, QueueCounters, Reason, Rejected};

const REJECTED: usize = Rejected::ALL.len();
const FAILED: usize = Failed::ALL.len();

/// Named counts that are written as one flat map, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(&'static str, u64)>);

impl Counts {
    /// The sum of all.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The count of this name; 0 where there is none.
    pub fn get(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, count)| *count)
    }

    /// Adds `counts` name by name.
    pub(crate) fn add(&mut self, counts: Self) {
        for (name, count) in counts.0 {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => self.0.push((name, count)),
            }
        }
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, count) in &self.0 {
            map.serialize_entry(name, count)?;
        }
        map.end()
    }
}

/// The counters of one queue; each field as in [`QueueCounters`].
#[allow(missing_docs, reason = "each is explained where it is written")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueReading {
    pub xdp_seen: u64,
    pub xdp_redirected: u64,
    pub xdp_passed: u64,
    pub xdp_filtered: u64,
    pub xdp_aborted: u64,
    pub rx_dropped: u64,
    pub rx_ring_full: u64,
    pub redirect_errors: u64,
    pub left_in_ring: u64,
    pub rx_invalid_descs: u64,
    pub fill_ring_empty: u64,
    pub pcap_dropped: u64,
    pub pcap_if_dropped: u64,
    pub accounted: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub filtered: u64,
    pub over_count: u64,
    #[serde(serialize_with = "by_reason")]
    pub rejected: [u64; REJECTED],
    pub batched: u64,
    pub batched_bytes: u64,
    pub handed: u64,
    pub handed_batches: u64,
    pub shed: u64,
    pub truncated: u64,
    pub merged: u64,
    pub clamped: u64,
    pub steps_back: u64,
    pub turns: u64,
    pub backpressure: u64,
    pub naps: u64,
    pub polls: u64,
    pub recoveries: u64,
}

impl QueueReading {
    /// Reads `counters`, downstream first: a struct literal is evaluated as it is written.
    pub(crate) fn new(counters: &QueueCounters) -> Self {
        Self {
            shed: counters.shed.get(),
            handed: counters.handed.get(),
            handed_batches: counters.handed_batches.get(),
            batched: counters.batched.get(),
            batched_bytes: counters.batched_bytes.get(),
            rejected: std::array::from_fn(|reason| counters.rejected[reason].get()),
            over_count: counters.over_count.get(),
            filtered: counters.filtered.get(),
            truncated: counters.truncated.get(),
            merged: counters.merged.get(),
            clamped: counters.clamped.get(),
            steps_back: counters.steps_back.get(),
            received: counters.received.get(),
            received_bytes: counters.received_bytes.get(),
            accounted: counters.accounted.get(),
            left_in_ring: counters.left_in_ring.get(),
            redirect_errors: counters.redirect_errors.get(),
            rx_ring_full: counters.rx_ring_full.get(),
            rx_dropped: counters.rx_dropped.get(),
            rx_invalid_descs: counters.rx_invalid_descs.get(),
            fill_ring_empty: counters.fill_ring_empty.get(),
            pcap_dropped: counters.pcap_dropped.get(),
            pcap_if_dropped: counters.pcap_if_dropped.get(),
            xdp_redirected: counters.xdp_redirected.get(),
            xdp_passed: counters.xdp_passed.get(),
            xdp_filtered: counters.xdp_filtered.get(),
            xdp_aborted: counters.xdp_aborted.get(),
            xdp_seen: counters.xdp_seen.get(),
            turns: counters.turns.get(),
            backpressure: counters.backpressure.get(),
            naps: counters.naps.get(),
            polls: counters.polls.get(),
            recoveries: counters.recoveries.get(),
        }
    }

    /// Packets lost before the sink, by reason and stage, every reason also at 0.
    pub(crate) fn losses(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut losses = vec![
            ("xdp", "xdp_aborted", self.xdp_aborted),
            ("xsk", "rx_dropped", self.rx_dropped),
            ("xsk", "rx_ring_full", self.rx_ring_full),
            ("xsk", "redirect_errors", self.redirect_errors),
            ("xsk", "left_in_ring", self.left_in_ring),
            ("pcap", "pcap_dropped", self.pcap_dropped),
            ("pcap", "pcap_if_dropped", self.pcap_if_dropped),
        ];
        let rejected = Rejected::ALL.iter().map(|reason| {
            let name = match reason {
                Rejected::LinkType => "rejected_link_type",
                Rejected::TooLong => "rejected_too_long",
            };
            ("worker", name, self.rejected[reason.index()])
        });
        losses.extend(rejected);
        losses.push(("worker", "shed", self.shed));
        losses
    }

    /// Packets that were not to be captured, by reason and stage, every reason also at 0.
    pub(crate) fn aside(&self) -> [(&'static str, &'static str, u64); 4] {
        [
            ("xdp", "xdp_passed", self.xdp_passed),
            ("xdp", "xdp_filtered", self.xdp_filtered),
            ("worker", "filtered", self.filtered),
            ("worker", "over_count", self.over_count),
        ]
    }

    /// What the kernel lost between the interface and the worker.
    pub(crate) fn kernel_drops(&self) -> u64 {
        self.rx_dropped
            + self.rx_ring_full
            + self.redirect_errors
            + self.left_in_ring
            + self.pcap_dropped
            + self.pcap_if_dropped
    }

    pub(crate) fn rejections(&self) -> u64 {
        self.rejected.iter().sum()
    }
}

/// The counters of one publisher; each field as in [`PublisherCounters`].
#[allow(missing_docs, reason = "each is explained where it is written")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublisherReading {
    pub published: u64,
    pub batches: u64,
    pub bytes: u64,
    pub raw_bytes: u64,
    pub shed: u64,
    pub delivered: u64,
    pub unconfirmed: u64,
    #[serde(serialize_with = "by_failure")]
    pub not_persisted: [u64; FAILED],
    pub possibly_persisted: u64,
    pub in_flight: u64,
    pub late: u64,
}

impl PublisherReading {
    /// Reads `counters`, downstream first.
    pub(crate) fn new(counters: &PublisherCounters) -> Self {
        Self {
            late: counters.late.get(),
            delivered: counters.delivered.get(),
            unconfirmed: counters.unconfirmed.get(),
            not_persisted: std::array::from_fn(|reason| counters.not_persisted[reason].get()),
            possibly_persisted: counters.possibly_persisted.get(),
            in_flight: counters.in_flight.get(),
            shed: counters.shed.get(),
            published: counters.published.get(),
            batches: counters.batches.get(),
            bytes: counters.bytes.get(),
            raw_bytes: counters.raw_bytes.get(),
        }
    }

    /// Records certainly not stored.
    pub(crate) fn refused(&self) -> u64 {
        self.not_persisted.iter().sum()
    }

    /// Records the sink has answered for, well or ill.
    pub(crate) fn answered(&self) -> u64 {
        self.delivered + self.unconfirmed + self.refused() + self.possibly_persisted
    }
}

fn by_reason<S: Serializer>(counts: &[u64; REJECTED], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(named::<Rejected>(counts))
}

fn by_failure<S: Serializer>(counts: &[u64; FAILED], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(named::<Failed>(counts))
}

/// The counts of a closed list of reasons beside their names.
pub(crate) fn named<R: Reason>(counts: &[u64]) -> impl Iterator<Item = (&'static str, u64)> {
    let pairs: Vec<_> = R::ALL
        .iter()
        .map(|r| (r.name(), counts[r.index()]))
        .collect();
    pairs.into_iter()
}
