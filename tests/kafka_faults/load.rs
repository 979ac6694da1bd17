//! A sink under steady load, in a thread of its own.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use std::os::fd::AsFd;

use ringtap::batch::Batch;

use crate::support::producer::Tested;
use crate::support::records::{BURSTS, Total, batch_of, finish, give};
use crate::support::sensor::{PATIENCE, eventually};

/// The records of a batch.
pub(crate) const EACH: u64 = 100;

/// The time from one batch to the next: 10,000 records a second.
const PACE: Duration = Duration::from_millis(10);

/// Batches by their number, each of [`EACH`] records of 60 bytes.
pub(crate) fn numbered(batches: Range<u64>) -> Vec<Batch> {
    batches.map(batch).collect()
}

fn batch(number: u64) -> Batch {
    batch_of(number * EACH..(number + 1) * EACH, &BURSTS, |_| 60)
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<Total>,
}

#[derive(Debug, Default)]
struct Shared {
    delivered: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    /// Sends batches to `sink`, one each [`PACE`] where it has room, until it is told to stop.
    pub(crate) fn start(sink: Tested) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let name = thread::current().name().unwrap_or("load").to_owned();
        let thread = thread::Builder::new().name(name);
        let thread = thread.spawn(move || seen.run(sink)).unwrap();
        Self { shared, thread }
    }

    /// Waits until so many records more are delivered.
    pub(crate) fn wait_for(&self, more: u64) {
        let wanted = self.delivered() + more;
        eventually("records are delivered", || {
            assert!(!self.thread.is_finished(), "the load has ended");
            self.delivered() >= wanted
        });
    }

    /// How many records are delivered.
    pub(crate) fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Ends it, waits for the last answers, and returns what became of every record.
    pub(crate) fn stop(self) -> Total {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Shared {
    fn run(&self, mut sink: Tested) -> Total {
        let wake = EventFd::new().unwrap();
        let mut total = Total::default();
        let mut finished = Vec::new();
        let mut next = Instant::now();
        let mut number = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= next && sink.has_room() {
                give(&mut sink, batch(number), &mut total);
                number += 1;
                next = now + PACE;
            }
            sink.poll(wake.as_fd(), PACE, &mut finished).unwrap();
            total.add(&finished);
            finished.clear();
            let delivered = total.outcome.delivered;
            self.delivered.store(delivered, Ordering::Relaxed);
        }
        finish(&mut sink, &mut total, PATIENCE);
        total
    }
}
