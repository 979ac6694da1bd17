//! The publish loop: one ready ring, one sink, one thread.
//!
//! The rule: every batch that is taken from the ring comes back with an outcome, is counted, and is
//! given back to its worker. A publisher sleeps on the ring's wake-up or on the sink, never on a tick.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::counters::PublisherCounters;
use crate::histogram::Recorder;
use crate::ring::{Ready, Spent};
use crate::sink::{Finished, Sink, SinkError};

/// The longest sleep: only a stop that nobody announced waits for it.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The publish loop of one ready ring.
#[derive(Debug)]
pub struct Publisher<K> {
    ready: Ready,
    spent: Vec<Spent>,
    sink: K,
    counters: Arc<PublisherCounters>,
    in_flight: u64,
    latency: Recorder,
}

impl<K: Sink> Publisher<K> {
    /// A publisher that moves batches from `ready` to `sink` and back to `spent`, indexed by owner.
    pub fn new(
        ready: Ready,
        spent: Vec<Spent>,
        sink: K,
        counters: Arc<PublisherCounters>,
        latency: Recorder,
    ) -> Self {
        Self {
            ready,
            spent,
            sink,
            counters,
            in_flight: 0,
            latency,
        }
    }

    /// Publishes until the workers are done and the ring is empty, then completes the sink.
    ///
    /// Counts every batch, whatever the outcome: after an error or an overrun deadline, what still lies
    /// in the ring is counted as shed.
    pub fn run(mut self, control: &Control) -> Result<(), SinkError> {
        let mut finished = Vec::new();
        let mut outcome = self.publish(control, &mut finished);
        if outcome.is_err() {
            // Nothing more can be delivered: the workers are to stop as well.
            control.ask();
        }
        let completed = self.sink.finish(control.deadline(), &mut finished);
        self.settle(&mut finished);
        self.latency.share();
        outcome = outcome.and(completed);
        while !control.workers_done() || !self.ready.is_empty() {
            match self.ready.pop() {
                Some(batch) => {
                    self.counters.shed.add(batch.count().into());
                    self.spent[usize::from(batch.owner())].push(batch);
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        outcome
    }

    fn publish(
        &mut self,
        control: &Control,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError> {
        while !(control.workers_done() && self.ready.is_empty()) {
            if control.stopping() && control.overdue() {
                return Ok(());
            }
            while self.sink.has_room() {
                let Some(batch) = self.ready.pop() else { break };
                self.send(batch);
            }
            let has_room = self.sink.has_room();
            if has_room {
                self.ready.wake().sleep();
            }
            let missed = has_room && !self.ready.is_empty();
            let until = control.deadline().saturating_duration_since(Instant::now());
            let limit = if missed {
                Duration::ZERO
            } else {
                LONGEST_WAIT.min(until)
            };
            let polled = if control.workers_done() && self.ready.is_empty() {
                Ok(())
            } else {
                self.sink.poll(self.ready.wake().as_fd(), limit, finished)
            };
            self.ready.wake().awake();
            self.settle(finished);
            polled?;
        }
        Ok(())
    }

    fn send(&mut self, batch: crate::batch::Batch) {
        let records = u64::from(batch.count());
        self.counters.published.add(records);
        self.counters.batches.add(1);
        self.in_flight += records;
        self.counters.in_flight.set(self.in_flight);
        self.sink.send(batch);
    }

    fn settle(&mut self, finished: &mut Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        let now = Instant::now();
        for Finished { batch, outcome } in finished.drain(..) {
            self.in_flight -= u64::from(batch.count());
            self.counters.bytes.add(batch.len() as u64);
            self.counters.raw_bytes.add(batch.raw_len() as u64);
            self.counters.delivered.add(outcome.delivered);
            self.counters.unconfirmed.add(outcome.unconfirmed);
            for (counter, n) in self
                .counters
                .not_persisted
                .iter()
                .zip(outcome.not_persisted)
            {
                counter.add(n);
            }
            self.counters
                .possibly_persisted
                .add(outcome.possibly_persisted);
            self.counters.late.add(outcome.late);
            self.latency
                .record(now.duration_since(batch.closed()), batch.count().into());
            self.spent[usize::from(batch.owner())].push(batch);
        }
        self.counters.in_flight.set(self.in_flight);
    }
}
