//! The rings between workers and publishers: ready batches one way, spent batches back.
//!
//! The rule: a ring has room for every batch that exists, so handing one over never waits and never
//! fails. Depth lives in the number of batches, nowhere else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::batch::Batch;

/// A wake-up that costs a system call only when somebody sleeps.
#[derive(Debug)]
pub struct Wake {
    event: EventFd,
    asleep: AtomicBool,
}

impl Wake {
    /// A wake-up with nobody asleep. Fails where no file descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let event = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self {
            event,
            asleep: AtomicBool::new(false),
        })
    }

    /// Says that this thread is about to wait on [`as_fd`](AsFd::as_fd). What it then finds empty is
    /// empty: whoever adds to it afterwards makes the descriptor readable.
    pub fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back and empties the descriptor.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        let _ = self.event.read();
    }

    /// Wakes the sleeper, if there is one.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            let _ = self.event.write(1);
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The batches that lie ready for one publisher; any worker may push.
#[derive(Clone, Debug)]
pub struct Ready(Arc<(ArrayQueue<Batch>, Wake)>);

impl Ready {
    /// A ring with room for `batches`: all that its workers own together.
    pub fn new(batches: usize) -> io::Result<Self> {
        Ok(Self(Arc::new((
            ArrayQueue::new(batches.max(1)),
            Wake::new()?,
        ))))
    }

    /// Hands a batch to the publisher and wakes it if it sleeps.
    pub fn push(&self, batch: Batch) {
        let (ring, wake) = &*self.0;
        ring.push(batch)
            .expect("the ready ring has room for every batch of its workers");
        wake.wake();
    }

    /// The oldest ready batch.
    pub fn pop(&self) -> Option<Batch> {
        self.0.0.pop()
    }

    /// Whether no batch lies ready.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// How many batches lie ready.
    pub fn len(&self) -> usize {
        self.0.0.len()
    }

    /// What the publisher sleeps on.
    pub fn wake(&self) -> &Wake {
        &self.0.1
    }
}

/// The batches that come back to one worker; any publisher may push.
#[derive(Clone, Debug)]
pub struct Spent(Arc<ArrayQueue<Batch>>);

impl Spent {
    /// A ring with room for `batches`: all that its worker owns.
    pub fn new(batches: usize) -> Self {
        Self(Arc::new(ArrayQueue::new(batches.max(1))))
    }

    /// Gives a batch back, emptied.
    pub fn push(&self, mut batch: Batch) {
        batch.clear();
        self.0
            .push(batch)
            .expect("the spent ring has room for every batch of its worker");
    }

    /// A batch to fill.
    pub fn pop(&self) -> Option<Batch> {
        self.0.pop()
    }
}
