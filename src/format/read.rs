//! Reads capture files: pcap and pcapng, plain or packed with gzip or zstd.
//!
//! The rule: every packet before a damage is offered, the damage is named with its place, and then the
//! reader is at its end. Nothing a file says makes it panic, loop or hold more than a bounded amount
//! of memory.

mod input;
mod pcap;
mod pcapng;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod unpack;

use std::fmt::Write as _;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use self::input::{Fill, Input, InputError};
use self::pcap::Pcap;
use self::pcapng::Pcapng;
use crate::format::{PCAP_MICROS, PCAP_NANOS, SECTION_HEADER};
use crate::interfaces::Interface;
use crate::packet::{LinkType, Timestamp};

/// One packet as it stands in a file, borrowed until the reader moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPacket<'a> {
    /// When the file says it arrived; the epoch where it says nothing (Simple Packet Block). Times
    /// before 1970 or after 2554 are moved to the nearest that [`Timestamp`] holds.
    pub time: Timestamp,
    /// Its length on the wire, as the file says.
    pub orig_len: u32,
    /// What its first byte is.
    pub link_type: LinkType,
    /// Its place in [`Reader::interfaces`].
    pub interface: u32,
    /// Its bytes, at most [`MAX_PACKET`](crate::packet::MAX_PACKET).
    pub data: &'a [u8],
}

/// What [`Reader::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A packet; [`Reader::packet`] shows it.
    Packet,
    /// Nothing is there now: the other end of a pipe has not written more yet.
    Pending,
    /// The end of the file.
    End,
}

/// Why a file cannot be read, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error("opening {file}")]
    Open {
        /// Its path.
        file: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused to read on.
    #[error("reading {file} at byte {offset}")]
    Io {
        /// The file's path, `-` for standard input.
        file: String,
        /// How far it was read, in bytes of the uncompressed stream.
        offset: u64,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The file has no bytes at all, or none once unpacked.
    #[error("{file}: empty, without even the header of a capture file")]
    Empty {
        /// The file's path, `-` for standard input.
        file: String,
    },
    /// The file is something else.
    #[error("{file}: no capture file: it begins with {magic}, which is neither pcap nor pcapng")]
    NotCapture {
        /// The file's path, `-` for standard input.
        file: String,
        /// Its first four bytes in hexadecimal, and as text where they are text.
        magic: String,
    },
    /// The file is damaged or cut short; every packet before that was offered.
    #[error("{file}: damaged at byte {offset}: {what}")]
    Damaged {
        /// The file's path, `-` for standard input.
        file: String,
        /// Where the first record begins that cannot be used, in bytes of the uncompressed stream.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// A packet found in the window of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    time: Timestamp,
    orig_len: u32,
    link_type: LinkType,
    interface: u32,
    /// Where its bytes are in the window.
    data: Range<usize>,
    /// How long its record or block is.
    size: usize,
}

/// What a parser makes of the start of the window.
#[derive(Debug)]
enum Parsed {
    /// The window must hold at least this many bytes first.
    Need(usize),
    /// A packet.
    Packet(Found),
    /// This many bytes are understood and hold no packet.
    Skip(usize),
    /// The record that begins here cannot be used.
    Damaged(String),
}

/// The byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

impl Order {
    /// The two bytes of `bytes` at `at`, which must be there.
    #[inline]
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let word = *bytes[at..].first_chunk().expect("the length was checked");
        match self {
            Self::Little => u16::from_le_bytes(word),
            Self::Big => u16::from_be_bytes(word),
        }
    }

    /// The four bytes of `bytes` at `at`, which must be there.
    #[inline]
    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let word = *bytes[at..].first_chunk().expect("the length was checked");
        match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        }
    }

    /// The eight bytes of `bytes` at `at`, which must be there.
    fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let word = *bytes[at..].first_chunk().expect("the length was checked");
        match self {
            Self::Little => u64::from_le_bytes(word),
            Self::Big => u64::from_be_bytes(word),
        }
    }
}

/// A length field as a size in memory.
#[inline]
fn size(length: u32) -> usize {
    usize::try_from(length).expect("a size holds 32 bits")
}

