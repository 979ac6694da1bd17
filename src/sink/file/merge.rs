//! Batches of several workers, read as one sequence of records in the order of time.
//!
//! The rule: a record goes out when nothing older can come any more. What every worker promises
//! ([`QueueCounters::watermark`]) says when that is; a batch that has waited too long for a promise, or
//! that stands in the way of others, goes out all the same.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use crate::batch::{Batch, Record};
use crate::counters::{Failed, QueueCounters, QueueState};
use crate::packet::Timestamp;
use crate::sink::{Finished, Outcome};

/// Where a record came from: a worker, and a batch by its place among those held of that worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    lane: u16,
    batch: u32,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Written in its order, or in that of its only worker.
    Written,
    /// Written after a later packet of another worker.
    Late,
    /// Not written.
    Failed(Failed),
}

/// What became of some records of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) place: Place,
    pub(super) records: u32,
    pub(super) fate: Fate,
}

#[derive(Debug)]
struct Held {
    batch: Batch,
    since: Instant,
    left: usize,
    outcome: Outcome,
}

/// The batches of one worker, oldest first.
#[derive(Debug)]
struct Lane {
    counters: Arc<QueueCounters>,
    taken: u64,
    held: VecDeque<Held>,
    /// The first batch with unread records; those before it wait to be settled.
    reading: usize,
    /// The time of the first unread record, where there is one.
    head: u64,
    promise: u64,
}

impl Lane {
    fn unread(&self) -> Option<&Held> {
        self.held.get(self.reading)
    }

    /// Samples the promise: no record that is not here yet is older.
    ///
    /// A worker counts a batch as handed over before it raises its watermark. Read in the other order,
    /// a watermark that was raised after a hand-over comes with the count of it.
    fn sample(&mut self) {
        let over = matches!(self.counters.state(), QueueState::Ended | QueueState::Gone);
        let watermark = self.counters.watermark.get();
        fence(Ordering::Acquire);
        self.promise = match self.counters.handed_batches.get() > self.taken {
            true => 0,
            false if over => u64::MAX,
            false => watermark,
        };
    }

    fn look_ahead(&mut self) {
        let next = self
            .held
            .get(self.reading)
            .and_then(|held| held.batch.records_in_last(held.left).next());
        self.head = next.map_or(0, |record| time(&record).nanos());
    }
}

/// The batches that a sink holds, of all its workers.
#[derive(Debug)]
pub(super) struct Merge {
    lanes: Vec<Lane>,
    hold: usize,
    patience: Duration,
    newest: u64,
}

impl Merge {
    /// Merges the batches of these workers, by owner number; at most `hold` of each are held back, and none
    /// for longer than `patience`.
    pub(super) fn new(queues: Vec<Arc<QueueCounters>>, hold: usize, patience: Duration) -> Self {
        let lane = |counters| Lane {
            counters,
            taken: 0,
            held: VecDeque::with_capacity(hold + 1),
            reading: 0,
            head: 0,
            promise: 0,
        };
        Self {
            lanes: queues.into_iter().map(lane).collect(),
            hold: hold.max(1),
            patience,
            newest: 0,
        }
    }

    /// Takes a batch of records.
    pub(super) fn push(&mut self, batch: Batch, now: Instant) {
        let lane = self
            .lanes
            .get_mut(usize::from(batch.owner()))
            .expect("a batch belongs to a worker that the sink was made for");
        lane.taken += 1;
        lane.held.push_back(Held {
            left: batch.records().left(),
            batch,
            since: now,
            outcome: Outcome::default(),
        });
        if lane.reading + 1 == lane.held.len() {
            lane.look_ahead();
        }
    }

    /// Whether as many batches of one worker are held as may be.
    pub(super) fn is_full(&self) -> bool {
        self.lanes.iter().any(|lane| lane.held.len() >= self.hold)
    }

