//! Standard output and named pipes: bytes that cannot be taken back, for a reader that may be slow.
//!
//! The rule: a write never waits for the reader; what it has no room for stays with the sink.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::failure;
use crate::sink::SinkError;

/// How much is written at once to a pipe that has room: `PIPE_BUF`, which then never waits (pipe(7)).
const PIPE_CHUNK: usize = 4_096;

/// A pipe or the like.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    name: String,
    /// Standard output may be a regular file, which always has room.
    regular: bool,
    /// How much of the buffer is written.
    sent: usize,
    /// Whether no buffer has been written whole yet.
    at_start: bool,
}

impl Stream {
    /// A stream that errors call `name`.
    pub(super) fn new(file: File, name: String) -> Self {
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Self {
            file,
            name,
            regular,
            sent: 0,
            at_start: true,
        }
    }

    /// Writes what the reader has room for, from where the last call for the same `bytes` ended.
    /// Returns whether that was all of it.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<bool, SinkError> {
        while self.sent < bytes.len() {
            if !self.regular && !self.wait(Duration::ZERO)? {
                return Ok(false);
            }
            let left = &bytes[self.sent..];
            let chunk = match self.regular {
                true => left,
                false => &left[..left.len().min(PIPE_CHUNK)],
            };
            match (&self.file).write(chunk) {
                Ok(0) => return Err(self.broken(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(self.broken(error)),
            }
        }
        self.at_start &= bytes.is_empty();
        self.sent = 0;
        Ok(true)
    }

    /// Waits until the reader has room, or until `limit` is over; whether it has.
    pub(super) fn wait(&self, limit: Duration) -> Result<bool, SinkError> {
        let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        wait(&mut ready, limit).map_err(|cause| self.broken(cause))
    }

    /// What to wait on for room or for the end; `None` for a regular file.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        (!self.regular).then(|| self.file.as_fd())
    }

    /// What is written of `buffer`, the bytes that [`send`](Self::send) has got last.
    pub(super) fn sent_of<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[..self.sent]
    }

    /// Whether the bytes that [`send`](Self::send) has got last are the first ones.
    pub(super) fn is_at_start(&self) -> bool {
        self.at_start
    }

    /// The error of a reader that went away.
    pub(super) fn reader_gone(&self) -> SinkError {
        self.broken(io::ErrorKind::BrokenPipe.into())
    }

    fn broken(&self, cause: io::Error) -> SinkError {
        failure("writing to", &self.name, cause)
    }
}

/// Waits until one of `ready` is, or until `limit` is over; whether one is. A signal ends it early.
pub(super) fn wait(ready: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    let millis = limit.as_micros().div_ceil(1_000);
    let millis = i32::try_from(millis).unwrap_or(i32::MAX);
    let limit = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(ready, limit) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
