//! Regular files: what a full disk leaves behind is cut back to the last whole block.
//!
//! The rule: after every write the file ends with a whole block, and the packets before that end are
//! exactly those that were reported as written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::rotate::{Names, part};
use super::{failure, unix_seconds};
use crate::format::write::Encoder;
use crate::sink::SinkError;

/// How long a full disk is left alone before the next try.
const RETRY: Duration = Duration::from_secs(1);

/// Regular files, one after another.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) names: Names,
    hidden: bool,
    open: Option<Open>,
    /// The length of the open file, in whole blocks.
    len: u64,
    /// The length of what stood in the open file before its first packet.
    start: u64,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Open {
    file: File,
    written_as: PathBuf,
    name: PathBuf,
}

/// A full disk, from the first write that failed to the first that succeeds.
#[derive(Debug)]
struct Trouble {
    retry: Instant,
    lost: u64,
}

impl Files {
    /// Files of these names, each under its final name only when complete where they are `hidden`.
    pub(super) fn new(names: Names, hidden: bool) -> Self {
        Self {
            names,
            hidden,
            open: None,
            len: 0,
            start: 0,
            trouble: None,
        }
    }

    /// Takes over the empty file that is open under `name`.
    pub(super) fn with_open(mut self, file: File, name: PathBuf) -> Self {
        self.open = Some(Open {
            file,
            written_as: name.clone(),
            name,
        });
        self
    }

    /// Opens the next file, empty.
    pub(super) fn open(&mut self) -> Result<(), SinkError> {
        let name = self.names.name(unix_seconds());
        let written_as = match self.hidden {
            true => part(&name),
            false => name.clone(),
        };
        let file = File::create(&written_as)
            .map_err(|cause| failure("opening", written_as.display(), cause))?;
        self.open = Some(Open {
            file,
            written_as,
            name,
        });
        self.len = 0;
        self.start = 0;
        Ok(())
    }

    /// Writes the start of the first file.
    pub(super) fn begin(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        open.file
            .write_all_at(bytes, 0)
            .map_err(|cause| failure("writing to", open.written_as.display(), cause))?;
        self.len = bytes.len() as u64;
        self.start = self.len;
        Ok(())
    }

    /// Whether a file is open.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether no byte is in the file.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether more than its start is in the file.
    pub(super) fn holds_packets(&self) -> bool {
        self.len > self.start
    }

    /// Whether the file takes no further packet once `more` bytes are in it.
    #[inline]
    pub(super) fn is_full(&self, more: usize) -> bool {
        self.names.is_full(self.len + more as u64)
    }

    /// Writes `bytes` and returns how many packets of them are in the file; `u64::MAX` for all.
    pub(super) fn put(&mut self, encoder: &mut Encoder, bytes: &[u8], now: Instant) -> u64 {
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now < trouble.retry)
        {
            return self.keep(encoder, &[]);
        }
        if self.open.is_none()
            && let Err(error) = self.open()
        {
            self.suspend(now, &error.doing, &error.cause);
            return self.keep(encoder, &[]);
        }
        let open = self.open.as_ref().expect("a file was opened above");
        let (written, error) = write_at(&open.file, bytes, self.len);
        if let Some(error) = error {
            let doing = format!("writing to {}", open.written_as.display());
            self.suspend(now, &doing, &error);
            return self.keep(encoder, &bytes[..written]);
        }
        encoder.keep_all();
        self.len += bytes.len() as u64;
        self.resume();
        u64::MAX
    }

    /// Keeps the whole blocks of `written`, which stands behind the last whole block, and cuts off the
    /// rest. Returns how many packets are kept.
    fn keep(&mut self, encoder: &mut Encoder, written: &[u8]) -> u64 {
        let whole = encoder.keep(written, self.len == 0);
        self.len += whole.bytes as u64;
        if let Some(open) = &self.open
            && whole.bytes < written.len()
            && let Err(error) = open.file.set_len(self.len)
        {
            let file = open.written_as.display();
            tracing::warn!(%error, "{file} may end in half a packet");
        }
        whole.packets
    }

    /// Counts packets that a full disk has cost.
    pub(super) fn lost(&mut self, packets: u64) {
        if let Some(trouble) = &mut self.trouble {
            trouble.lost += packets;
        }
    }

    /// Lets the next write try, however short ago the last one failed.
    pub(super) fn try_again(&mut self, now: Instant) {
        if let Some(trouble) = &mut self.trouble {
            trouble.retry = now;
        }
    }

    fn suspend(&mut self, now: Instant, doing: &str, error: &io::Error) {
        let lost = match &self.trouble {
            Some(trouble) => trouble.lost,
            None => {
                tracing::warn!(%error, "{doing}: packets are lost and counted until there is room");
                0
            }
        };
        let retry = now + RETRY;
        self.trouble = Some(Trouble { retry, lost });
    }

    fn resume(&mut self) {
        if let Some(Trouble { lost, .. }) = self.trouble.take() {
            tracing::info!(lost, "writing to the file again");
        }
    }

    /// Closes the file, under its final name if it holds a whole block.
    pub(super) fn close(&mut self) -> Result<(), SinkError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let len = std::mem::take(&mut self.len);
        self.start = 0;
        if open.written_as == open.name {
            return Ok(());
        }
        let outcome = match len {
            0 => fs::remove_file(&open.written_as),
            _ => fs::rename(&open.written_as, &open.name),
        };
        outcome.map_err(|cause| failure("completing", open.name.display(), cause))
    }
}

/// Writes all of `bytes` at `offset`, or as much as went and the error that ended it.
fn write_at(file: &File, bytes: &[u8], offset: u64) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}
