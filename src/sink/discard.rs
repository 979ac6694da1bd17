//! The discard sink: takes every batch and keeps none. For measuring what comes before a sink.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::batch::Batch;
use crate::sink::{Finished, Outcome, Sink, SinkError};

/// A sink in which every record counts as delivered the moment it arrives.
#[derive(Debug, Default)]
pub struct Discard {
    taken: Vec<Batch>,
}

impl Discard {
    fn give_back(&mut self, finished: &mut Vec<Finished>) {
        finished.extend(self.taken.drain(..).map(|batch| {
            let outcome = Outcome::delivered(batch.count());
            Finished { batch, outcome }
        }));
    }
}

impl Sink for Discard {
    fn has_room(&self) -> bool {
        true
    }

    fn send(&mut self, batch: Batch) {
        self.taken.push(batch);
    }

    fn poll(
        &mut self,
        wake: BorrowedFd<'_>,
        limit: Duration,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError> {
        if self.taken.is_empty() {
            let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], limit);
        }
        self.give_back(finished);
        Ok(())
    }

    fn finish(&mut self, _: Instant, finished: &mut Vec<Finished>) -> Result<(), SinkError> {
        self.give_back(finished);
        Ok(())
    }
}
