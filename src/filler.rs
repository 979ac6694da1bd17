//! What a worker does with each packet: filter it, count it, write it to the open batch.
//!
//! The rule: one packet, one decision, one place in the ledger. Counts are kept in plain numbers
//! during a burst and published once after it.

mod lanes;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::batch::{Batch, Codec, Compressor, Origin};
use crate::control::Allowance;
use crate::counters::{QueueCounters, Rejected};
use crate::filter::Filters;
use crate::histogram::Recorder;
use crate::packet::{LinkType, MAX_PACKET, Packet, Timestamp};
use crate::record::Encoding;
use crate::ring::Spent;

use lanes::Lanes;
pub use lanes::Route;

/// How many packets a worker draws from the shared allowance at a time.
const DRAW: u64 = 64;

/// The one link type of a sink that can hold only one: that of the first packet of any queue.
#[derive(Clone, Debug, Default)]
pub struct OneLinkType(Arc<AtomicU32>);

impl OneLinkType {
    /// Whether `link_type` is the one; the first to ask decides.
    fn admits(&self, link_type: LinkType) -> bool {
        let wanted = u32::from(link_type.0) + 1;
        let order = Ordering::Relaxed;
        match self.0.compare_exchange(0, wanted, order, order) {
            Ok(_) => true,
            Err(known) => known == wanted,
        }
    }
}

/// How one worker treats its packets.
#[derive(Debug)]
pub struct Rules {
    /// How packets become records.
    pub encoding: Encoding,
    /// The queue's number, for the `rt` header.
    pub queue: u16,
    /// The age at which a batch is handed over although it is not full.
    pub linger: Duration,
    /// Whether times come from a clock (raised so that they never step back) or from a file (kept).
    pub live: bool,
    /// The filter in user space.
    pub filter: Option<Filters>,
    /// The count of `-c`.
    pub allowance: Option<Arc<Allowance>>,
    /// Set where the sink holds a single link type.
    pub one_link_type: Option<OneLinkType>,
    /// What batches are compressed with on the worker's core.
    pub compress: Codec,
    /// Packets longer than this on the wire were merged on the way here; counted, not refused.
    pub longest_frame: Option<u32>,
}

/// What happened in one burst, before it is published.
#[derive(Debug, Default)]
struct Tally {
    received: u64,
    received_bytes: u64,
    filtered: u64,
    over_count: u64,
    rejected: [u64; 2],
    batched: u64,
    batched_bytes: u64,
    truncated: u64,
    merged: u64,
    clamped: u64,
    steps_back: u64,
    /// Whether a packet found no batch to go into.
    starved: bool,
}

/// Fills batches with packets and hands them to publishers.
#[derive(Debug)]
pub struct Filler {
    rules: Rules,
    counters: Arc<QueueCounters>,
    lanes: Lanes,
    compressor: Compressor,
    sequence: u64,
    last: Timestamp,
    drawn: u64,
    tally: Tally,
    latency: Recorder,
}

impl Filler {
    /// A filler that owns `batches`, hands them on by `route` and finds them again in `spent`.
    ///
    /// By flow it owns at least two batches for each partition.
    pub fn new(
        rules: Rules,
        counters: Arc<QueueCounters>,
        batches: Vec<Batch>,
        route: Route,
        spent: Spent,
        latency: Recorder,
    ) -> Self {
        Self {
            compressor: Compressor::new(rules.compress),
            rules,
            counters,
            lanes: Lanes::new(route, batches, spent),
            sequence: 0,
            last: Timestamp::default(),
            drawn: 0,
            tally: Tally::default(),
            latency,
        }
    }

    /// Makes sure that a batch is open, or can be; false where none is left.
    pub fn open(&mut self, now: Instant) -> bool {
        self.lanes.is_open(now)
    }

    /// Decides about one packet and writes it to the open batch.
    ///
    /// Breaks, with nothing counted, where there is no room: the packet stays with its source.
    #[inline]
    pub fn take(&mut self, packet: &Packet<'_>) -> ControlFlow<()> {
        if let Some(filters) = &mut self.rules.filter
            && !filters.matches(packet)
        {
            self.receive(packet);
            self.tally.filtered += 1;
            return ControlFlow::Continue(());
        }
        if let Some(reason) = self.refuses(packet) {
            self.receive(packet);
            self.tally.rejected[reason as usize] += 1;
            return ControlFlow::Continue(());
        }
        if let Some(allowance) = &self.rules.allowance
            && self.drawn == self.tally.batched
        {
            let more = allowance.draw(DRAW);
            if more == 0 && !allowance.exhausted() {
                return ControlFlow::Break(());
            }
            if more == 0 {
                self.receive(packet);
                self.tally.over_count += 1;
                return ControlFlow::Continue(());
            }
            self.drawn += more;
        }
        self.batch(packet)
    }

