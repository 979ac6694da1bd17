//! How long to sleep when the ring is empty.
//!
//! The rule: while a nap lasts, at most a quarter of the RX ring fills at the rate seen lately. A
//! wake-up costs about 20 µs of CPU in a virtual machine, so a worker that is woken per packet ruins
//! moderate rates; one that naps takes a whole burst per wake-up.

use std::time::{Duration, Instant};

/// The shortest nap: below it the timer costs more than the packets of a moderate rate.
const SHORTEST: Duration = Duration::from_micros(50);

/// The longest nap where packets carry no stamp: they get the time of their burst.
const LONGEST_WITHOUT_STAMPS: Duration = Duration::from_millis(1);

/// Naps without a packet after which the worker waits on the kernel.
const EMPTY_NAPS: u32 = 4;

/// What to do when the ring is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep for a time derived from the rate, at most `max`; wait on the kernel once several naps
    /// found nothing.
    Nap {
        /// The longest nap; 5 ms by default.
        max: Duration,
    },
    /// Wait on the kernel at once: least latency without a spinning core, most CPU at moderate rates.
    Poll,
    /// Do not sleep at all. Needs a core of its own.
    Spin,
    /// Do not sleep, and run the driver's receive path from this thread (`SO_PREFER_BUSY_POLL`).
    ///
    /// Takes effect where `napi_defer_hard_irqs` and `gro_flush_timeout` of the interface are set.
    BusyPoll,
}

impl Idle {
    /// Naps of at most 5 ms.
    pub const DEFAULT: Self = Self::Nap {
        max: Duration::from_millis(5),
    };

    /// Its name on the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nap { .. } => "nap",
            Self::Poll => "poll",
            Self::Spin => "spin",
            Self::BusyPoll => "busy-poll",
        }
    }
}

/// One way to pass the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Sleep this long.
    Nap(Duration),
    /// Wait on the kernel.
    Poll,
}

/// The rate seen lately, and what follows from it.
#[derive(Debug)]
pub(super) struct Pace {
    quarter: u32,
    max: Duration,
    /// When the last nap began, or the last wait ended.
    since: Instant,
    /// The time between packets: falls at once, rises slowly.
    gap: Duration,
    last: Duration,
    empty: u32,
}

impl Pace {
    /// For a ring of `ring` descriptors and naps of at most `max`.
    pub(super) fn new(ring: u32, max: Duration, now: Instant) -> Self {
        let max = max.max(SHORTEST);
        Self {
            quarter: (ring / 4).max(1),
            max,
            since: now,
            gap: max,
            last: SHORTEST,
            empty: 0,
        }
    }

    /// Chooses the next rest; `arrived` packets came since the last one was chosen.
    pub(super) fn rest(&mut self, arrived: u32, stamped: bool, now: Instant) -> Rest {
        let stretch = now.saturating_duration_since(self.since);
        self.since = now;
        if arrived == 0 {
            self.empty += 1;
            self.gap = self.gap.max(stretch);
        } else {
            self.empty = 0;
            self.gap = (stretch / arrived).min(self.gap + self.gap / 4);
        }
        if self.empty > EMPTY_NAPS {
            return Rest::Poll;
        }
        let longest = if stamped {
            self.max
        } else {
            self.max.min(LONGEST_WITHOUT_STAMPS)
        };
        // After a wait the rate is not known: naps grow step by step towards what it allows.
        let step = (self.last * 4).min(longest);
        self.last = self
            .gap
            .saturating_mul(self.quarter)
            .min(step)
            .max(SHORTEST);
        Rest::Nap(self.last)
    }

    /// Notes the end of a wait on the kernel; `ready` when it ended because of a packet.
    pub(super) fn polled(&mut self, ready: bool, now: Instant) {
        self.since = now;
        if ready {
            self.last = SHORTEST / 4;
            self.empty = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: u32 = 8_192;

    /// How many packets come in `time` at `rate` a second.
    fn come(time: Duration, rate: u64) -> u64 {
        u64::try_from(time.as_nanos()).unwrap() * rate / 1_000_000_000
    }

    /// Feeds a pace with `rate` packets a second; returns the naps it chose.
    fn naps(pace: &mut Pace, mut now: Instant, rate: u64, turns: usize) -> Vec<Duration> {
        let mut naps = vec![];
        let mut slept = Duration::from_micros(50);
        for _ in 0..turns {
            now += slept;
            let arrived = u32::try_from(come(slept, rate)).unwrap();
            let Rest::Nap(nap) = pace.rest(arrived, true, now) else {
                break;
            };
            naps.push(nap);
            slept = nap;
        }
        naps
    }

    #[test]
    fn at_any_steady_rate_at_most_a_quarter_of_the_ring_arrives_in_a_nap() {
        for rate in [20_000, 100_000, 500_000, 1_000_000, 5_000_000, 20_000_000] {
            let now = Instant::now();
            let mut pace = Pace::new(RING, Duration::from_millis(5), now);
            let naps = naps(&mut pace, now, rate, 50);
            assert_eq!(
                naps.len(),
                50,
                "{rate} packets a second are no reason to wait on the kernel"
            );
            for nap in naps {
                let arrive = come(nap, rate);
                assert!(
                    arrive <= u64::from(RING / 4) + 1,
                    "{arrive} arrive in {nap:?} at {rate}/s"
                );
            }
        }
    }

    #[test]
    fn a_moderate_rate_is_napped_through_at_the_longest_nap() {
        let now = Instant::now();
        let mut pace = Pace::new(RING, Duration::from_millis(5), now);
        assert_eq!(
            naps(&mut pace, now, 100_000, 20).last(),
            Some(&Duration::from_millis(5))
        );
    }

    #[test]
    fn a_silent_link_is_waited_on_after_a_few_naps_and_from_then_on() {
        let now = Instant::now();
        let mut pace = Pace::new(RING, Duration::from_millis(5), now);
        let chosen: Vec<_> = (0..8)
            .map(|_| {
                let rest = pace.rest(0, true, now);
                if rest == Rest::Poll {
                    pace.polled(false, now);
                }
                rest
            })
            .collect();
        assert!(
            chosen[..4].iter().all(|rest| *rest != Rest::Poll),
            "{chosen:?}"
        );
        assert!(
            chosen[4..].iter().all(|rest| *rest == Rest::Poll),
            "{chosen:?}"
        );
    }

    #[test]
    fn without_stamps_no_nap_is_longer_than_a_millisecond() {
        let now = Instant::now();
        let mut pace = Pace::new(RING, Duration::from_millis(5), now);
        for turn in 1..50 {
            let rest = pace.rest(1, false, now + turn * Duration::from_millis(1));
            assert!(matches!(rest, Rest::Nap(nap) if nap <= Duration::from_millis(1)));
        }
    }
}
