//! The receive loop: one source, one thread, one core.
//!
//! The rule: back-pressure is not receiving. With no batch left to fill, a worker leaves packets where
//! they are; the kernel drops what does not fit, and counts every one. There is no drop code here.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::counters::{QueueCounters, QueueState};
use crate::filler::Filler;
use crate::packet::Timestamp;
use crate::source::{Burst, Source, SourceError};

/// How long a worker sleeps when no batch is there to be filled: a publisher takes longer than this to
/// empty the other batches, so none is idle meanwhile.
const BACKPRESSURE_NAP: Duration = Duration::from_millis(1);

/// The longest wait for a packet: a stop is noticed within it.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// How often the source's own figures are brought up to date.
const ACCOUNT_EVERY: Duration = Duration::from_millis(100);

/// What one turn of the loop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Packets were received; the next turn may follow at once.
    Received,
    /// Nothing was there.
    Idle,
    /// No batch was left to fill, or the count is drawn up elsewhere; packets wait where they are.
    Backpressure,
    /// The source is at its end.
    End,
}

/// The receive loop of one queue.
#[derive(Debug)]
pub struct Worker<S> {
    source: S,
    filler: Filler,
    counters: Arc<QueueCounters>,
    idle_since: Option<Instant>,
    accounted: Instant,
    damage: Option<SourceError>,
}

impl<S: Source> Worker<S> {
    /// A worker that moves packets from `source` into the batches of `filler`.
    pub fn new(source: S, filler: Filler, counters: Arc<QueueCounters>) -> Self {
        Self {
            source,
            filler,
            counters,
            idle_since: None,
            accounted: Instant::now(),
            damage: None,
        }
    }

    /// Receives until the source ends, or until the drain that `control` asks for is over.
    ///
    /// Hands over its last batch and brings every counter up to date before it returns, whatever the
    /// outcome. Damage in a file is logged and returned at the end: the source goes on behind it, with
    /// the next file. Any other error of the source ends the worker.
    pub fn run(mut self, control: &Control) -> Result<(), SourceError> {
        self.counters.set_state(QueueState::Up);
        let outcome = self.receive(control);
        self.filler.finish(Instant::now());
        self.source.account(&self.counters);
        self.counters.accounted.set(self.counters.received.get());
        self.counters.watermark.set(u64::MAX);
        self.counters.set_state(match outcome {
            Err(SourceError::Gone { .. }) => QueueState::Gone,
            _ => QueueState::Ended,
        });
        outcome
    }

    fn receive(&mut self, control: &Control) -> Result<(), SourceError> {
        let mut draining = false;
        loop {
            if control.stopping() && !draining {
                draining = true;
                self.source.stop()?;
                self.counters.set_state(QueueState::Draining);
            }
            if draining && control.overdue() {
                self.counters.left_in_ring.set(self.source.left());
                return Ok(());
            }
            match self.turn() {
                Ok(Turn::Received) => {}
                Ok(Turn::Idle) => self.wait()?,
                Ok(Turn::Backpressure) => thread::sleep(BACKPRESSURE_NAP),
                Ok(Turn::End) => return self.damage.take().map_or(Ok(()), Err),
                Err(damaged @ SourceError::Damaged { .. }) => {
                    tracing::error!("{damaged}; what came before it is kept");
                    self.damage.get_or_insert(damaged);
                }
                Err(other) => return Err(other),
            }
            if self.filler.exhausted() {
                control.ask();
            }
        }
    }

    /// Hands over the batch that is due, then receives one burst.
    pub fn turn(&mut self) -> Result<Turn, SourceError> {
        let now = Instant::now();
        self.counters.turns.add(1);
        if now.duration_since(self.accounted) >= ACCOUNT_EVERY {
            self.accounted = now;
            self.source.account(&self.counters);
            self.counters.accounted.set(self.counters.received.get());
            self.publish_state();
        }
        self.filler.close_if_due(now);
        if !self.filler.open(now) {
            self.counters.backpressure.add(1);
            return Ok(Turn::Backpressure);
        }
        let asked = self.idle_since.map(|_| Timestamp::now());
        let filler = &mut self.filler;
        let burst = self.source.recv(&mut |packet| filler.take(packet));
        self.filler.settle();
        Ok(match burst? {
            Burst::Packets(_) => {
                self.idle_since = None;
                self.filler.raise_watermark(None);
                Turn::Received
            }
            Burst::Refused(_) => Turn::Backpressure,
            Burst::Empty => {
                self.idle_since.get_or_insert(now);
                self.filler
                    .raise_watermark(asked.map(|at| at.before(self.source.lag())));
                Turn::Idle
            }
            Burst::End => Turn::End,
        })
    }

    fn wait(&mut self) -> Result<(), SourceError> {
        let now = Instant::now();
        let idle = self
            .idle_since
            .map_or(Duration::ZERO, |since| now.duration_since(since));
        // A batch whose linger is over goes on filling while its publisher is busy; that is no reason to spin.
        let linger = self
            .filler
            .linger_left(now)
            .map(|left| left.max(BACKPRESSURE_NAP));
        let limit = linger.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        self.source.wait(limit, idle)
    }

    fn publish_state(&self) {
        let state = self.counters.state();
        let seen = self.source.state();
        if matches!(state, QueueState::Up | QueueState::Down) && state != seen {
            self.counters.set_state(seen);
        }
    }
}
