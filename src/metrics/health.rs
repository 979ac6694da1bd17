//! Whether what should move still moves: every worker turns, every sink answers.
//!
//! The rule: each is judged by a counter of its own, and by nothing it says of itself. A worker that has
//! ended, or whose device is gone, is not expected to turn; a sink that owes nothing is not expected to
//! answer.

use std::time::{Duration, Instant};

use crate::ledger::Pulse;

/// Between two looks: four of them fit into [`TURNS`].
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// A worker waits no longer than its linger between turns, a few hundred milliseconds at most.
const TURNS: Duration = Duration::from_secs(2);
/// A sound broker answers a batch within its linger and a round trip; a busy one may take seconds.
const ANSWERS: Duration = Duration::from_secs(5);

/// What was seen of each, by its place on the board.
#[derive(Debug)]
pub(super) struct Watch {
    limit: Duration,
    seen: Vec<(u64, Instant)>,
}

impl Watch {
    /// A watch over workers.
    pub(super) fn turns() -> Self {
        Self {
            limit: TURNS,
            seen: Vec::new(),
        }
    }

    /// A watch over sinks.
    pub(super) fn answers() -> Self {
        Self {
            limit: ANSWERS,
            seen: Vec::new(),
        }
    }

    /// Compares with the last look and names those that should have moved since.
    pub(super) fn look(&mut self, pulses: Vec<Pulse>, now: Instant) -> Vec<String> {
        let mut stuck = Vec::new();
        for (place, pulse) in pulses.into_iter().enumerate() {
            if place == self.seen.len() {
                self.seen.push((pulse.beats, now));
            }
            let seen = &mut self.seen[place];
            if !pulse.is_due || seen.0 != pulse.beats {
                *seen = (pulse.beats, now);
            }
            if now.duration_since(seen.1) > self.limit {
                stuck.push(pulse.name);
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(name: &str, is_due: bool, beats: u64) -> Pulse {
        Pulse {
            name: name.to_owned(),
            is_due,
            beats,
        }
    }

    #[test]
    fn a_worker_that_stops_turning_is_named_and_one_that_ended_is_not() {
        let mut watch = Watch::turns();
        let start = Instant::now();
        let look = |watch: &mut Watch, turns, seconds| {
            let workers = vec![
                pulse("eth1 queue 0", true, turns),
                pulse("eth1 queue 1", true, 7),
                pulse("eth1 queue 2", false, 7),
            ];
            watch.look(workers, start + Duration::from_secs(seconds))
        };
        assert!(look(&mut watch, 1, 0).is_empty());
        assert!(look(&mut watch, 2, 2).is_empty());
        assert_eq!(look(&mut watch, 3, 3), ["eth1 queue 1"]);
        assert_eq!(look(&mut watch, 3, 6), ["eth1 queue 0", "eth1 queue 1"]);
        assert_eq!(look(&mut watch, 4, 7), ["eth1 queue 1"]);
    }

    #[test]
    fn a_sink_that_owes_an_answer_is_named_until_one_comes() {
        let mut watch = Watch::answers();
        let start = Instant::now();
        let mut look = |owes, answers, seconds| {
            let sinks = vec![pulse("publisher 0", owes, answers)];
            watch.look(sinks, start + Duration::from_secs(seconds))
        };
        assert!(look(false, 0, 0).is_empty());
        assert!(look(false, 0, 60).is_empty());
        assert!(look(true, 0, 61).is_empty());
        assert!(look(true, 0, 65).is_empty());
        assert_eq!(look(true, 0, 66), ["publisher 0"]);
        assert!(look(true, 1, 67).is_empty());
        assert!(look(false, 1, 80).is_empty());
    }
}
