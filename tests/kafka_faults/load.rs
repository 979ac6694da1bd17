//! Numbered batches into a sink: step by step, or as a steady load in a thread of its own.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use ringtap::batch::Batch;

use crate::support::broker::Topic;
use crate::support::producer::Tested;
use crate::support::records::{BURSTS, Total, batch_of, check, drive, drive_for, finish, give};
use crate::support::sensor::{PATIENCE, eventually};

/// The records of a batch, unless a case says otherwise.
pub(crate) const EACH: u64 = 100;

/// The time from one batch to the next: 10,000 records a second.
pub(crate) const PACE: Duration = Duration::from_millis(10);

/// A sink that is given batches step by step.
pub(crate) struct Writer {
    pub(crate) total: Total,
    sink: Tested,
    next: u64,
}

impl Writer {
    pub(crate) fn new(sink: Tested) -> Self {
        Self {
            total: Total::default(),
            sink,
            next: 0,
        }
    }

    /// Sends batches of small records, and waits until each is answered for.
    pub(crate) fn send(&mut self, batches: u64) {
        self.send_while(batches, |_| {});
    }

    /// The same; `each` runs again and again meanwhile.
    pub(crate) fn send_while(&mut self, batches: u64, each: impl FnMut(&Total)) {
        let batches = (0..batches).map(|_| self.batch(EACH, 60)).collect();
        drive(&mut self.sink, batches, &mut self.total, each);
    }

    /// Sends batches of so many records of so many bytes, and waits until each is answered for.
    pub(crate) fn send_sized(&mut self, batches: u64, records: u64, size: usize) {
        let batches = (0..batches).map(|_| self.batch(records, size)).collect();
        drive(&mut self.sink, batches, &mut self.total, |_| {});
    }

    /// Sends batches of so many records of so many bytes, one by one, until a condition of what became of them holds.
    pub(crate) fn send_until(
        &mut self,
        what: &str,
        records: u64,
        size: usize,
        mut holds: impl FnMut(&Total) -> bool,
    ) {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.total) {
            assert!(
                Instant::now() < end,
                "never: {what}: {:?}",
                self.total.outcome
            );
            self.send_sized(1, records, size);
            thread::sleep(PACE);
        }
    }

    /// Sends small batches until one more is delivered.
    pub(crate) fn send_until_delivered(&mut self) {
        let before = self.total.outcome.delivered;
        self.send_until("records are delivered again", EACH, 60, |total| {
            total.outcome.delivered > before
        });
    }

    /// Sends one small batch, and polls until `holds`.
    pub(crate) fn send_unanswered(&mut self, holds: impl Fn() -> bool) {
        let batch = self.batch(EACH, 60);
        give(&mut self.sink, batch, &mut self.total);
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "the batch never arrives");
            drive_for(&mut self.sink, PACE, &mut self.total);
        }
    }

    /// Ends it at once, whatever is unanswered, and holds the topic against what became of each record.
    pub(crate) fn cut_short(mut self, topic: &Topic) -> Total {
        finish(&mut self.sink, &mut self.total, PACE);
        check(&topic.records(), &self.total);
        self.total
    }

    /// Ends it, and holds the topic against what became of each record.
    pub(crate) fn end(mut self, topic: &Topic) -> Total {
        finish(&mut self.sink, &mut self.total, PATIENCE);
        check(&topic.records(), &self.total);
        self.total
    }

    fn batch(&mut self, records: u64, size: usize) -> Batch {
        let numbers = self.next..self.next + records;
        self.next = numbers.end;
        batch_of(numbers, &BURSTS, |_| size)
    }
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
    /// Sends batches to `sink`, one each `pace` where it has room, until it is told to stop.
    pub(crate) fn start(sink: Tested, pace: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let name = thread::current().name().unwrap_or("load").to_owned();
        let thread = thread::Builder::new().name(name);
        let thread = thread.spawn(move || seen.run(sink, pace)).unwrap();
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

    fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Ends it, waits for the last answers, and returns what became of every record.
    pub(crate) fn stop(self) -> Total {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Shared {
    fn run(&self, mut sink: Tested, pace: Duration) -> Total {
        let wake = EventFd::new().unwrap();
        let mut total = Total::default();
        let mut finished = Vec::new();
        let mut next = Instant::now();
        let mut number = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= next && sink.has_room() {
                let numbers = number..number + EACH;
                number = numbers.end;
                give(&mut sink, batch_of(numbers, &BURSTS, |_| 60), &mut total);
                next = now + pace;
            }
            sink.poll(wake.as_fd(), pace, &mut finished).unwrap();
            total.add(&finished);
            finished.clear();
            let delivered = total.outcome.delivered;
            self.delivered.store(delivered, Ordering::Relaxed);
        }
        finish(&mut sink, &mut total, PATIENCE);
        total
    }
}
