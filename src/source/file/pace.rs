//! When the packets of a file are due.
//!
//! The rule: every due time is counted from the first packet, never from the one before, so that
//! being late once does not make everything after it late.

use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::packet::Timestamp;

/// How far times may step back and still be packets out of order; further, and the clock was set.
const DISORDER: u64 = 1_000_000_000;

/// The longest silence that is waited for: longer ones are taken for a clock that was set, or for two
/// captures in one file.
const SILENCE: u64 = 24 * 3_600 * 1_000_000_000;

/// How fast packets come out of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speed {
    /// As fast as they are taken.
    #[default]
    Max,
    /// As far apart as when they were recorded. A time earlier than the one before is due at once; after a
    /// step back of over a second, a silence of over a day, and in the next file, the times count anew.
    Recorded,
    /// This many a second.
    Rate(NonZeroU64),
}

/// What was written is no speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "speed {value:?}: takes max, recorded, or packets per second as a whole number from 1 on, such as 10000"
)]
pub struct SpeedError {
    /// What was written.
    pub value: String,
}

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(value: &str) -> Result<Self, SpeedError> {
        match value {
            "max" => return Ok(Self::Max),
            "recorded" => return Ok(Self::Recorded),
            _ => {}
        }
        let number = value.strip_suffix("pps").unwrap_or(value).trim_end();
        number.parse().map(Self::Rate).map_err(|_| SpeedError {
            value: value.to_owned(),
        })
    }
}

/// The schedule of the packets.
#[derive(Debug)]
pub(super) struct Pace {
    speed: Speed,
    /// When the first packet was at hand.
    started: Option<Instant>,
    /// How many packets were scheduled.
    count: u64,
    /// How far into the recording its newest packet is, in nanoseconds.
    elapsed: u64,
    /// The latest time met since times count anew.
    newest: Option<u64>,
}

impl Pace {
    pub(super) fn new(speed: Speed) -> Self {
        Self {
            speed,
            started: None,
            count: 0,
            elapsed: 0,
            newest: None,
        }
    }

    /// Whether nothing is ever waited for.
    pub(super) fn is_max(&self) -> bool {
        self.speed == Speed::Max
    }

    /// Begins another file: its first packet is due right after the last.
    pub(super) fn restart(&mut self) {
        self.newest = None;
    }

    /// When the next packet, of this time, is due, in nanoseconds after the first.
    #[inline]
    pub(super) fn due(&mut self, time: Timestamp) -> u64 {
        if self.is_max() {
            return 0;
        }
        self.started.get_or_insert_with(Instant::now);
        self.schedule(time)
    }

    fn schedule(&mut self, time: Timestamp) -> u64 {
        let Speed::Rate(rate) = self.speed else {
            return self.recorded(time.nanos());
        };
        let due = u128::from(self.count) * 1_000_000_000 / u128::from(rate.get());
        self.count += 1;
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    fn recorded(&mut self, time: u64) -> u64 {
        let newest = self.newest.unwrap_or(time);
        let (ahead, behind) = (time.saturating_sub(newest), newest.saturating_sub(time));
        if ahead <= SILENCE {
            self.elapsed = self.elapsed.saturating_add(ahead);
        }
        self.newest = Some(if behind > DISORDER {
            time
        } else {
            newest.max(time)
        });
        self.elapsed
    }

    /// Which packets are due by now, as [`due`](Self::due) counts.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        if self.is_max() {
            return u64::MAX;
        }
        self.started.map_or(0, nanos_since)
    }

    /// How long it is until `due`.
    pub(super) fn left(&self, due: u64) -> Duration {
        Duration::from_nanos(due.saturating_sub(self.now()))
    }
}

fn nanos_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(speed: Speed, times: &[u64]) -> Vec<u64> {
        let mut pace = Pace::new(speed);
        let due = times
            .iter()
            .map(|time| pace.schedule(Timestamp::from_nanos(*time)));
        due.collect()
    }

    #[test]
    fn a_rate_is_kept_over_any_number_of_packets_without_drift() {
        let speed = Speed::Rate(NonZeroU64::new(3).unwrap());
        let due = schedule(speed, &[0; 7]);
        assert_eq!(due[..4], [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(due[6], 2_000_000_000);
    }

    #[test]
    fn recorded_packets_are_as_far_apart_as_they_were() {
        assert_eq!(
            schedule(Speed::Recorded, &[50, 60, 95, 95]),
            [0, 10, 45, 45]
        );
    }

    #[test]
    fn packets_out_of_order_are_due_at_once_and_delay_nothing() {
        assert_eq!(
            schedule(Speed::Recorded, &[10, 12, 11, 13, 9, 20]),
            [0, 2, 2, 3, 3, 10]
        );
    }

    #[test]
    fn times_count_anew_after_a_clock_was_set_back_or_far_ahead() {
        let second = 1_000_000_000;
        assert_eq!(
            schedule(
                Speed::Recorded,
                &[9 * second, 10 * second, 5 * second, 6 * second]
            ),
            [0, second, second, 2 * second]
        );
        assert_eq!(
            schedule(Speed::Recorded, &[0, 5, 2 * SILENCE, 2 * SILENCE + 7]),
            [0, 5, 5, 12]
        );
    }

    #[test]
    fn the_next_file_follows_at_once() {
        let mut pace = Pace::new(Speed::Recorded);
        assert_eq!(pace.schedule(Timestamp::from_nanos(1_000)), 0);
        assert_eq!(pace.schedule(Timestamp::from_nanos(1_500)), 500);
        pace.restart();
        assert_eq!(pace.schedule(Timestamp::from_nanos(77_000)), 500);
        assert_eq!(pace.schedule(Timestamp::from_nanos(77_100)), 600);
    }

    #[test]
    fn a_speed_is_max_recorded_or_a_number() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("recorded".parse(), Ok(Speed::Recorded));
        let rate = Speed::Rate(NonZeroU64::new(10_000).unwrap());
        assert_eq!("10000".parse(), Ok(rate));
        assert_eq!("10000 pps".parse(), Ok(rate));
        for wrong in ["", "0", "-1", "fast", "1.5"] {
            let error = wrong.parse::<Speed>().unwrap_err();
            assert!(error.to_string().contains(&format!("{wrong:?}")));
        }
    }
}
