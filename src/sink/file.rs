//! Capture files: one from all queues, merged by time, or a row of them.
//!
//! The rule: a file tells the truth at every moment. It ends with a whole block, a rotated one has its
//! final name only when it is complete, and a record counts as delivered only when it is written whole.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};

use self::merge::Merge;
use self::output::{Output, Style, Target};
use self::regular::Files;
use self::rotate::Names;
use self::stream::Stream;
use crate::batch::Batch;
use crate::counters::{Failed, QueueCounters};
use crate::format::write::{Format, InterfaceTotals};
use crate::interfaces::Interfaces;
use crate::packet::{LinkType, Timestamp};
use crate::signals;
use crate::sink::{Finished, Outcome, Sink, SinkError};

mod merge;
mod output;
mod regular;
mod rotate;
mod stream;

pub use rotate::Rotation;

/// How often held batches are looked at: a worker's promise comes without a wake-up.
const LOOK: Duration = Duration::from_millis(10);

/// What is known of an interface, by its number, when a file is closed; `None` for one of which nothing
/// is to be told.
pub type Totals = Arc<dyn Fn(u16) -> Option<InterfaceTotals> + Send + Sync>;

/// Where captured packets are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output: a record is with its reader as soon as it may go.
    Stdout,
    /// A file, or several named after it. What is no regular file is written like standard output.
    Path(PathBuf),
}

/// What a file sink is made from.
#[derive(Clone)]
pub struct FileConfig {
    /// Where to.
    pub destination: Destination,
    /// In which format; see [`Format::of_path`].
    pub format: Format,
    /// When to begin another file.
    pub rotation: Rotation,
    /// The snap length that a pcap file states; in a pcapng file each interface states its own.
    pub snaplen: u32,
    /// The link type of a pcap file; that of the first packet where it is not known beforehand.
    pub link_type: Option<LinkType>,
    /// The interfaces that the records name.
    pub interfaces: Interfaces,
    /// Tells what the statistics blocks say; called when a file is completed, by the sink's thread.
    pub totals: Totals,
    /// The counters of the workers, by owner number; they tell what may still come.
    pub queues: Vec<Arc<QueueCounters>>,
    /// The most batches of one worker that are held back to be merged; at least 1. To be less than the
    /// worker owns, or it has none left to fill.
    pub hold: usize,
    /// How long a batch waits for the promises of other workers: many times the age at which a worker hands
    /// a batch over. A worker that is later than this stands still, and the reader of a pipe should not
    /// stand with it.
    pub patience: Duration,
    /// Called once, by the sink's thread, when the last file of `-G` with `-W` is over: capture is to
    /// end. Whatever is still under way goes into that file.
    pub at_end: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for FileConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileConfig")
            .field("destination", &self.destination)
            .field("format", &self.format)
            .field("rotation", &self.rotation)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}

/// Why a file sink cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A pipe has no next file.
    #[error(
        "write {name} with -C or -G: only a regular file can be rotated; name one, or leave them out"
    )]
    Stream {
        /// Standard output, or the path.
        name: String,
    },
    /// The name cannot be formatted with a time.
    #[error(
        "write {} with -G: the name must be text that strftime(3) formats; write %% for a plain %",
        path.display()
    )]
    Pattern {
        /// The name.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: Option<time::error::InvalidFormatDescription>,
    },
    /// The first file cannot be begun.
    #[error(transparent)]
    Start(#[from] SinkError),
}

/// A sink that writes capture files.
///
/// With several workers the file is in the order of time, as far as their promises
/// ([`QueueCounters::watermark`]) tell: a worker has to count a batch in `handed_batches` before it
/// raises its watermark beyond it. The records of a single worker stay in their order.
#[derive(Debug)]
pub struct FileSink {
    merge: Merge,
    output: Output,
    done: Vec<Finished>,
    ended: bool,
    broken: bool,
    at_end: AtEnd,
}

struct AtEnd(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for AtEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtEnd")
    }
}

impl FileSink {
    /// Opens the first file and writes its start.
    ///
    /// A named pipe is opened when it has a reader, and not before; a signal ends the wait for one.
    pub fn new(config: FileConfig) -> Result<Self, FileError> {
        let target = match &config.destination {
            Destination::Stdout => stream(standard_output()?, "standard output", config.rotation)?,
            Destination::Path(path) => target(path, config.rotation)?,
        };
        let style = Style {
            format: config.format,
            snaplen: config.snaplen,
            link_type: config.link_type,
            interfaces: config.interfaces,
        };
        Ok(Self {
            merge: Merge::new(config.queues, config.hold, config.patience),
            output: Output::new(style, config.totals, target)?,
            done: Vec::new(),
            ended: false,
            broken: false,
            at_end: AtEnd(config.at_end),
        })
    }

    /// Writes every record that may go, as far as that needs no waiting.
    fn write(&mut self, all: bool) -> Result<(), SinkError> {
        let now = Instant::now();
        if self.output.turn_if_old(now)? && !self.ended {
            self.ended = true;
            (self.at_end.0)();
        }
        loop {
            self.flush(now)?;
            if self.output.is_pending() {
                return Ok(());
            }
            let output = &mut self.output;
            let flow = self.merge.release(now, all, |place, late, record| {
                output.push(place, late, record)
            });
            self.flush(now)?;
            self.output.turn_if_full(now)?;
            if flow.is_continue() {
                return Ok(());
            }
        }
    }

