//! Writing capture files, packet by packet, to anything that takes bytes.
//!
//! The rule: a block is assembled whole before a byte of it is written, so that only a write that was
//! itself cut short leaves half a packet behind.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use crate::interfaces::Interfaces;
use crate::packet::{LinkType, Packet, Timestamp};

mod pcap;
mod pcapng;

pub use pcap::PcapEncoder;
pub use pcapng::{PcapngEncoder, Section};

/// The snap length that a file states when none was asked for: libpcap's `MAXIMUM_SNAPLEN`.
pub const DEFAULT_SNAPLEN: u32 = 262_144;

/// What a fraction of a second is counted in, in a pcap file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fraction {
    /// Microseconds, magic `a1b2c3d4`: what every reader takes.
    #[default]
    Micros,
    /// Nanoseconds, magic `a1b23c4d`.
    Nanos,
}

/// The format of a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The classic format, of one link type.
    Pcap(Fraction),
    /// pcapng: nanoseconds, any number of interfaces and link types.
    Pcapng,
}

impl Format {
    /// The format a file of this name has: pcap with microseconds for `.pcap` and `.cap`, else pcapng.
    ///
    /// The case of the extension does not matter, nor does a digit after it (`x.pcap1` is none).
    pub fn of_path(path: &Path) -> Self {
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        if extension.eq_ignore_ascii_case("pcap") || extension.eq_ignore_ascii_case("cap") {
            return Self::Pcap(Fraction::Micros);
        }
        Self::Pcapng
    }
}

/// What is known of an interface when a file is closed; what is `None` is left out.
///
/// All counts are since the start of the capture, as the Interface Statistics Block has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceTotals {
    /// When its capture began (`isb_starttime`).
    pub start: Option<Timestamp>,
    /// When its capture ended, or the last moment the counts speak of (`isb_endtime`).
    pub end: Option<Timestamp>,
    /// Packets that arrived at the interface (`isb_ifrecv`).
    pub received: Option<u64>,
    /// Packets the interface dropped for want of resources (`isb_ifdrop`).
    pub interface_dropped: Option<u64>,
    /// Packets the filter accepted (`isb_filteraccept`).
    pub accepted: Option<u64>,
    /// Packets the system dropped (`isb_osdrop`).
    pub system_dropped: Option<u64>,
    /// Packets that were taken over from the system (`isb_usrdeliv`).
    pub delivered: Option<u64>,
}

/// Why a packet cannot be in this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A pcap file holds one link type, and this is another.
    #[error("writing a packet of type {found} to a pcap file of type {held}")]
    LinkType {
        /// The link type of the packet.
        found: LinkType,
        /// The link type of the file.
        held: LinkType,
    },
    /// The packet's interface is not registered, so its link type cannot be stated.
    #[error("writing a packet of interface {interface}, which is not registered")]
    Interface {
        /// The number that the packet carries.
        interface: u16,
    },
    /// The packet is of another link type than its interface.
    #[error("writing a packet of type {found} from interface {interface} of type {held}")]
    InterfaceType {
        /// The number that the packet carries.
        interface: u16,
        /// The link type of the packet.
        found: LinkType,
        /// The link type of the interface.
        held: LinkType,
    },
}

/// Where a write that was cut short left whole blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    /// The length of the whole blocks in bytes.
    pub(crate) bytes: usize,
    /// How many of them are packets.
    pub(crate) packets: u64,
}

/// Turns packets into the bytes of one capture file, and of the next one after [`start`](Self::start).
#[derive(Clone, Debug)]
pub enum Encoder {
    /// The classic format.
    Pcap(PcapEncoder),
    /// pcapng.
    Pcapng(PcapngEncoder),
}

impl Encoder {
    /// A pcap file of this link type.
    pub fn pcap(fraction: Fraction, snaplen: u32, link_type: LinkType) -> Self {
        Self::Pcap(PcapEncoder::new(fraction, snaplen, link_type))
    }

    /// A pcapng file whose section says what wrote it on what, and that looks its interfaces up in
    /// `interfaces` when their first packet is written.
    pub fn pcapng(section: Section, interfaces: Interfaces) -> Self {
        Self::Pcapng(PcapngEncoder::new(section, interfaces))
    }

