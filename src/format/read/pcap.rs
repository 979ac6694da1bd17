//! The pcap format: a header of 24 bytes, then records.
//!
//! The rule: it looks at a window and says what it needs; it reads nothing itself.

use super::{Found, Order, Parsed, size};
use crate::format::{PCAP_MICROS, PCAP_NANOS};
use crate::interfaces::Interface;
use crate::packet::{LinkType, MAX_PACKET, Timestamp};

/// How long the header of a file is.
pub(super) const FILE_HEADER: usize = 24;

/// How long the header of a record is.
const RECORD_HEADER: usize = 16;

/// A pcap file whose header was read.
#[derive(Debug)]
pub(super) struct Pcap {
    order: Order,
    /// Nanoseconds in one unit of a record's second time field.
    unit: u32,
    interface: [Interface; 1],
}

impl Pcap {
    /// Takes in the header of a file, at least [`FILE_HEADER`] bytes.
    pub(super) fn new(header: &[u8]) -> Result<Self, String> {
        let (order, unit) = match (Order::Little.u32(header, 0), Order::Big.u32(header, 0)) {
            (PCAP_MICROS, _) => (Order::Little, 1_000),
            (PCAP_NANOS, _) => (Order::Little, 1),
            (_, PCAP_MICROS) => (Order::Big, 1_000),
            (_, PCAP_NANOS) => (Order::Big, 1),
            (other, _) => return Err(format!("no magic of pcap: {other:#010x}")),
        };
        let version = (order.u16(header, 4), order.u16(header, 6));
        if version != (2, 4) {
            let (major, minor) = version;
            return Err(format!(
                "pcap of version {major}.{minor}; only 2.4 is understood"
            ));
        }
        // The upper half holds the length of the frame check sequence, not the type.
        let [low, high, ..] = order.u32(header, 20).to_le_bytes();
        Ok(Self {
            order,
            unit,
            interface: [Interface {
                name: String::new(),
                link_type: LinkType(u16::from_le_bytes([low, high])),
                snaplen: order.u32(header, 16),
                filter: None,
            }],
        })
    }

    /// The one interface of the file, without a name.
    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.interface
    }

    /// Looks at the record at the start of `window`.
    #[inline]
    pub(super) fn parse(&self, window: &[u8]) -> Parsed {
        let Some(header) = window.first_chunk::<RECORD_HEADER>() else {
            return Parsed::Need(RECORD_HEADER);
        };
        let captured = size(self.order.u32(header, 8));
        if captured > MAX_PACKET {
            return Parsed::Damaged(too_long(captured));
        }
        let size = RECORD_HEADER + captured;
        if window.len() < size {
            return Parsed::Need(size);
        }
        let seconds = u64::from(self.order.u32(header, 0));
        let fraction = u64::from(self.order.u32(header, 4)) * u64::from(self.unit);
        Parsed::Packet(Found {
            time: Timestamp::from_nanos(seconds * 1_000_000_000 + fraction),
            orig_len: self.order.u32(header, 12),
            link_type: self.interface[0].link_type,
            interface: 0,
            data: RECORD_HEADER..size,
            size,
        })
    }
}

/// What is wrong with a record of `captured` bytes.
pub(super) fn too_long(captured: usize) -> String {
    format!("a packet of {captured} bytes, and {MAX_PACKET} is the most")
}