    fn flush(&mut self, now: Instant) -> Result<(), SinkError> {
        let outcome = self.output.flush(now);
        self.settle();
        outcome
    }

    fn settle(&mut self) {
        for settled in self.output.settled() {
            self.merge.settle(settled);
        }
    }

    /// Waits for a batch, for the reader of a stream, or until something is due.
    fn wait(&self, wake: BorrowedFd<'_>, limit: Duration) -> Result<(), SinkError> {
        let mut limit = limit;
        if !self.merge.is_empty() && !self.output.is_pending() {
            limit = limit.min(LOOK);
        }
        if let (Some(left), false) = (self.output.interval_left(), self.ended) {
            limit = limit.min(left);
        }
        let mut ready = vec![PollFd::new(wake, PollFlags::POLLIN)];
        ready.extend(
            self.output
                .stream()
                .map(|(fd, flags)| PollFd::new(fd, flags)),
        );
        stream::wait(&mut ready, limit)
            .map_err(|cause| failure("waiting for", "packets to write", cause))?;
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
        let is_gone = ready
            .get(1)
            .and_then(PollFd::revents)
            .is_some_and(|events| events.intersects(gone));
        match self.output.reader_gone() {
            Some(error) if is_gone => Err(error),
            _ => Ok(()),
        }
    }

    fn try_finish(&mut self, deadline: Instant) -> Result<(), SinkError> {
        loop {
            self.write(true)?;
            if !self.output.is_pending() {
                return self.output.finish(deadline);
            }
            let outcome = self.output.drain(deadline);
            self.settle();
            outcome?;
            if self.output.is_pending() {
                return Ok(());
            }
        }
    }
}

impl Sink for FileSink {
    fn has_room(&self) -> bool {
        !self.merge.is_full()
    }

    fn send(&mut self, batch: Batch) {
        if batch.is_empty() {
            self.done.push(Finished {
                batch,
                outcome: Outcome::default(),
            });
            return;
        }
        self.merge.push(batch, Instant::now());
    }

    fn poll(
        &mut self,
        wake: BorrowedFd<'_>,
        limit: Duration,
        finished: &mut Vec<Finished>,
    ) -> Result<(), SinkError> {
        let outcome = self.write(false);
        self.broken |= outcome.is_err();
        outcome?;
        finished.append(&mut self.done);
        if !self.output.is_pending() {
            self.merge.take_finished(finished);
        }
        if !finished.is_empty() {
            return Ok(());
        }
        let outcome = self.wait(wake, limit);
        self.broken |= outcome.is_err();
        outcome
    }

    fn finish(&mut self, deadline: Instant, finished: &mut Vec<Finished>) -> Result<(), SinkError> {
        let mut outcome = Ok(());
        if !self.broken {
            outcome = self.try_finish(deadline);
            self.broken = outcome.is_err();
        }
        let why = match self.broken {
            true => Failed::Disk,
            false => Failed::Purged,
        };
        self.output.abandon(why);
        self.settle();
        self.merge.abandon(why);
        finished.append(&mut self.done);
        self.merge.take_finished(finished);
        outcome
    }
}

fn standard_output() -> Result<File, SinkError> {
    let owned = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|cause| failure("opening", "standard output", cause))?;
    Ok(owned.into())
}

fn target(path: &Path, rotation: Rotation) -> Result<Target, FileError> {
    let names = Names::new(path.to_owned(), rotation)?;
    if rotation.is_on() {
        let mut files = Files::new(names, true);
        files.open()?;
        return Ok(Target::Files(files));
    }
    let file = create(path).map_err(|cause| failure("opening", path.display(), cause))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let files = Files::new(names, false).with_open(file, path.to_owned());
        return Ok(Target::Files(files));
    }
    stream(file, &path.display().to_string(), rotation)
}

/// Opens a file, empty, or whatever else the path names.
fn create(path: &Path) -> io::Result<File> {
    if !fs::metadata(path).is_ok_and(|known| known.file_type().is_fifo()) {
        return File::create(path);
    }
    let no_reader = |error: &io::Error| error.raw_os_error() == Some(Errno::ENXIO as i32);
    loop {
        let opened = File::options()
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path);
        match opened {
            Err(error) if no_reader(&error) && signals::stop_came() => {
                return Err(io::Error::other("interrupted before it had a reader"));
            }
            Err(error) if no_reader(&error) => thread::sleep(LOOK),
            answer => return answer,
        }
    }
}

fn stream(file: File, name: &str, rotation: Rotation) -> Result<Target, FileError> {
    let name = name.to_owned();
    if rotation.is_on() {
        return Err(FileError::Stream { name });
    }
    Ok(Target::Stream(Stream::new(file, name)))
}

fn failure(verb: &str, object: impl fmt::Display, cause: io::Error) -> SinkError {
    SinkError {
        doing: format!("{verb} {object}"),
        cause,
    }
}

/// The wall clock in whole seconds, as file names and intervals have it.
fn unix_seconds() -> i64 {
    i64::try_from(Timestamp::now().nanos() / 1_000_000_000).unwrap_or(i64::MAX)
}
