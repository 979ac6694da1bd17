//! Packets out of capture files, one file after another.
//!
//! The rule: times and order are those of the files. A damage in one file is told once, after every
//! packet before it, and then the next file follows; what was not read when the sensor stops was never
//! received.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::counters::QueueCounters;
use crate::format::read::{ReadError, Reader, Step};
use crate::interfaces::{Interface, Interfaces};
use crate::packet::{Clock, Packet};
use crate::source::pace::Pace;
pub use crate::source::pace::{Speed, SpeedError};
use crate::source::{Burst, Source, SourceError};

/// The most packets of one burst: enough to forget the cost of a call, and few enough that a worker
/// looks at its clock and at the stop signal every few microseconds.
const BURST: usize = 256;

/// The longest sleep of [`FileSource::wait`], so that a stop is acted on at once to a person's eye.
const SLICE: Duration = Duration::from_millis(50);

/// A file that is to be read.
#[derive(Debug)]
enum Next {
    /// A regular file, opened when its turn comes.
    Path(PathBuf),
    /// Standard input or a pipe: what has been read from it cannot be read again.
    Open(Box<Opened>),
}

/// A file that is being read.
#[derive(Debug)]
struct Opened {
    reader: Reader,
    /// What its interfaces are called that have no name.
    name: String,
    /// The registered number of each of its interfaces.
    numbers: Vec<u16>,
}

impl Opened {
    fn open(path: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            reader: Reader::open(path)?,
            name: path
                .file_name()
                .unwrap_or(OsStr::new("-"))
                .to_string_lossy()
                .into_owned(),
            numbers: Vec::new(),
        })
    }

    /// The registered number of the file's interface `index`; registers every one found by now.
    fn number(&mut self, index: u32, interfaces: &Interfaces) -> Result<u16, SourceError> {
        let index = usize::try_from(index).expect("a size holds 32 bits");
        if let Some(number) = self.numbers.get(index) {
            return Ok(*number);
        }
        for found in &self.reader.interfaces()[self.numbers.len()..] {
            let mut interface: Interface = found.clone();
            if interface.name.is_empty() {
                interface.name.clone_from(&self.name);
            }
            let Some(number) = interfaces.register(interface) else {
                return Err(SourceError::Damaged {
                    file: self.reader.file().to_owned(),
                    offset: self.reader.offset(),
                    what: "an interface beyond the 65,536 that can be numbered".to_owned(),
                });
            };
            self.numbers.push(number);
        }
        Ok(self.numbers[index])
    }
}

/// A packet that lies ready in the reader.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// When it may be offered, in nanoseconds after the first.
    due: u64,
    interface: u16,
}

/// What comes next.
enum Ahead {
    Packet(Held),
    Pending,
    End,
}

/// Capture files as a source of packets.
///
/// One worker drives it. An error of a file (damaged, unreadable, not a capture) is returned by
/// [`recv`](Source::recv) once; called again, it goes on with the next file.
#[derive(Debug)]
pub struct FileSource {
    files: VecDeque<Next>,
    current: Option<Box<Opened>>,
    held: Option<Held>,
    /// A fault found in the middle of a burst, told by the next call.
    fault: Option<SourceError>,
    pace: Pace,
    interfaces: Interfaces,
    stopping: bool,
}

impl FileSource {
    /// Prepares to read `files` one after another; `-` is standard input.
    ///
    /// Registers in `interfaces` what the files describe, when it is met; one without a name gets that
    /// of its file. Regular files are looked into at once, so that a wrong name shows before
    /// anything is captured; pipes are opened and not waited for.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened or read, is empty, or is no capture file. One that is damaged
    /// further in is not an error here.
    pub fn open(
        files: &[PathBuf],
        speed: Speed,
        interfaces: Interfaces,
    ) -> Result<Self, ReadError> {
        let files = files.iter().map(|path| look(path));
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
            current: None,
            held: None,
            fault: None,
            pace: Pace::new(speed),
            interfaces,
            stopping: false,
        })
    }

    /// Comes to the next packet without offering it.
    fn ahead(&mut self) -> Result<Ahead, SourceError> {
        if let Some(held) = self.held {
            return Ok(Ahead::Packet(held));
        }
        loop {
            let Some(current) = &mut self.current else {
                let Some(next) = self.files.pop_front() else {
                    return Ok(Ahead::End);
                };
                self.current = Some(match next {
                    Next::Path(path) => Box::new(Opened::open(&path)?),
                    Next::Open(opened) => opened,
                });
                self.pace.restart();
                continue;
            };
            match current.reader.advance() {
                Ok(Step::Packet) => return self.hold(),
                Ok(Step::Pending) if !self.stopping => return Ok(Ahead::Pending),
                Ok(Step::Pending | Step::End) => self.current = None,
                Err(error) => {
                    self.current = None;
                    return Err(error.into());
                }
            }
        }
    }

    /// Takes note of the packet the reader has come to.
    #[inline]
    fn hold(&mut self) -> Result<Ahead, SourceError> {
        let current = self.current.as_mut().expect("a reader has advanced");
        let packet = current.reader.packet().expect("it came to a packet");
        let (time, index) = (packet.time, packet.interface);
        let interface = match current.number(index, &self.interfaces) {
            Ok(interface) => interface,
            Err(error) => {
                self.current = None;
                return Err(error);
            }
        };
        let held = Held {
            due: self.pace.due(time),
            interface,
        };
        self.held = Some(held);
        Ok(Ahead::Packet(held))
    }
}