#[derive(Debug)]
enum Format {
    Unknown,
    Pcap(Pcap),
    Pcapng(Pcapng),
}

impl Format {
    /// Tells the format by the first bytes; `Err` holds the magic of something else.
    fn detect(window: &[u8]) -> Result<Parsed, String> {
        let Some(magic) = window.first_chunk::<4>() else {
            return Ok(Parsed::Need(4));
        };
        let big = u32::from_be_bytes(*magic);
        if big == SECTION_HEADER {
            return Ok(Parsed::Skip(0));
        }
        let known = [PCAP_MICROS, PCAP_NANOS];
        if known.contains(&big) || known.contains(&big.swap_bytes()) {
            return Ok(Parsed::Need(pcap::FILE_HEADER));
        }
        Err(name(magic))
    }
}

/// Four bytes as hexadecimal, and as text where they are text.
fn name(magic: &[u8; 4]) -> String {
    let mut name = String::from("0x");
    for byte in magic {
        write!(name, "{byte:02x}").expect("a string takes everything");
    }
    if magic
        .iter()
        .all(|byte| byte.is_ascii_graphic() || *byte == b' ')
    {
        let text: String = magic.iter().copied().map(char::from).collect();
        write!(name, " ({text:?})").expect("a string takes everything");
    }
    name
}

/// A capture file being read from front to back.
///
/// Holds a buffer of 256 KiB, or as much as the longest block met needs, at most 16 MiB; at most 65,536
/// interfaces with at most 16 MiB of names and filters; for zstd a window of at most 128 MiB.
#[derive(Debug)]
pub struct Reader {
    file: String,
    input: Input,
    format: Format,
    /// The packet at the front of the window.
    found: Option<Found>,
    ended: bool,
}

