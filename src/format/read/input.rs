//! The bytes under a capture file: from a file, a pipe or memory, unpacked on the way.
//!
//! The rule: nothing here waits unless [`Input::wait`] is asked to. Whatever keeps its bytes for later
//! may answer "nothing now" at any byte, and what was read so far stays in the window.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::unpack::{Unpack, Unpacked};

/// How much is read at once: beyond it the cost of a read is lost in that of its bytes, and it still
/// fits a core's second-level cache.
const BUFFER: usize = 256 << 10;

/// What a pipe is taken to hold where the kernel does not say.
const PIPE: u64 = 1 << 20;

/// What came of asking for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// The window grew.
    More,
    /// Nothing is there now.
    Pending,
    /// There will never be more.
    End,
}

/// Why there is no more.
#[derive(Debug)]
pub(super) enum InputError {
    /// The kernel refused.
    Io(io::Error),
    /// The packed bytes make no sense.
    Corrupt(String),
}

/// Bytes that came and were not used yet.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    #[inline]
    fn window(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    #[inline]
    fn consume(&mut self, used: usize) {
        self.start += used;
        debug_assert!(self.start <= self.end, "only what is there can be used");
    }

    /// The free bytes behind the window, enough for it to hold `need`, and never none.
    fn room(&mut self, need: usize) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let least = need.max(self.end - self.start + 1);
        if self.bytes.len() - self.start < least {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() < least {
            self.bytes.resize(least.next_power_of_two().max(BUFFER), 0);
        }
        &mut self.bytes[self.end..]
    }

    fn commit(&mut self, came: usize) {
        self.end += came;
    }
}

/// Where the bytes come from, as they are stored.
enum Raw {
    File {
        file: File,
        /// Whether a read may have to wait for somebody to write.
        live: bool,
    },
    Memory(Box<dyn Read + Send>),
}

impl Raw {
    /// Reads what is there; `None` where nothing is there now.
    fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let read = match self {
                Self::File { file, live } => {
                    if *live && !readable(file, Some(Duration::ZERO))? {
                        return Ok(None);
                    }
                    file.read(into)
                }
                Self::Memory(bytes) => bytes.read(into),
            };
            match read {
                Ok(came) => return Ok(Some(came)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a read of `file` would return at once, after waiting for at most `limit`.
fn readable(file: &File, limit: Option<Duration>) -> io::Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut fds, limit.map(TimeSpec::from_duration), None) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// How the bytes are packed.
enum Packing {
    /// Not known before the first four bytes are there.
    Unknown,
    None,
    Packed {
        unpack: Unpack,
        packed: Buffer,
    },
}

/// A stream of bytes with a window on what comes next.
pub(super) struct Input {
    raw: Raw,
    packing: Packing,
    buffer: Buffer,
    /// Where the window begins in the uncompressed stream.
    offset: u64,
    /// How many more bytes may be read as they are stored; `None` for all of them.
    left: Option<u64>,
    ended: bool,
}

impl Input {
    /// Opens the file at `path`, `-` for standard input.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = if path == Path::new("-") {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            // Without O_NONBLOCK, opening a FIFO waits for its writer.
            OpenOptions::new()
                .read(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(path)?
        };
        let kind = file.metadata()?.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let live = kind.is_fifo() || kind.is_char_device() || kind.is_socket();
        Ok(Self::over(Raw::File { file, live }))
    }

    /// Reads out of `bytes`.
    pub(super) fn new(bytes: Box<dyn Read + Send>) -> Self {
        Self::over(Raw::Memory(bytes))
    }

    fn over(raw: Raw) -> Self {
        Self {
            raw,
            packing: Packing::Unknown,
            buffer: Buffer::default(),
            offset: 0,
            left: None,
            ended: false,
        }
    }

    /// What comes next, as far as it is there.
    #[inline]
    pub(super) fn window(&self) -> &[u8] {
        self.buffer.window()
    }

    /// Where the window begins in the uncompressed stream.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves the window on by `used` bytes, which must be in it.
    #[inline]
    pub(super) fn consume(&mut self, used: usize) {
        self.buffer.consume(used);
        self.offset += u64::try_from(used).expect("64 bits hold a size");
    }

    /// Adds to the window what is there now; makes room for it to hold `need` bytes.
    pub(super) fn fill(&mut self, need: usize) -> Result<Fill, InputError> {
        loop {
            if let Packing::Packed { unpack, packed } = &mut self.packing {
                let Unpacked { used, made } = unpack.run(packed.window(), self.buffer.room(need));
                packed.consume(used);
                self.buffer.commit(made);
                if made > 0 {
                    return Ok(Fill::More);
                }
                if let Some(what) = unpack.broken() {
                    return Err(InputError::Corrupt(what.to_owned()));
                }
                if used > 0 {
                    continue;
                }
            }
            let fill = self.read(need).map_err(InputError::Io)?;
            match &self.packing {
                Packing::None => return Ok(fill),
                Packing::Packed { unpack, packed } if fill == Fill::End => {
                    if unpack.is_whole() && packed.window().is_empty() {
                        return Ok(fill);
                    }
                    let name = unpack.name();
                    return Err(InputError::Corrupt(format!(
                        "the {name} data end in the middle"
                    )));
                }
                Packing::Unknown if fill == Fill::End || self.window().len() >= 4 => {
                    self.packing = self.detect();
                    if let Packing::None = self.packing {
                        return Ok(fill);
                    }
                }
                _ if fill == Fill::Pending => return Ok(fill),
                _ => {}
            }
        }
    }

    /// Sleeps until a read would return at once, at most `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        match &self.raw {
            Raw::File { file, live: true } => readable(file, limit).map(|_| ()),
            Raw::File { live: false, .. } => Ok(()),
            Raw::Memory(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether a read may have to wait for somebody to write.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.raw, Raw::File { live: true, .. })
    }

    /// Lets no more be read than can lie in the pipe by now.
    pub(super) fn drain(&mut self) {
        let Raw::File { file, live: true } = &self.raw else {
            self.left = Some(0);
            return;
        };
        let holds = fcntl(file, FcntlArg::F_GETPIPE_SZ)
            .map_or(PIPE, |size| u64::try_from(size).expect("a pipe has a size"));
        self.left = Some(holds);
    }

    /// Reads as the bytes are stored into the buffer they belong to.
    fn read(&mut self, need: usize) -> io::Result<Fill> {
        if self.ended {
            return Ok(Fill::End);
        }
        let (buffer, need) = match &mut self.packing {
            Packing::Packed { packed, .. } => (packed, 0),
            Packing::Unknown | Packing::None => (&mut self.buffer, need),
        };
        let mut room = buffer.room(need);
        if let Some(left) = self.left {
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            if left == 0 {
                return Ok(Fill::Pending);
            }
            let most = room.len().min(left);
            room = &mut room[..most];
        }
        let Some(came) = self.raw.read(room)? else {
            return Ok(Fill::Pending);
        };
        buffer.commit(came);
        if let Some(left) = &mut self.left {
            *left -= u64::try_from(came).expect("64 bits hold a size");
        }
        if came == 0 {
            self.ended = true;
            return Ok(Fill::End);
        }
        Ok(Fill::More)
    }

    /// Tells the packing by the first bytes; packed ones move to a buffer of their own.
    fn detect(&mut self) -> Packing {
        match Unpack::detect(self.window()) {
            Some(unpack) => Packing::Packed {
                unpack,
                packed: std::mem::take(&mut self.buffer),
            },
            None => Packing::None,
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input")
            .field("offset", &self.offset)
            .field("window", &self.window().len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
