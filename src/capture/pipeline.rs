//! The threads of a capture: publishers first, then workers, with the rings between them.
//!
//! The rule: every thread tells the supervisor when it ends and how, a panic included; none is joined
//! before that.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;

use crate::batch::Batch;
use crate::config::Config;
use crate::control::Control;
use crate::counters::{PublisherCounters, QueueCounters};
use crate::filler::{Filler, Route, Rules};
use crate::histogram::Histogram;
use crate::ledger::{Board, PublisherEntry};
use crate::priority;
use crate::publisher::Publisher;
use crate::ring::{Ready, Spent};
use crate::sink::{Sink, SinkError};
use crate::source::{Source, SourceError};
use crate::worker::Worker;

use super::cpus;
use super::supervisor::Event;

/// The rings between workers and publishers.
///
/// By batch, worker `w` hands its batches to publisher `w % publishers`; by flow, to all of them.
#[derive(Debug)]
pub(super) struct Rings {
    ready: Vec<Ready>,
    spent: Vec<Spent>,
    batches: usize,
    owners: Option<Vec<usize>>,
}

impl Rings {
    /// Rings in which every worker owns `batches` batches; by flow, `owners` names the publisher of each
    /// partition.
    pub(super) fn new(
        workers: usize,
        publishers: usize,
        batches: usize,
        owners: Option<Vec<usize>>,
    ) -> io::Result<Self> {
        let pushing = |publisher: usize| match &owners {
            None => (publisher..workers).step_by(publishers).count(),
            Some(_) => workers,
        };
        let ready = (0..publishers)
            .map(|at| Ready::new(pushing(at) * batches))
            .collect::<io::Result<_>>()?;
        let spent = (0..workers).map(|_| Spent::new(batches)).collect();
        Ok(Self {
            ready,
            spent,
            batches,
            owners,
        })
    }

    /// To whom worker `worker` hands its batches.
    fn route(&self, worker: usize) -> Route {
        match &self.owners {
            None => Route::Batch(self.ready[worker % self.ready.len()].clone()),
            Some(owners) => Route::Flow(owners.iter().map(|at| self.ready[*at].clone()).collect()),
        }
    }

    /// Wakes every publisher.
    pub(super) fn wake(&self) {
        self.ready.iter().for_each(|ready| ready.wake().wake());
    }
}

/// What every thread of a capture is given.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// The flags.
    pub(super) control: Arc<Control>,
    /// The register of counters.
    pub(super) board: Board,
    /// Where to say how it ended.
    pub(super) events: Sender<Event>,
}

/// Starts one publisher for each of `sinks`.
pub(super) fn publish<K>(sinks: Vec<K>, rings: &Rings, shared: &Shared) -> io::Result<()>
where
    K: Sink + Send + 'static,
{
    for (at, (sink, ready)) in sinks.into_iter().zip(&rings.ready).enumerate() {
        let counters = Arc::new(PublisherCounters::default());
        let (recorder, latency) = Histogram::new();
        shared.board.add_publisher(PublisherEntry {
            counters: counters.clone(),
            latency,
        });
        let spent = rings.spent.clone();
        let publisher = Publisher::new(ready.clone(), spent, sink, counters, recorder);
        let Shared {
            control, events, ..
        } = shared.clone();
        thread::Builder::new()
            .name(format!("publisher-{at}"))
            .spawn(move || {
                let outcome = caught(
                    || publisher.run(&control),
                    |cause| SinkError {
                        doing: format!("running publisher {at}"),
                        cause,
                    },
                );
                let _ = events.send(Event::PublisherEnded(outcome));
            })?;
    }
    Ok(())
}

/// What is particular to one worker.
#[derive(Debug)]
pub(super) struct Post {
    /// Its number.
    pub(super) worker: usize,
    /// Interface and queue, for messages and the thread's name.
    pub(super) label: String,
    /// The core it is pinned to.
    pub(super) core: Option<usize>,
    /// How it treats packets.
    pub(super) rules: Rules,
    /// Its counters.
    pub(super) counters: Arc<QueueCounters>,
    /// Its latencies, arrival to batch.
    pub(super) latency: crate::histogram::Recorder,
}

/// Starts the worker of one source. Its batches are made on its own thread, on its own core's node.
pub(super) fn work<S>(
    source: S,
    post: Post,
    config: &Config,
    rings: &Rings,
    shared: &Shared,
) -> io::Result<()>
where
    S: Source + Send + 'static,
{
    let route = rings.route(post.worker);
    let spent = rings.spent[post.worker].clone();
    let owner =
        u16::try_from(post.worker).map_err(|_| io::Error::other("65,536 workers at most"))?;
    let (size, batches, limit) = (config.batch_size, rings.batches, config.batch_limit);
    let Shared {
        control, events, ..
    } = shared.clone();
    thread::Builder::new()
        .name(format!("worker-{}", post.worker))
        .spawn(move || {
            let Post {
                worker,
                label,
                core,
                rules,
                counters,
                latency,
            } = post;
            if let Some(core) = core
                && let Err(cause) = cpus::pin(core)
            {
                tracing::warn!(worker, core, %cause, "a worker is not pinned");
            }
            if rules.live {
                priority::set(priority::WORKER);
            }
            let run = || match Batch::pool(batches, size, owner) {
                Ok(mut pool) => {
                    pool.iter_mut().for_each(|batch| batch.limit(limit));
                    let filler = Filler::new(rules, counters.clone(), pool, route, spent, latency);
                    Worker::new(source, filler, counters).run(&control)
                }
                Err(cause) => Err(SourceError::Io {
                    doing: format!(
                        "mapping {batches} batches of {size} bytes; --buffer says how many"
                    ),
                    cause,
                }),
            };
            let outcome = caught(run, |cause| SourceError::Io {
                doing: format!("running worker {worker}"),
                cause,
            });
            let _ = events.send(Event::WorkerEnded { label, outcome });
        })?;
    Ok(())
}

/// Runs a thread's work to its end; a panic, of which the message is on standard error by then, is an
/// error like another. The thread's batches and counters are not used again, so nothing half done is seen
/// but in the ledger, which says so.
fn caught<E>(
    run: impl FnOnce() -> Result<(), E>,
    failed: impl FnOnce(io::Error) -> E,
) -> Result<(), E> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(failed(io::Error::other("a panic, which is a defect"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_ends_with_an_error_and_not_in_silence() {
        let outcome = caught(|| panic!("as a test does"), |cause| cause);
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "a panic, which is a defect"
        );
        assert!(caught(|| Ok(()), |cause| cause).is_ok());
    }
}
