//! Where batches go: the right seam of the pipeline.
//!
//! The rule: a sink takes whole batches and owes an answer for every record of each. It is owned by
//! one publisher thread and knows nothing of sources or workers.

pub mod discard;
pub mod file;
pub mod kafka;
pub mod librdkafka;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::counters::Failed;

/// What became of the records of one batch; the counts add up to the batch's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Confirmed by the store.
    pub delivered: u64,
    /// Sent with no answer asked for.
    pub unconfirmed: u64,
    /// Certainly not stored, by [`Failed`].
    pub not_persisted: [u64; 6],
    /// Sent, and the answer never came.
    pub possibly_persisted: u64,
    /// Of the delivered ones, those written after a later packet (file sink).
    pub late: u64,
}

impl Outcome {
    /// The outcome of a batch of which every record was delivered.
    pub fn delivered(records: u32) -> Self {
        Self {
            delivered: records.into(),
            ..Self::default()
        }
    }

    /// The outcome of a batch of which no record was stored.
    pub fn failed(records: u32, why: Failed) -> Self {
        let mut outcome = Self::default();
        outcome.not_persisted[why as usize] = records.into();
        outcome
    }
}

/// A batch the sink is done with, and what became of it.
#[derive(Debug)]
pub struct Finished {
    /// The batch, to be given back to its worker.
    pub batch: Batch,
    /// What became of its records.
    pub outcome: Outcome,
}

/// Why a sink cannot go on; a failure of single records is an [`Outcome`], not this.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct SinkError {
    /// What was being done, with the broker, topic or file.
    pub doing: String,
    /// What went wrong.
    #[source]
    pub cause: io::Error,
}

/// A place batches go, driven by one publisher.
pub trait Sink {
    /// Whether [`send`](Self::send) takes another batch now.
    fn has_room(&self) -> bool;

    /// Takes a batch. Called only while [`has_room`](Self::has_room); never waits for the other end.
    fn send(&mut self, batch: Batch);

    /// Does what is due and moves every batch that is done with into `finished`.
    ///
    /// Waits, when nothing is finished yet, until there is something to do, until `wake` is readable
    /// (a batch lies ready for the publisher), or until `limit` is over. Does not read from `wake`.
    fn poll(
        &mut self,
        wake: BorrowedFd<'_>,
        limit: Duration,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError>;

    /// Completes what can be completed until `deadline` and gives every batch back: afterwards the sink
    /// holds none. Files are closed under their final names.
    fn finish(&mut self, deadline: Instant, finished: &mut Vec<Finished>) -> Result<(), SinkError>;
}
