//! Where the bytes go: a file, or a pipe whose reader may be slow or gone.
//!
//! The rule: packets are counted as written when every byte of them is with the reader, and a stop is
//! never held up by a reader that stands still.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::decode::Decoded;
use super::form::{Form, Writer};
use super::stop::Stop;
use crate::format::write::Unfit;
use crate::packet::MAX_PACKET;

/// The buffer goes out when it holds this much: it stays in a second-level cache.
const WRITE_AT: usize = 256 * 1024;

/// How much is written at once to a pipe that has room: `PIPE_BUF`, which then never waits (pipe(7)).
const PIPE_CHUNK: usize = 4_096;

/// How long a reader may take for what is left once a stop is asked for.
const GRACE: Duration = Duration::from_secs(2);

/// How often a stop is looked for while a reader has no room.
const TICK: u16 = 100;

/// Where to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, made anew.
    Path(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// Encoded packets, and the place they go.
#[derive(Debug)]
pub(super) struct Output {
    writer: Writer,
    buffer: Vec<u8>,
    pending: u64,
    written: u64,
    file: File,
    name: String,
    kind: Kind,
    /// Bytes of whole flushes; where a file is cut back to.
    whole: u64,
    flushed: Instant,
    stop: Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file of ours: always has room, and can be cut back.
    File,
    /// A regular file that somebody else opened.
    Redirected,
    /// A pipe, a terminal, a socket.
    Pipe,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits in the buffer.
    Kept,
    /// It waits, and the buffer wants to be flushed.
    Full,
    /// The form cannot hold it.
    Unfit(Unfit),
}

impl Output {
    /// Opens `to` and writes the start of the form.
    pub(super) fn open(to: &Destination, form: Form, topic: &str, stop: Stop) -> io::Result<Self> {
        let (file, kind) = match to {
            Destination::Stdout => {
                let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                let kind = match file.metadata()?.is_file() {
                    true => Kind::Redirected,
                    false => Kind::Pipe,
                };
                (file, kind)
            }
            Destination::Path(path) => {
                let file = File::create(path)?;
                let kind = match file.metadata()?.is_file() {
                    true => Kind::File,
                    false => Kind::Pipe,
                };
                (file, kind)
            }
        };
        let mut buffer = Vec::with_capacity(WRITE_AT + MAX_PACKET + 4_096);
        let writer = Writer::new(form, topic, &mut buffer);
        let mut output = Self {
            writer,
            buffer,
            pending: 0,
            written: 0,
            file,
            name: to.to_string(),
            kind,
            whole: 0,
            flushed: Instant::now(),
            stop,
        };
        output.flush()?;
        Ok(output)
    }

    /// What errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Packets whose every byte is written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Packets that are written or wait in the buffer.
    pub(super) fn taken(&self) -> u64 {
        self.written + self.pending
    }

    /// When the buffer was empty last.
    pub(super) fn flushed(&self) -> Instant {
        self.flushed
    }

    /// Encodes one packet.
    pub(super) fn push(&mut self, decoded: &Decoded<'_>) -> Pushed {
        if let Err(unfit) = self.writer.packet(decoded, &mut self.buffer) {
            return Pushed::Unfit(unfit);
        }
        self.pending += 1;
        match self.buffer.len() >= WRITE_AT {
            true => Pushed::Full,
            false => Pushed::Kept,
        }
    }

    /// Writes everything out; waits for a slow reader, after a stop at most two seconds.
    ///
    /// Fails with [`BrokenPipe`](io::ErrorKind::BrokenPipe) when the reader is gone, and with
    /// [`TimedOut`](io::ErrorKind::TimedOut) when it stood still after a stop. On a full disk a file of
    /// ours is cut back to the last whole flush.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let outcome = match self.kind {
            Kind::Pipe => self.stream(),
            Kind::File | Kind::Redirected => self.file.write_all(&self.buffer),
        };
        if outcome.is_err() && self.kind == Kind::File {
            // The first error says more than what goes wrong after it.
            let _ = self.file.set_len(self.whole);
        }
        outcome?;
        self.whole += self.buffer.len() as u64;
        self.written += self.pending;
        self.pending = 0;
        self.buffer.clear();
        self.flushed = Instant::now();
        Ok(())
    }

    /// Writes the end of the form.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.writer.finish(&mut self.buffer);
        self.flush()
    }

    /// Whether the reader of a pipe has gone away, as it can be told without writing.
    pub(super) fn reader_is_gone(&self) -> bool {
        if self.kind != Kind::Pipe {
            return false;
        }
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        polled.is_ok() && events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)
    }

    fn stream(&mut self) -> io::Result<()> {
        let mut left = &self.buffer[..];
        let mut give_up = None;
        while !left.is_empty() {
            if !has_room(&self.file)? {
                if self.stop.is_urgent() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if self.stop.is_asked() {
                    let until = *give_up.get_or_insert_with(|| Instant::now() + GRACE);
                    if Instant::now() >= until {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                continue;
            }
            match (&self.file).write(&left[..left.len().min(PIPE_CHUNK)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits a moment for room in a pipe; whether there is some, or an error to be met.
fn has_room(file: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::from(TICK)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
