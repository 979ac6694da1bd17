//! The equations of the ledger, each with what it leaves over.
//!
//! The rule: no term is computed as a difference of others. What is on its way while the sensor
//! runs (in a ring, in an open batch, in flight) is no term either: it is what an equation leaves
//! over, and must lie between nothing and the room there is for it. After a drain it must be nothing.
//!
//! ```text
//! (1) xdp seen      = redirected + passed + filtered in XDP + aborted           per queue
//! (2) redirected    = received + rx_dropped + rx_ring_full + redirect errors
//!                     + left in the ring                                        per queue
//! (3) received      = batched + filtered + over the count + rejected            per queue
//! (4) batched       = handed + shed by the worker                               per queue
//!     handed        = published + shed by the publisher                         over all
//! (5) published     = delivered + unconfirmed + not persisted
//!                     + possibly persisted                                      per publisher
//! ```
//!
//! The two lines of (4) add up to `batched = published + in rings + shed`; apart, they say on which
//! side of the ring a record went missing. (1) and (2) exist for AF_XDP only: libpcap and files
//! start at `received`.

use serde::Serialize;

use super::Phase;
use super::reading::{PublisherReading, QueueReading};

/// One equation as it stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Equation {
    /// Its number: `1`, `2`, `3`, `4`, `5`.
    pub number: u8,
    /// What is on its left: `xdp_seen`, `redirected`, `received`, `batched`, `handed`, `published`.
    pub of: &'static str,
    /// Where it was evaluated, for people: `eth1 queue 0`, `publisher 0`, `all queues`.
    pub at: String,
    /// Its left side less its right side.
    pub residual: i64,
    /// The most that may be on its way while the sensor runs.
    pub capacity: u64,
    /// Records that are in no place: what `residual` is beyond its limits.
    pub unaccounted: u64,
}

/// A counter set read twice; the second reading began when the first had ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Twice<T> {
    pub(crate) first: T,
    pub(crate) second: T,
}

/// The limits of what is on its way between the two sides of an equation.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// What the right side may be ahead: a burst whose counters are being raised just now.
    ahead: u64,
    /// What the left side may be ahead.
    behind: u64,
}

/// Where and when the two sides of an equation were read.
#[derive(Debug)]
struct Scope<'a, T> {
    at: &'a str,
    read: &'a Twice<T>,
    phase: Phase,
}

/// Evaluates (1) to (4) for a queue.
///
/// `ring` is the most packets that lie between kernel and worker, `records` the most that fit the
/// queue's batches.
pub(crate) fn of_queue(
    at: &str,
    xdp: bool,
    (ring, records): (u64, u64),
    read: &Twice<QueueReading>,
    phase: Phase,
) -> Vec<Equation> {
    let scope = Scope { at, read, phase };
    let burst = Room {
        ahead: ring,
        behind: ring,
    };
    let mut equations = Vec::new();
    if xdp {
        let left = |queue: &QueueReading| queue.xdp_seen;
        let right = |queue: &QueueReading| {
            queue.xdp_redirected + queue.xdp_passed + queue.xdp_filtered + queue.xdp_aborted
        };
        equations.push(scope.evaluate(1, "xdp_seen", left, right, burst));
        // A ring full of packets, and as many that come between the source's two system calls.
        let kernel = Room {
            ahead: 0,
            behind: ring.saturating_mul(2),
        };
        let left = |queue: &QueueReading| queue.xdp_redirected;
        let right = |queue: &QueueReading| {
            let received = match phase {
                Phase::Running => queue.accounted,
                Phase::Drained => queue.received,
            };
            received
                + queue.rx_dropped
                + queue.rx_ring_full
                + queue.redirect_errors
                + queue.left_in_ring
        };
        equations.push(scope.evaluate(2, "redirected", left, right, kernel));
    }
    let left = |queue: &QueueReading| queue.received;
    let right = |queue: &QueueReading| {
        queue.batched + queue.filtered + queue.over_count + queue.rejections()
    };
    equations.push(scope.evaluate(3, "received", left, right, burst));
    let left = |queue: &QueueReading| queue.batched;
    let right = |queue: &QueueReading| queue.handed + queue.shed;
    // A batch that a burst fills is handed over before the burst is counted.
    let open = Room {
        ahead: ring,
        behind: records,
    };
    equations.push(scope.evaluate(4, "batched", left, right, open));
    equations
}