    fn refuses(&self, packet: &Packet<'_>) -> Option<Rejected> {
        if packet.data.len() > MAX_PACKET || packet.len() > MAX_PACKET {
            return Some(Rejected::TooLong);
        }
        let one = self.rules.one_link_type.as_ref()?;
        (!one.admits(packet.link_type)).then_some(Rejected::LinkType)
    }

    #[inline]
    fn batch(&mut self, packet: &Packet<'_>) -> ControlFlow<()> {
        let mut packet = *packet;
        let stepped_back = packet.time < self.last;
        if stepped_back && self.rules.live {
            packet.time = self.last;
        }
        let origin = Origin {
            queue: self.rules.queue,
            sequence: self.sequence,
        };
        let lane = self.lanes.of(&packet);
        let kept = loop {
            let Some(batch) = self.lanes.batch(lane) else {
                if self.lanes.open(lane, Instant::now()) {
                    continue;
                }
                self.tally.starved = true;
                return ControlFlow::Break(());
            };
            match batch.push(&packet, &self.rules.encoding, origin) {
                Ok(kept) => break kept,
                Err(_) => self.close(lane, Instant::now()),
            }
        };
        self.receive(&packet);
        self.last = packet.time;
        self.sequence += 1;
        self.tally.batched += 1;
        self.tally.batched_bytes += kept as u64;
        self.tally.truncated += u64::from(kept < packet.orig_len as usize);
        self.tally.clamped += u64::from(stepped_back && self.rules.live);
        self.tally.steps_back += u64::from(stepped_back && !self.rules.live);
        let longest = self.rules.longest_frame.unwrap_or(u32::MAX);
        self.tally.merged += u64::from(packet.orig_len > longest);
        ControlFlow::Continue(())
    }

    #[inline]
    fn receive(&mut self, packet: &Packet<'_>) {
        self.tally.received += 1;
        self.tally.received_bytes += packet.len() as u64;
    }

    /// Publishes the counts of a burst and gives back what it did not draw up.
    pub fn settle(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        if let Some(allowance) = &self.rules.allowance {
            allowance.settle(tally.batched, self.drawn - tally.batched);
            self.drawn = 0;
        }
        self.counters.backpressure.add(tally.starved.into());
        if tally.received == 0 {
            return;
        }
        if self.rules.live && tally.batched > 0 {
            let age = Timestamp::now().since(self.last);
            self.latency.record(age, tally.batched);
        }
        let counters = &self.counters;
        counters.received.add(tally.received);
        counters.received_bytes.add(tally.received_bytes);
        counters.filtered.add(tally.filtered);
        counters.over_count.add(tally.over_count);
        for (counter, n) in counters.rejected.iter().zip(tally.rejected) {
            counter.add(n);
        }
        counters.batched.add(tally.batched);
        counters.batched_bytes.add(tally.batched_bytes);
        counters.truncated.add(tally.truncated);
        counters.merged.add(tally.merged);
        counters.clamped.add(tally.clamped);
        counters.steps_back.add(tally.steps_back);
    }

    /// Hands over each open batch whose linger is over and whose publisher has nothing else to do.
    pub fn close_if_due(&mut self, now: Instant) {
        let linger = self.rules.linger;
        if !self.lanes.is_time(now, linger) {
            return;
        }
        for lane in self.lanes.numbers() {
            if self.lanes.is_due(lane, linger, now) {
                self.close(lane, now);
            }
        }
    }

    /// What is left of the linger of the batch that is due first; `None` where nothing is in any.
    pub fn linger_left(&self, now: Instant) -> Option<Duration> {
        self.lanes.linger_left(self.rules.linger, now)
    }

    #[cold]
    fn close(&mut self, lane: usize, now: Instant) {
        let Some((mut batch, ready)) = self.lanes.close(lane) else {
            return;
        };
        batch.close_at(now);
        batch.compress(&mut self.compressor);
        self.counters.handed.add(batch.count().into());
        self.counters.handed_batches.add(1);
        ready.push(batch);
    }

    /// Promises the sink that nothing older than this will be handed over from now on.
    ///
    /// `nothing_before` is a time at which the source was found empty. Nothing is promised of several lanes:
    /// only the file sink asks, which has one.
    pub fn raise_watermark(&mut self, nothing_before: Option<Timestamp>) {
        let Some(lane) = self.lanes.only() else {
            return;
        };
        let bound = match lane.filled() {
            Some(batch) => batch.first(),
            None => self.last.max(nothing_before.unwrap_or_default()),
        };
        self.counters.watermark.set(bound.nanos());
    }

    /// Whether the count of `-c` is reached.
    pub fn exhausted(&self) -> bool {
        self.rules
            .allowance
            .as_ref()
            .is_some_and(|allowance| allowance.exhausted())
    }

    /// Hands over the last batches and the last latencies.
    pub fn finish(&mut self, now: Instant) {
        self.settle();
        self.latency.share();
        for lane in self.lanes.numbers() {
            if self.lanes.is_filled(lane) {
                self.close(lane, now);
            }
        }
    }
}