    /// Whether no batch is held.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.held.is_empty())
    }

    /// Gives every record that may go to `write`, with its place and whether it is late, until `write`
    /// says that it wants no more now. `all` lets every record go.
    pub(super) fn release(
        &mut self,
        now: Instant,
        all: bool,
        mut write: impl FnMut(Place, bool, &Record<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.lanes.iter_mut().for_each(Lane::sample);
        while let Some((lane, bound)) = self.next_run(now, all) {
            self.run(lane, bound, &mut write)?;
        }
        ControlFlow::Continue(())
    }

    /// The worker whose record is the oldest, and the time up to which its records may go.
    fn next_run(&self, now: Instant, all: bool) -> Option<(usize, u64)> {
        let mut oldest: Option<(usize, u64)> = None;
        let mut bound = u64::MAX;
        let mut promised = u64::MAX;
        let mut forced = all;
        for (number, lane) in self.lanes.iter().enumerate() {
            let Some(held) = lane.unread() else {
                promised = promised.min(lane.promise);
                continue;
            };
            forced |= lane.held.len() - lane.reading >= self.hold;
            forced |= now.saturating_duration_since(held.since) >= self.patience;
            match oldest {
                Some((_, time)) if time <= lane.head => bound = bound.min(lane.head),
                _ => {
                    bound = oldest.map_or(bound, |(_, time)| bound.min(time));
                    oldest = Some((number, lane.head));
                }
            }
        }
        let (number, time) = oldest?;
        if !forced {
            bound = bound.min(promised);
        }
        (time <= bound).then_some((number, bound))
    }

    /// Writes records of one batch of this worker while they are not later than `bound`.
    fn run(
        &mut self,
        number: usize,
        bound: u64,
        write: &mut impl FnMut(Place, bool, &Record<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let several = self.lanes.len() > 1;
        let lane = &mut self.lanes[number];
        let place = Place {
            lane: u16::try_from(number).expect("owners are numbered with 16 bits"),
            batch: u32::try_from(lane.reading).expect("fewer batches are held than there are"),
        };
        let held = &mut lane.held[lane.reading];
        let mut records = held.batch.records_in_last(held.left);
        let mut flow = ControlFlow::Continue(());
        loop {
            held.left = records.left();
            let Some(record) = records.next() else {
                lane.reading += 1;
                break;
            };
            let time = time(&record).nanos();
            if flow.is_break() || time > bound {
                lane.head = time;
                return flow;
            }
            flow = write(place, several && time < self.newest, &record);
            self.newest = self.newest.max(time);
        }
        lane.look_ahead();
        flow
    }

    /// Notes what became of records that [`release`](Self::release) gave out.
    pub(super) fn settle(&mut self, settled: Settled) {
        let Settled {
            place,
            records,
            fate,
        } = settled;
        let lane = &mut self.lanes[usize::from(place.lane)];
        let outcome = &mut lane.held[place.batch as usize].outcome;
        let records = u64::from(records);
        match fate {
            Fate::Written => outcome.delivered += records,
            Fate::Late => {
                outcome.delivered += records;
                outcome.late += records;
            }
            Fate::Failed(why) => outcome.not_persisted[why as usize] += records,
        }
    }

    /// Moves the batches that are read to `finished`; all their records must have been settled.
    pub(super) fn take_finished(&mut self, finished: &mut Vec<Finished>) {
        for lane in &mut self.lanes {
            let read = lane.held.drain(..lane.reading);
            finished.extend(read.map(|held| Finished {
                batch: held.batch,
                outcome: held.outcome,
            }));
            lane.reading = 0;
        }
    }

    /// Gives up every record that is not read yet.
    pub(super) fn abandon(&mut self, why: Failed) {
        for lane in &mut self.lanes {
            for held in lane.held.range_mut(lane.reading..) {
                let left = held.batch.records_in_last(held.left).count() as u64;
                held.outcome.not_persisted[why as usize] += left;
                held.left = 0;
            }
            lane.reading = lane.held.len();
        }
    }
}

/// The time of a record; of one without the `rt` header, what its record says.
#[inline]
pub(super) fn time(record: &Record<'_>) -> Timestamp {
    match record.info {
        Some(info) => info.time,
        None => {
            let millis = u64::try_from(record.time).unwrap_or(0);
            Timestamp::from_nanos(millis.saturating_mul(1_000_000))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Origin;
    use crate::packet::{Clock, LinkType, Packet};
    use crate::record::{Encoding, KeyTime, RecordTime};

    const PATIENCE: Duration = Duration::from_secs(3_600);

    const ENCODING: Encoding = Encoding {
        key_time: KeyTime::Micros,
        record_time: RecordTime::Packet,
        headers: true,
        snaplen: 65_535,
    };

    fn batch(owner: u16, times: &[u64]) -> Batch {
        let mut batch = Batch::new(4_096, owner);
        for time in times {
            let packet = Packet {
                clock: Clock::Arrival,
                time: Timestamp::from_nanos(*time),
                orig_len: 0,
                link_type: LinkType::ETHERNET,
                interface: 0,
                data: &[],
                more: &[],
            };
            batch.push(&packet, &ENCODING, Origin::default()).unwrap();
        }
        batch
    }

    fn queues(count: usize) -> Vec<Arc<QueueCounters>> {
        (0..count).map(|_| Arc::default()).collect()
    }

    /// Releases what may go now, as (time, late), and returns what is finished.
    fn released(
        merge: &mut Merge,
        now: Instant,
        all: bool,
        out: &mut Vec<(u64, bool)>,
    ) -> Vec<Finished> {
        let mut settled = Vec::new();
        let flow = merge.release(now, all, |place, late, record| {
            out.push((time(record).nanos(), late));
            let fate = if late { Fate::Late } else { Fate::Written };
            settled.push(Settled {
                place,
                records: 1,
                fate,
            });
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        for settled in settled {
            merge.settle(settled);
        }
        let mut finished = Vec::new();
        merge.take_finished(&mut finished);
        finished
    }

    #[test]
    fn the_records_of_a_single_worker_pass_as_they_are() {
        let mut merge = Merge::new(queues(1), 4, PATIENCE);
        let now = Instant::now();
        merge.push(batch(0, &[5, 3, 9]), now);
        let mut out = Vec::new();
        let finished = released(&mut merge, now, false, &mut out);
        assert_eq!(out, [(5, false), (3, false), (9, false)]);
        assert_eq!(finished[0].outcome, Outcome::delivered(3));
    }

    #[test]
    fn a_record_waits_for_the_promise_of_the_other_worker() {
        let queues = queues(2);
        let mut merge = Merge::new(queues.clone(), 4, PATIENCE);
        let now = Instant::now();
        let mut out = Vec::new();
        merge.push(batch(0, &[10, 20, 30]), now);
        assert!(released(&mut merge, now, false, &mut out).is_empty());
        queues[1].watermark.set(20);
        assert!(released(&mut merge, now, false, &mut out).is_empty());
        assert_eq!(out, [(10, false), (20, false)]);
        queues[1].set_state(QueueState::Ended);
        assert_eq!(released(&mut merge, now, false, &mut out).len(), 1);
        assert_eq!(out.len(), 3);
    }

    #[test]
    fn a_promise_does_not_count_while_a_batch_is_on_its_way() {
        let queues = queues(2);
        let mut merge = Merge::new(queues.clone(), 4, PATIENCE);
        let now = Instant::now();
        let mut out = Vec::new();
        queues[1].handed_batches.add(1);
        queues[1].watermark.set(100);
        merge.push(batch(0, &[10]), now);
        released(&mut merge, now, false, &mut out);
        assert_eq!(out, []);
        merge.push(batch(1, &[5]), now);
        released(&mut merge, now, false, &mut out);
        assert_eq!(out, [(5, false), (10, false)]);
    }

    #[test]
    fn a_batch_that_has_waited_too_long_goes_and_what_comes_then_is_late() {
        let mut merge = Merge::new(queues(2), 4, PATIENCE);
        let now = Instant::now();
        let mut out = Vec::new();
        merge.push(batch(0, &[10, 20]), now);
        assert!(released(&mut merge, now, false, &mut out).is_empty());
        assert_eq!(
            released(&mut merge, now + PATIENCE, false, &mut out).len(),
            1
        );
        merge.push(batch(1, &[15, 25]), now + PATIENCE);
        let finished = released(&mut merge, now + PATIENCE, true, &mut out);
        assert_eq!(out, [(10, false), (20, false), (15, true), (25, false)]);
        assert_eq!(
            (finished[0].outcome.delivered, finished[0].outcome.late),
            (2, 1)
        );
    }

    #[test]
    fn a_worker_never_has_more_batches_held_than_agreed() {
        let mut merge = Merge::new(queues(2), 2, PATIENCE);
        let now = Instant::now();
        let mut out = Vec::new();
        merge.push(batch(0, &[9, 1]), now);
        assert!(!merge.is_full());
        merge.push(batch(0, &[2]), now);
        assert!(merge.is_full());
        let finished = released(&mut merge, now, false, &mut out);
        assert_eq!(finished.len(), 1);
        assert!(!merge.is_full());
    }

    #[test]
    fn what_is_given_up_is_counted_to_the_record() {
        let mut merge = Merge::new(queues(2), 4, PATIENCE);
        let now = Instant::now();
        merge.push(batch(0, &[1, 2, 3]), now);
        let mut place = None;
        let flow = merge.release(now, true, |at, _, _| {
            place = Some(at);
            ControlFlow::Break(())
        });
        assert!(flow.is_break());
        merge.settle(Settled {
            place: place.unwrap(),
            records: 1,
            fate: Fate::Written,
        });
        merge.abandon(Failed::Purged);
        let mut finished = Vec::new();
        merge.take_finished(&mut finished);
        let outcome = finished[0].outcome;
        assert_eq!(outcome.delivered, 1);
        assert_eq!(outcome.not_persisted[Failed::Purged as usize], 2);
    }

    proptest! {
        #[test]
        fn promises_that_hold_make_one_sequence_in_order_of_time(
            steps in prop::collection::vec((0_usize..3, prop::collection::vec(0_u64..50, 1..8)), 1..60),
        ) {
            let queues = queues(3);
            let mut merge = Merge::new(queues.clone(), usize::from(u16::MAX), PATIENCE);
            let now = Instant::now();
            let mut clocks = [0_u64; 3];
            let mut pushed = 0;
            let mut out = Vec::new();
            let mut finished = 0;
            for (owner, gaps) in steps {
                let mut clock = clocks[owner];
                let times: Vec<u64> = gaps.iter().map(|gap| { clock += gap; clock }).collect();
                clocks[owner] = clock;
                pushed += times.len();
                queues[owner].handed_batches.add(1);
                queues[owner].watermark.set(clock);
                released(&mut merge, now, false, &mut out);
                merge.push(batch(u16::try_from(owner).unwrap(), &times), now);
                finished += released(&mut merge, now, false, &mut out).len();
            }
            for queue in &queues {
                queue.set_state(QueueState::Ended);
            }
            finished += released(&mut merge, now, false, &mut out).len();
            prop_assert!(merge.is_empty());
            prop_assert_eq!(out.len(), pushed);
            prop_assert!(out.is_sorted());
            prop_assert!(out.iter().all(|(_, late)| !late));
            prop_assert!(finished > 0);
        }
    }
}
