//! Whether every worker still turns.
//!
//! The rule: a worker is judged by its own counter of turns and by nothing it says of itself. One
//! that has ended, or whose device is gone, is not expected to turn.

use std::time::{Duration, Instant};

use crate::counters::QueueState;

/// Between two looks: four of them fit into [`LIMIT`].
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// A worker waits no longer than its linger between turns, a few hundred milliseconds at most.
const LIMIT: Duration = Duration::from_secs(2);

/// What was seen of every worker, by its place on the board.
#[derive(Debug, Default)]
pub(super) struct Watch(Vec<(u64, Instant)>);

impl Watch {
    /// Compares `workers` with the last look and names those that should have turned since.
    pub(super) fn look(
        &mut self,
        workers: &[(String, QueueState, u64)],
        now: Instant,
    ) -> Vec<String> {
        let mut stuck = Vec::new();
        for (place, (name, state, turns)) in workers.iter().enumerate() {
            if place == self.0.len() {
                self.0.push((*turns, now));
            }
            let seen = &mut self.0[place];
            let waits = matches!(
                state,
                QueueState::Starting | QueueState::Ended | QueueState::Gone
            );
            if waits || seen.0 != *turns {
                *seen = (*turns, now);
            }
            if now.duration_since(seen.1) > LIMIT {
                stuck.push(name.clone());
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, state: QueueState, turns: u64) -> (String, QueueState, u64) {
        (name.to_owned(), state, turns)
    }

    #[test]
    fn a_worker_that_stops_turning_is_named_and_one_that_ended_is_not() {
        let mut watch = Watch::default();
        let start = Instant::now();
        let look = |watch: &mut Watch, turns, seconds| {
            let workers = [
                worker("eth1 queue 0", QueueState::Up, turns),
                worker("eth1 queue 1", QueueState::Down, 7),
                worker("eth1 queue 2", QueueState::Ended, 7),
                worker("eth1 queue 3", QueueState::Starting, 0),
            ];
            watch.look(&workers, start + Duration::from_secs(seconds))
        };
        assert!(look(&mut watch, 1, 0).is_empty());
        assert!(look(&mut watch, 2, 2).is_empty());
        assert_eq!(look(&mut watch, 3, 3), ["eth1 queue 1"]);
        assert_eq!(look(&mut watch, 3, 6), ["eth1 queue 0", "eth1 queue 1"]);
        assert_eq!(look(&mut watch, 4, 7), ["eth1 queue 1"]);
    }
}