/// Opens the file at `path` and looks whether it is a capture, where that takes nothing away.
fn look(path: &Path) -> Result<Next, ReadError> {
    let mut opened = Opened::open(path)?;
    if opened.reader.is_live() || path == Path::new("-") {
        return Ok(Next::Open(Box::new(opened)));
    }
    match opened.reader.advance() {
        Ok(_) | Err(ReadError::Damaged { .. }) => Ok(Next::Path(path.to_owned())),
        Err(error) => Err(error),
    }
}

impl Source for FileSource {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let now = self.pace.now();
        for taken in 0..BURST {
            let held = match self.ahead() {
                Ok(Ahead::Packet(held)) if held.due <= now => held,
                Ok(Ahead::End) if taken == 0 => return Ok(Burst::End),
                Ok(_) if taken == 0 => return Ok(Burst::Empty),
                Ok(_) => return Ok(Burst::Packets(taken)),
                Err(fault) if taken == 0 => return Err(fault),
                Err(fault) => {
                    self.fault = Some(fault);
                    return Ok(Burst::Packets(taken));
                }
            };
            let current = self.current.as_ref().expect("a packet is held");
            let packet = current.reader.packet().expect("a packet is held");
            let offered = take(&Packet {
                clock: Clock::Arrival,
                time: packet.time,
                orig_len: packet.orig_len,
                link_type: packet.link_type,
                interface: held.interface,
                data: packet.data,
                more: &[],
            });
            if offered.is_break() {
                return Ok(Burst::Refused(taken));
            }
            self.held = None;
        }
        Ok(Burst::Packets(BURST))
    }

    /// Sleeps until the next packet is due or the pipe has more, at most 50 ms.
    fn wait(&mut self, limit: Duration, _spent: Duration) -> Result<(), SourceError> {
        let limit = limit.min(SLICE);
        if let Some(held) = self.held {
            thread::sleep(self.pace.left(held.due).min(limit));
            return Ok(());
        }
        let Some(current) = &self.current else {
            return Ok(());
        };
        Ok(current.reader.wait(Some(limit))?)
    }

    /// Does nothing: a file has no figures of its own.
    fn account(&mut self, _counters: &QueueCounters) {}

    /// Ends the files where they are. What lies in a pipe by now is still received, unless it is paced.
    fn stop(&mut self) -> Result<(), SourceError> {
        self.stopping = true;
        self.files.clear();
        match &mut self.current {
            Some(current) if current.reader.is_live() && self.pace.is_max() => {
                current.reader.drain();
            }
            _ => {
                self.current = None;
                self.held = None;
            }
        }
        Ok(())
    }
}

impl From<ReadError> for SourceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Open { file, cause } => Self::Io {
                doing: format!("opening {file}"),
                cause,
            },
            ReadError::Io {
                file,
                offset,
                cause,
            } => Self::Io {
                doing: format!("reading {file} at byte {offset}"),
                cause,
            },
            ReadError::Empty { file } => Self::Damaged {
                file,
                offset: 0,
                what: "empty, without even the header of a capture file".to_owned(),
            },
            ReadError::NotCapture { file, magic } => Self::Damaged {
                file,
                offset: 0,
                what: format!("it begins with {magic}, which is neither pcap nor pcapng"),
            },
            ReadError::Damaged { file, offset, what } => Self::Damaged { file, offset, what },
        }
    }
}

#[cfg(test)]
mod tests;