/// Evaluates the second line of (4): what workers handed over against what publishers took.
pub(crate) fn of_rings(records: u64, read: &Twice<(u64, u64)>, phase: Phase) -> Equation {
    let at = "all queues";
    let scope = Scope { at, read, phase };
    scope.evaluate(4, "handed", |sums| sums.0, |sums| sums.1, Room::of(records))
}

/// Evaluates (5) for a publisher, which holds `records` at most.
pub(crate) fn of_publisher(
    at: &str,
    records: u64,
    read: &Twice<PublisherReading>,
    phase: Phase,
) -> Equation {
    let scope = Scope { at, read, phase };
    let left = |publisher: &PublisherReading| publisher.published;
    scope.evaluate(
        5,
        "published",
        left,
        PublisherReading::answered,
        Room::of(records),
    )
}

impl Room {
    /// Room for `records` on their way, with counters raised upstream first.
    fn of(records: u64) -> Self {
        Self {
            ahead: 0,
            behind: records,
        }
    }
}

impl<T> Scope<'_, T> {
    /// Holds the two sides against each other.
    ///
    /// Within the first reading the right side was read before the left: it may be behind, never
    /// ahead. The right side of the second reading is later than the left of the first: by then no
    /// more than there is room for may still be on its way, however long the reading took.
    fn evaluate(
        &self,
        number: u8,
        of: &'static str,
        left: impl Fn(&T) -> u64,
        right: impl Fn(&T) -> u64,
        room: Room,
    ) -> Equation {
        let least = i128::from(left(&self.read.first)) - i128::from(right(&self.read.first));
        let late = i128::from(left(&self.read.first)) - i128::from(right(&self.read.second));
        let (capacity, excess) = match self.phase {
            Phase::Drained => (0, least.abs()),
            Phase::Running => {
                let ahead = -least - i128::from(room.ahead);
                let behind = late - i128::from(room.behind);
                (room.behind, ahead.max(behind).max(0))
            }
        };
        let limit = if least < 0 { i64::MIN } else { i64::MAX };
        Equation {
            number,
            of,
            at: self.at.to_owned(),
            residual: i64::try_from(least).unwrap_or(limit),
            capacity,
            unaccounted: u64::try_from(excess).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn still<T: Clone>(reading: T) -> Twice<T> {
        Twice {
            first: reading.clone(),
            second: reading,
        }
    }

    fn whole() -> QueueReading {
        QueueReading {
            xdp_seen: 1_000,
            xdp_redirected: 900,
            xdp_passed: 60,
            xdp_filtered: 39,
            xdp_aborted: 1,
            rx_dropped: 10,
            rx_ring_full: 20,
            redirect_errors: 3,
            left_in_ring: 7,
            accounted: 860,
            received: 860,
            filtered: 50,
            over_count: 5,
            rejected: [1, 4],
            batched: 800,
            handed: 790,
            shed: 10,
            ..QueueReading::default()
        }
    }

    fn residuals(reading: QueueReading, phase: Phase) -> Vec<(u8, i64)> {
        of_queue("eth0 queue 0", true, (64, 500), &still(reading), phase)
            .into_iter()
            .filter(|equation| equation.unaccounted > 0)
            .map(|equation| (equation.number, equation.residual))
            .collect()
    }

    #[test]
    fn a_queue_whose_frames_are_all_somewhere_balances() {
        assert_eq!(residuals(whole(), Phase::Drained), []);
        assert_eq!(residuals(whole(), Phase::Running), []);
    }

    #[test]
    fn a_frame_missing_anywhere_shows_in_the_equation_it_is_missing_from() {
        type Loss = fn(&mut QueueReading);
        let losses: [(Loss, &[(u8, i64)]); 15] = [
            (|queue| queue.xdp_seen -= 1, &[(1, -1)]),
            (|queue| queue.xdp_passed -= 1, &[(1, 1)]),
            (|queue| queue.xdp_filtered -= 1, &[(1, 1)]),
            (|queue| queue.xdp_aborted -= 1, &[(1, 1)]),
            (|queue| queue.xdp_redirected -= 1, &[(1, 1), (2, -1)]),
            (|queue| queue.rx_dropped -= 1, &[(2, 1)]),
            (|queue| queue.rx_ring_full -= 1, &[(2, 1)]),
            (|queue| queue.redirect_errors -= 1, &[(2, 1)]),
            (|queue| queue.left_in_ring -= 1, &[(2, 1)]),
            (|queue| queue.received -= 1, &[(2, 1), (3, -1)]),
            (|queue| queue.filtered -= 1, &[(3, 1)]),
            (|queue| queue.over_count -= 1, &[(3, 1)]),
            (|queue| queue.rejected[1] -= 1, &[(3, 1)]),
            (|queue| queue.handed -= 1, &[(4, 1)]),
            (|queue| queue.shed -= 1, &[(4, 1)]),
        ];
        for (loss, expected) in losses {
            let mut queue = whole();
            loss(&mut queue);
            assert_eq!(residuals(queue, Phase::Drained), expected);
        }
    }

    #[test]
    fn a_record_missing_after_the_ring_shows_in_the_fourth_or_fifth() {
        assert_eq!(of_rings(9, &still((5, 5)), Phase::Drained).unaccounted, 0);
        assert_eq!(of_rings(9, &still((5, 4)), Phase::Drained).residual, 1);
        let whole = PublisherReading {
            published: 21,
            delivered: 10,
            unconfirmed: 4,
            not_persisted: [1, 1, 1, 1, 1, 0],
            possibly_persisted: 2,
            ..PublisherReading::default()
        };
        let residual = |reading| of_publisher("", 9, &still(reading), Phase::Drained).residual;
        assert_eq!(residual(whole.clone()), 0);
        let mut lost = whole;
        lost.not_persisted[3] = 0;
        assert_eq!(residual(lost), 1);
    }

    #[test]
    fn what_is_on_its_way_is_accounted_for_up_to_the_room_there_is() {
        let mut queue = whole();
        queue.batched += 1_000;
        queue.received += 1_000;
        queue.handed += 510;
        assert_eq!(residuals(queue.clone(), Phase::Running), []);
        queue.handed -= 11;
        assert_eq!(residuals(queue, Phase::Running), [(4, 501)]);
    }

    #[test]
    fn a_batch_handed_over_within_a_burst_is_no_loss_while_running() {
        let mut queue = whole();
        queue.handed += 64;
        assert_eq!(residuals(queue.clone(), Phase::Running), []);
        assert_eq!(residuals(queue, Phase::Drained), [(4, -64)]);
    }

    #[test]
    fn a_reading_that_takes_long_is_not_mistaken_for_a_loss() {
        let mut first = whole();
        first.received += 1_000_000;
        let mut second = first.clone();
        second.batched += 1_000_000;
        let read = Twice { first, second };
        let equations = of_queue("", true, (64, 500), &read, Phase::Running);
        assert!(equations.iter().all(|equation| equation.unaccounted == 0));
    }

    #[test]
    fn libpcap_and_files_start_at_received() {
        let read = still(whole());
        let numbers: Vec<_> = of_queue("", false, (64, 500), &read, Phase::Drained)
            .iter()
            .map(|equation| equation.number)
            .collect();
        assert_eq!(numbers, [3, 4]);
    }
}