    /// Begins a file: appends what stands at its start to `out` and forgets the file before.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Pcap(encoder) => encoder.start(out),
            Self::Pcapng(encoder) => encoder.start(out),
        }
    }

    /// Appends `packet`, after the description of its interface where the file has none yet.
    ///
    /// Nothing is appended when the packet does not fit the file.
    #[inline]
    pub fn packet(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        match self {
            Self::Pcap(encoder) => encoder.packet(packet, out),
            Self::Pcapng(encoder) => encoder.packet(packet, out),
        }
    }

    /// Ends a file: appends one statistics block for each interface that `totals` knows. Interfaces
    /// without a packet are described too, so that an empty capture tells what was lost.
    ///
    /// A pcap file has no place for it; nothing is appended there.
    pub fn finish(&mut self, totals: &dyn Fn(u16) -> Option<InterfaceTotals>, out: &mut Vec<u8>) {
        match self {
            Self::Pcap(_) => {}
            Self::Pcapng(encoder) => encoder.finish(totals, out),
        }
    }

    /// Notes that everything appended so far reached the file.
    pub(crate) fn keep_all(&mut self) {
        match self {
            Self::Pcap(_) => {}
            Self::Pcapng(encoder) => encoder.keep_all(),
        }
    }

    /// Says how much of `written` is whole blocks, and forgets the descriptions beyond them.
    ///
    /// `written` is what reached the file of the bytes appended since the last call of this or of
    /// [`keep_all`](Self::keep_all); `at_start` says that they begin the file.
    pub(crate) fn keep(&mut self, written: &[u8], at_start: bool) -> Whole {
        match self {
            Self::Pcap(_) => pcap::whole(written, at_start),
            Self::Pcapng(encoder) => encoder.keep(written),
        }
    }
}

/// Writes a capture file to `to`, each packet with a write of its own.
///
/// For packets that come one at a time: with `to` unbuffered, each is with the reader when
/// [`packet`](Self::packet) returns.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    encoder: Encoder,
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the start of the file.
    pub fn new(to: W, encoder: Encoder) -> io::Result<Self> {
        let mut writer = Self {
            to,
            encoder,
            block: Vec::new(),
        };
        writer.encoder.start(&mut writer.block);
        writer.write_block()?;
        Ok(writer)
    }

    /// Writes one packet. A packet that does not fit the file is an error of kind
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) with [`Unfit`] inside; the file stays as it was.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        self.encoder
            .packet(packet, &mut self.block)
            .map_err(|unfit| io::Error::new(io::ErrorKind::InvalidInput, unfit))?;
        self.write_block()
    }

    /// Flushes what `to` buffers.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// Writes the end of the file, flushes, and returns what it was written to.
    pub fn finish(mut self, totals: &dyn Fn(u16) -> Option<InterfaceTotals>) -> io::Result<W> {
        self.encoder.finish(totals, &mut self.block);
        self.write_block()?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn write_block(&mut self) -> io::Result<()> {
        let outcome = self.to.write_all(&self.block);
        self.block.clear();
        outcome
    }
}

/// Appends the bytes of `packet`, over all its fragments.
#[inline]
fn append_data(packet: &Packet<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(packet.data);
    for part in packet.more {
        out.extend_from_slice(part);
    }
}

/// The captured length as the formats have it.
#[inline]
fn captured(packet: &Packet<'_>) -> u32 {
    u32::try_from(packet.len()).expect("a packet is at most MAX_PACKET bytes long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_chooses_its_format() {
        let format = |name: &str| Format::of_path(Path::new(name));
        assert_eq!(format("a/x.pcap"), Format::Pcap(Fraction::Micros));
        assert_eq!(format("x.PCAP"), Format::Pcap(Fraction::Micros));
        assert_eq!(format("x.cap"), Format::Pcap(Fraction::Micros));
        assert_eq!(format("x.pcapng"), Format::Pcapng);
        assert_eq!(format("pcap"), Format::Pcapng);
        assert_eq!(format("x.dump"), Format::Pcapng);
    }
}