impl Reader {
    /// Opens the file at `path`; `-` is standard input.
    ///
    /// Never waits, not even for the writer of a FIFO. What the file is shows at the first
    /// [`advance`](Self::advance).
    ///
    /// # Errors
    ///
    /// [`ReadError::Open`].
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = path.display().to_string();
        match Input::open(path) {
            Ok(input) => Ok(Self::over(file, input)),
            Err(cause) => Err(ReadError::Open { file, cause }),
        }
    }

    /// Reads a capture file out of `bytes`; `file` is its name in errors.
    ///
    /// A `bytes` that answers [`io::ErrorKind::WouldBlock`] makes [`advance`](Self::advance) say
    /// [`Step::Pending`].
    pub fn new(file: &str, bytes: impl Read + Send + 'static) -> Self {
        Self::over(file.to_owned(), Input::new(Box::new(bytes)))
    }

    fn over(file: String, input: Input) -> Self {
        Self {
            file,
            input,
            format: Format::Unknown,
            found: None,
            ended: false,
        }
    }

    /// The next packet, or `None` at the end of the file. Waits for the other end of a pipe.
    ///
    /// # Errors
    ///
    /// As [`advance`](Self::advance).
    #[inline]
    pub fn next(&mut self) -> Result<Option<RawPacket<'_>>, ReadError> {
        loop {
            match self.advance()? {
                Step::Packet => return Ok(self.packet()),
                Step::End => return Ok(None),
                Step::Pending => self.wait(None)?,
            }
        }
    }

    /// Moves on to the next packet without waiting for it.
    ///
    /// # Errors
    ///
    /// Each but [`ReadError::Open`], once; then the reader is at its end.
    #[inline]
    pub fn advance(&mut self) -> Result<Step, ReadError> {
        if let Some(found) = self.found.take() {
            self.input.consume(found.size);
        }
        while !self.ended {
            let window = self.input.window();
            let parsed = match &mut self.format {
                Format::Pcap(pcap) => pcap.parse(window),
                Format::Pcapng(pcapng) => pcapng.parse(window),
                Format::Unknown => self.begin()?,
            };
            match parsed {
                Parsed::Packet(found) => {
                    self.found = Some(found);
                    return Ok(Step::Packet);
                }
                Parsed::Skip(size) => self.input.consume(size),
                Parsed::Need(need) => match self.fill(need)? {
                    Fill::More => {}
                    Fill::Pending => return Ok(Step::Pending),
                    Fill::End => self.ended = true,
                },
                Parsed::Damaged(what) => return Err(self.damaged(what)),
            }
        }
        Ok(Step::End)
    }

    /// The packet that [`advance`](Self::advance) came to.
    #[inline]
    pub fn packet(&self) -> Option<RawPacket<'_>> {
        let found = self.found.as_ref()?;
        Some(RawPacket {
            time: found.time,
            orig_len: found.orig_len,
            link_type: found.link_type,
            interface: found.interface,
            data: &self.input.window()[found.data.clone()],
        })
    }

    /// The interfaces found so far, in the order of [`RawPacket::interface`]; the list only grows.
    ///
    /// A name is empty where the file gives none. Interfaces of several sections that stand at the same
    /// place with the same description are one.
    pub fn interfaces(&self) -> &[Interface] {
        match &self.format {
            Format::Unknown => &[],
            Format::Pcap(pcap) => pcap.interfaces(),
            Format::Pcapng(pcapng) => pcapng.interfaces(),
        }
    }

    /// The file's path as it was given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where the record in hand begins, in bytes of the uncompressed stream.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Sleeps until a pending input may have more, at most `limit`; a signal ends it early.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`] where the input cannot be waited for.
    pub fn wait(&self, limit: Option<Duration>) -> Result<(), ReadError> {
        self.input.wait(limit).map_err(|cause| self.io(cause))
    }

    /// Whether the input is a pipe, a socket or a terminal: something that may keep a reader waiting.
    pub fn is_live(&self) -> bool {
        self.input.is_live()
    }

    /// Takes nothing more than what lies in the pipe by now; afterwards [`advance`](Self::advance)
    /// says [`Step::Pending`] for good, or the end where the pipe has one.
    pub fn drain(&mut self) {
        self.input.drain();
    }

    /// Takes the first steps into a file: sets the format once its header is there.
    fn begin(&mut self) -> Result<Parsed, ReadError> {
        let window = self.input.window();
        let parsed = match Format::detect(window) {
            Ok(parsed) => parsed,
            Err(magic) => {
                self.ended = true;
                return Err(ReadError::NotCapture {
                    file: self.file.clone(),
                    magic,
                });
            }
        };
        match parsed {
            Parsed::Skip(_) => self.format = Format::Pcapng(Pcapng::default()),
            Parsed::Need(need) if need <= window.len() => match Pcap::new(window) {
                Ok(pcap) => {
                    self.format = Format::Pcap(pcap);
                    return Ok(Parsed::Skip(pcap::FILE_HEADER));
                }
                Err(what) => return Ok(Parsed::Damaged(what)),
            },
            _ => {}
        }
        Ok(parsed)
    }

    /// Gets more bytes towards a window of `need`; the end inside a record is damage.
    fn fill(&mut self, need: usize) -> Result<Fill, ReadError> {
        let fill = match self.input.fill(need) {
            Ok(fill) => fill,
            Err(InputError::Io(cause)) => {
                self.ended = true;
                return Err(self.io(cause));
            }
            Err(InputError::Corrupt(what)) => return Err(self.damaged(what)),
        };
        if fill != Fill::End {
            return Ok(fill);
        }
        let have = self.input.window().len();
        if have > 0 {
            return Err(self.damaged(format!(
                "the file ends {have} bytes into a record of at least {need}"
            )));
        }
        if let Format::Unknown = self.format {
            self.ended = true;
            return Err(ReadError::Empty {
                file: self.file.clone(),
            });
        }
        Ok(fill)
    }

    fn damaged(&mut self, what: String) -> ReadError {
        self.ended = true;
        ReadError::Damaged {
            file: self.file.clone(),
            offset: self.input.offset(),
            what,
        }
    }

    fn io(&self, cause: io::Error) -> ReadError {
        ReadError::Io {
            file: self.file.clone(),
            offset: self.input.offset(),
            cause,
        }
    }
}
