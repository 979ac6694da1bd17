//! The thread that watches: signals, ends, limits of time, and what people want to see meanwhile.
//!
//! The rule: it decides when to stop and in which order, and it never touches a packet.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tracing::{error, info, warn};

use crate::exit::Exit;
use crate::sink::SinkError;
use crate::source::SourceError;

/// How often limits are looked at and the progress line is drawn.
const TICK: Duration = Duration::from_millis(100);

/// What threads tell the supervisor.
#[derive(Debug)]
pub(super) enum Event {
    /// A signal came.
    Signal(Signal),
    /// A worker or sink asked for a stop: the count of `-c` or the last file of `-W` is reached.
    Asked,
    /// A worker has ended; its last batch is handed over.
    WorkerEnded {
        /// Its interface and queue.
        label: String,
        /// How.
        outcome: Result<(), SourceError>,
    },
    /// A publisher has ended; every batch of its ring has an outcome.
    PublisherEnded(Result<(), SinkError>),
}

/// What the supervisor does when something happens; told apart from the loop so that it can be read.
pub(super) trait Capture {
    /// Hears of the first signal to stop.
    fn signalled(&mut self);
    /// Takes nothing new in, and drains within the configured time.
    fn stop(&mut self);
    /// Gives the drain up.
    fn abandon(&mut self);
    /// Nothing more comes: publishers may end.
    fn workers_done(&mut self);
    /// Draws the progress line.
    fn progress(&mut self);
    /// Prints the table.
    fn print(&mut self);
}

/// The state of the watch.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// What threads say.
    pub(super) events: Receiver<Event>,
    /// Workers that run.
    pub(super) workers: usize,
    /// Workers that take packets off an interface and run; the capture ends with exit code 5 when the
    /// last of them has lost its device.
    pub(super) live: usize,
    /// Publishers that run.
    pub(super) publishers: usize,
    /// When to stop.
    pub(super) until: Option<Instant>,
    /// How often to print the table.
    pub(super) stats: Option<Duration>,
}

impl Supervisor {
    /// Watches until every worker and every publisher has ended, and returns what the ends say.
    pub(super) fn run(mut self, capture: &mut impl Capture) -> Exit {
        let mut exit = Exit::Done;
        let mut stopping = false;
        let mut printed = Instant::now();
        if self.workers == 0 {
            capture.workers_done();
        }
        while self.workers + self.publishers > 0 {
            let stop = match self.events.recv_timeout(TICK) {
                Ok(Event::Signal(Signal::SIGUSR1)) => {
                    capture.print();
                    false
                }
                Ok(Event::Signal(signal)) if stopping => {
                    warn!(%signal, "second signal: the drain is given up");
                    capture.abandon();
                    false
                }
                Ok(Event::Signal(signal)) => {
                    info!(%signal, "stopping");
                    capture.signalled();
                    true
                }
                Ok(Event::Asked) => true,
                Ok(Event::WorkerEnded { label, outcome }) => {
                    let ended = self.worker_ended(&label, outcome);
                    exit = exit.and(ended);
                    if self.workers == 0 {
                        capture.workers_done();
                    }
                    self.workers == 0 || ended == Exit::Failed
                }
                Ok(Event::PublisherEnded(outcome)) => {
                    self.publishers -= 1;
                    exit = exit.and(publisher_ended(outcome));
                    true
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let due = self.until.is_some_and(|until| Instant::now() >= until);
            if (stop || due) && !stopping {
                stopping = true;
                capture.stop();
            }
            capture.progress();
            if self.stats.is_some_and(|every| printed.elapsed() >= every) {
                printed = Instant::now();
                capture.print();
            }
        }
        exit
    }

    fn worker_ended(&mut self, label: &str, outcome: Result<(), SourceError>) -> Exit {
        self.workers -= 1;
        let Err(cause) = outcome else {
            return Exit::Done;
        };
        match &cause {
            SourceError::Gone { interface } => {
                self.live = self.live.saturating_sub(1);
                warn!(interface, queue = label, "the interface is gone");
                if self.live == 0 {
                    Exit::Gone
                } else {
                    Exit::Done
                }
            }
            SourceError::Damaged { .. } => Exit::Damaged,
            SourceError::Io { cause: why, .. } => {
                error!("{label}: {cause}: {why}");
                Exit::Failed
            }
        }
    }
}

fn publisher_ended(outcome: Result<(), SinkError>) -> Exit {
    match outcome {
        Ok(()) => Exit::Done,
        Err(SinkError { doing, cause }) => {
            error!("{doing}: {cause}");
            Exit::Failed
        }
    }
}
