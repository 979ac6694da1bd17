//! From the time that the program stamps to the time that a record carries.
//!
//! The rule: no clock is read per packet. A stamp is moved from `CLOCK_MONOTONIC` to wall time by an
//! offset that is measured once a second; a packet without a stamp has the time of its burst.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::packet::Timestamp;

/// How old the offset may grow. NTP slews by at most 500 µs in a second (adjtimex(2)), so a stamp is
/// never further off than that.
const LIFE: Duration = Duration::from_secs(1);

/// The distance between the two clocks.
#[derive(Debug)]
pub(super) struct WallClock {
    offset: u64,
    measured: Instant,
}

impl WallClock {
    /// Measures the distance.
    pub(super) fn new() -> Self {
        Self {
            offset: offset(),
            measured: Instant::now(),
        }
    }

    /// Measures again where the last time is a second or more ago.
    pub(super) fn refresh(&mut self, now: Instant) {
        if now.duration_since(self.measured) < LIFE {
            return;
        }
        self.offset = offset();
        self.measured = now;
    }

    /// The wall time of a stamp.
    #[inline]
    pub(super) fn at(&self, monotonic: u64) -> Timestamp {
        Timestamp::from_nanos(monotonic.wrapping_add(self.offset))
    }
}

/// Nanoseconds from `CLOCK_MONOTONIC` to the wall clock, wrapping.
fn offset() -> u64 {
    // The wall clock is read between two readings of the other; their middle is its equal.
    let before = monotonic();
    let wall = Timestamp::now().nanos();
    let after = monotonic();
    wall.wrapping_sub(before + (after - before) / 2)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    u64::try_from(Duration::from(time).as_nanos())
        .expect("the machine is up for less than 584 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_now_is_the_wall_time_of_now() {
        let clock = WallClock::new();
        let before = Timestamp::now();
        let at = clock.at(monotonic());
        let after = Timestamp::now();
        let slack = 1_000_000_000;
        assert!(at.nanos() + slack > before.nanos() && at.nanos() < after.nanos() + slack);
    }

    #[test]
    fn stamps_keep_their_distances() {
        let clock = WallClock::new();
        assert_eq!(clock.at(7_000).nanos() - clock.at(6_000).nanos(), 1_000);
    }
}
