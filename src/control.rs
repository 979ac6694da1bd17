//! What the threads of one capture tell each other outside the rings.
//!
//! The rule: a thread is never stopped, it is asked. Stopping runs in the direction of the packets:
//! sources, then workers, then publishers; each step begins when the one before it is over.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The flags of one capture, shared by reference between all its threads.
pub struct Control {
    start: Instant,
    asked: AtomicBool,
    on_ask: Box<dyn Fn() + Send + Sync>,
    stop: AtomicBool,
    workers_done: AtomicBool,
    deadline: AtomicU64,
}

impl Default for Control {
    fn default() -> Self {
        Self::new(|| ())
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("asked", &self.asked)
            .field("stop", &self.stop)
            .field("workers_done", &self.workers_done)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// Flags of a capture that runs; `on_ask` is called once, when somebody first asks for a stop.
    pub fn new(on_ask: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            on_ask: Box::new(on_ask),
            start: Instant::now(),
            asked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            workers_done: AtomicBool::new(false),
            deadline: AtomicU64::new(u64::MAX),
        }
    }

    /// Asks the thread that supervises the capture to begin the stop.
    pub fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            (self.on_ask)();
        }
    }

    /// Asks workers to drain their sources, and everybody to be done within `limit` from now.
    ///
    /// A second call may only bring the deadline forward.
    pub fn stop(&self, limit: Duration) {
        let at = self.start.elapsed() + limit;
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX - 1);
        self.deadline.fetch_min(at, Ordering::AcqRel);
        self.stop.store(true, Ordering::Release);
    }

    /// Whether workers are asked to drain.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Says that every worker has ended, so that nothing more comes into a ready ring.
    pub fn set_workers_done(&self) {
        self.workers_done.store(true, Ordering::Release);
    }

    /// Whether every worker has ended.
    pub fn workers_done(&self) -> bool {
        self.workers_done.load(Ordering::Acquire)
    }

    /// When the drain is to be over; far in the future while nobody asked for a stop.
    pub fn deadline(&self) -> Instant {
        let at = self.deadline.load(Ordering::Acquire);
        let far = Duration::from_secs(365 * 24 * 3_600);
        self.start + Duration::from_nanos(at).min(self.start.elapsed() + far)
    }

    /// Whether the deadline is over.
    pub fn overdue(&self) -> bool {
        Instant::now() >= self.deadline()
    }
}

/// The number of packets that may still be taken over all workers (`-c`).
///
/// A worker draws a share before a burst and gives back what it did not use after it, so the total is
/// exact and the shared line is touched twice a burst.
#[derive(Debug)]
pub struct Allowance {
    limit: u64,
    left: AtomicU64,
    used: AtomicU64,
}

impl Allowance {
    /// Allows `limit` packets.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            left: AtomicU64::new(limit),
            used: AtomicU64::new(0),
        }
    }

    /// Takes up to `want` from what is left.
    pub fn draw(&self, want: u64) -> u64 {
        let take = |left: u64| Some(left - left.min(want));
        let before = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        before.unwrap_or_else(|left| left).min(want)
    }

    /// Accounts for a draw: `used` packets were taken, `back` were not.
    pub fn settle(&self, used: u64, back: u64) {
        self.left.fetch_add(back, Ordering::AcqRel);
        self.used.fetch_add(used, Ordering::AcqRel);
    }

    /// Whether every allowed packet was taken.
    pub fn exhausted(&self) -> bool {
        self.used.load(Ordering::Acquire) >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_drawn_by_many_threads_is_exact() {
        let allowance = Allowance::new(10_007);
        let total: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0_u64..4)
                .map(|id| {
                    let allowance = &allowance;
                    scope.spawn(move || {
                        let mut mine = 0;
                        while !allowance.exhausted() {
                            let drawn = allowance.draw(64);
                            let used = drawn.min(17 + id);
                            allowance.settle(used, drawn - used);
                            mine += used;
                        }
                        mine
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(total, 10_007);
    }

    #[test]
    fn a_second_stop_only_brings_the_deadline_forward() {
        let control = Control::default();
        assert!(!control.stopping() && !control.overdue());
        control.stop(Duration::from_secs(3_600));
        let first = control.deadline();
        control.stop(Duration::from_secs(7_200));
        assert_eq!(control.deadline(), first);
        control.stop(Duration::ZERO);
        assert!(control.stopping() && control.overdue());
    }
}
