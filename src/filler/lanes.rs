//! The batches of one worker: the open ones, one for each lane, and those to be filled next.
//!
//! The rule: a lane has one open batch at most and hands it to one publisher. By batch there is a single
//! lane, and the publisher chooses the partition; by flow there is a lane for each partition.

use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::flow;
use crate::packet::Packet;
use crate::ring::{Ready, Spent};

/// How often lanes are looked through for batches that are due, where there are several: often enough for any
/// linger that is felt, and seldom enough that a thousand lanes cost nothing that is.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// To whom a worker hands its batches.
#[derive(Clone, Debug)]
pub enum Route {
    /// All to one publisher, which chooses the partition of each.
    Batch(Ready),
    /// Those of a flow to the publisher of its partition; in the order of partitions, none missing.
    Flow(Vec<Ready>),
}

/// Where packets go that are to stay together.
#[derive(Debug)]
pub(super) struct Lane {
    open: Option<Batch>,
    partition: Option<i32>,
    ready: Ready,
}

impl Lane {
    /// The open batch, where something is in it.
    pub(super) fn filled(&self) -> Option<&Batch> {
        self.open.as_ref().filter(|batch| !batch.is_empty())
    }

    /// What is left of the open batch's linger; `None` where nothing is in it.
    fn linger_left(&self, linger: Duration, now: Instant) -> Option<Duration> {
        let age = now.duration_since(self.filled()?.opened());
        Some(linger.saturating_sub(age))
    }
}

/// Apart from its caller, so that a packet by batch does not pay for it.
#[inline(never)]
fn by_flow(packet: &Packet<'_>, lanes: u32) -> usize {
    let lane = flow::lane(flow::hash(packet), lanes);
    usize::try_from(lane).expect("a size holds 32 bits")
}

/// The lanes of one worker and the batches that it owns.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Box<[Lane]>,
    /// How many lanes there are, as flows are shared out among them; one where nothing is to be shared out.
    count: u32,
    /// Batches to fill; the last one given back is filled first, because it is still in the cache.
    empty: Vec<Batch>,
    spent: Spent,
    look_at: Instant,
}

impl Lanes {
    /// The lanes of `route`, filling `batches` and those that come back in `spent`.
    pub(super) fn new(route: Route, batches: Vec<Batch>, spent: Spent) -> Self {
        let lane = |partition, ready| Lane {
            open: None,
            partition,
            ready,
        };
        let lanes: Box<[Lane]> = match route {
            Route::Batch(ready) => [lane(None, ready)].into(),
            Route::Flow(partitions) => (0..)
                .zip(partitions)
                .map(|(partition, ready)| lane(Some(partition), ready))
                .collect(),
        };
        Self {
            count: u32::try_from(lanes.len()).expect("a topic has fewer than 2^31 partitions"),
            lanes,
            empty: batches,
            spent,
            look_at: Instant::now(),
        }
    }

    /// The lane of a packet.
    #[inline]
    pub(super) fn of(&self, packet: &Packet<'_>) -> usize {
        if self.count == 1 {
            return 0;
        }
        by_flow(packet, self.count)
    }

    /// The open batch of lane `at`.
    #[inline]
    pub(super) fn batch(&mut self, at: usize) -> Option<&mut Batch> {
        self.lanes[at].open.as_mut()
    }

    /// Makes sure that a packet can be taken; false where no batch is left.
    ///
    /// A lane of several is opened by its first packet, and may still find nothing.
    pub(super) fn is_open(&mut self, now: Instant) -> bool {
        match &*self.lanes {
            [lane] => lane.open.is_some() || self.open(0, now),
            lanes => lanes.iter().any(|lane| lane.open.is_some()) || self.refill(),
        }
    }

    /// Opens a batch for lane `at`; false where none is left.
    #[cold]
    pub(super) fn open(&mut self, at: usize, now: Instant) -> bool {
        self.refill();
        let Some(mut batch) = self.empty.pop() else {
            return false;
        };
        batch.open_at(now);
        batch.set_partition(self.lanes[at].partition);
        self.lanes[at].open = Some(batch);
        true
    }

    /// Takes back what publishers are done with; false where there is nothing to fill.
    fn refill(&mut self) -> bool {
        while let Some(batch) = self.spent.pop() {
            self.empty.push(batch);
        }
        !self.empty.is_empty()
    }

    /// The open batch of lane `at`, taken out of it, and where it is to go.
    pub(super) fn close(&mut self, at: usize) -> Option<(Batch, &Ready)> {
        let lane = &mut self.lanes[at];
        let batch = lane.open.take()?;
        Some((batch, &lane.ready))
    }

    /// Whether it is time to look for lanes that are due.
    pub(super) fn is_time(&mut self, now: Instant, linger: Duration) -> bool {
        if now < self.look_at {
            return false;
        }
        if self.count > 1 {
            self.look_at = now + LOOK_EVERY.min(linger);
        }
        true
    }

    /// Whether the linger of lane `at` is over and its publisher has nothing else to do.
    ///
    /// While the publisher is busy the batch goes on filling: an outage is survived for as long as the
    /// bytes fit, not for a number of half-empty batches.
    pub(super) fn is_due(&self, at: usize, linger: Duration, now: Instant) -> bool {
        let lane = &self.lanes[at];
        let left = lane.linger_left(linger, now);
        left.is_some_and(|left| left.is_zero()) && lane.ready.is_empty()
    }

    /// The least of what is left of the lanes' lingers; `None` where nothing is in any.
    pub(super) fn linger_left(&self, linger: Duration, now: Instant) -> Option<Duration> {
        let left = |lane: &Lane| lane.linger_left(linger, now);
        self.lanes.iter().filter_map(left).min()
    }

    /// Whether something is in the open batch of lane `at`.
    pub(super) fn is_filled(&self, at: usize) -> bool {
        self.lanes[at].filled().is_some()
    }

    /// The lanes, by their numbers.
    pub(super) fn numbers(&self) -> std::ops::Range<usize> {
        0..self.lanes.len()
    }

    /// The only lane, where there are not several.
    pub(super) fn only(&self) -> Option<&Lane> {
        match &*self.lanes {
            [lane] => Some(lane),
            _ => None,
        }
    }
}
