//! The clock of a pcapng interface: ticks of its own size since a zero of its own.
//!
//! The rule: every conversion is exact, rounded down to whole nanoseconds; what lies outside of
//! [`Timestamp`] becomes its nearest end.

use crate::packet::Timestamp;

/// Nanoseconds in a second.
const SECOND: u32 = 1_000_000_000;

/// How to come from ticks to nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tick {
    /// A tick is this many nanoseconds.
    Nanos(u64),
    /// This many ticks are a nanosecond.
    Part(u64),
    /// A tick is so small that no number of them makes a nanosecond.
    Nothing,
    /// A second has this power of two of ticks.
    Binary(u32),
}

/// The `if_tsresol` and `if_tsoffset` of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    tick: Tick,
    /// Seconds to add.
    offset: i64,
}

impl Clock {
    /// The clock of an interface with this `if_tsresol`, microseconds where it has none, and this
    /// `if_tsoffset` in seconds.
    pub(super) fn new(resolution: Option<u8>, offset: i64) -> Self {
        let resolution = resolution.unwrap_or(6);
        let power = u32::from(resolution & 0x7f);
        let tick = if resolution & 0x80 != 0 {
            Tick::Binary(power)
        } else if power <= 9 {
            Tick::Nanos(10_u64.pow(9 - power))
        } else {
            10_u64
                .checked_pow(power - 9)
                .map_or(Tick::Nothing, Tick::Part)
        };
        Self { tick, offset }
    }

    /// The time `ticks` after the clock's zero.
    #[inline]
    pub(super) fn time(self, ticks: u64) -> Timestamp {
        let nanos = match self.tick {
            Tick::Nanos(nanos) if self.offset == 0 => {
                return Timestamp::from_nanos(ticks.saturating_mul(nanos));
            }
            Tick::Nanos(nanos) => u128::from(ticks) * u128::from(nanos),
            Tick::Part(ticks_per_nano) => u128::from(ticks / ticks_per_nano),
            Tick::Nothing => 0,
            Tick::Binary(power) => (u128::from(ticks) * u128::from(SECOND)) >> power,
        };
        let nanos = i128::try_from(nanos).expect("64 bits times 30 bits");
        let shifted = nanos + i128::from(self.offset) * i128::from(SECOND);
        let clamped = shifted.clamp(0, i128::from(u64::MAX));
        Timestamp::from_nanos(u64::try_from(clamped).expect("clamped to 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_every_size_become_the_same_nanoseconds() {
        let time = |resolution, offset, ticks| Clock::new(resolution, offset).time(ticks).nanos();
        assert_eq!(time(None, 0, 1_500_000), 1_500_000_000);
        assert_eq!(time(Some(6), 0, 1_500_000), 1_500_000_000);
        assert_eq!(time(Some(9), 0, 1_500_000_001), 1_500_000_001);
        assert_eq!(time(Some(0), 0, 7), 7_000_000_000);
        assert_eq!(time(Some(12), 0, 1_234_567_999), 1_234_567);
        assert_eq!(time(Some(0x80 | 10), 0, 1_536), 1_500_000_000);
        assert_eq!(time(Some(0x80), 0, 3), 3_000_000_000);
        assert_eq!(time(Some(9), 1_000, 5), 1_000_000_000_005);
        assert_eq!(time(Some(6), -1, 1_500_000), 500_000_000);
    }

    #[test]
    fn times_out_of_reach_become_the_nearest_end() {
        for resolution in 0..=255 {
            for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
                for ticks in [0, 1, u64::MAX] {
                    let _ = Clock::new(Some(resolution), offset).time(ticks);
                }
            }
        }
        assert_eq!(Clock::new(Some(6), 0).time(u64::MAX).nanos(), u64::MAX);
        assert_eq!(Clock::new(Some(6), -9).time(1).nanos(), 0);
        assert_eq!(Clock::new(Some(127), 0).time(u64::MAX).nanos(), 0);
    }
}
