//! Capture files made byte by byte, for tests.
//!
//! The rule: nothing of the reader or of the writers is used here, so that they are checked against the
//! formats and not against each other.

use super::{Order, RawPacket, ReadError, Reader};
use crate::packet::{LinkType, Timestamp};

/// A packet with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) time: Timestamp,
    pub(crate) orig_len: u32,
    pub(crate) link_type: LinkType,
    pub(crate) interface: u32,
    pub(crate) data: Vec<u8>,
}

impl Owned {
    /// An Ethernet packet of interface 0 with recognisable bytes.
    pub(crate) fn new(nanos: u64, length: u8) -> Self {
        Self {
            time: Timestamp::from_nanos(nanos),
            orig_len: u32::from(length) + 7,
            link_type: LinkType::ETHERNET,
            interface: 0,
            data: (0..length).map(|byte| byte ^ length).collect(),
        }
    }

    pub(crate) fn of(packet: &RawPacket<'_>) -> Self {
        Self {
            time: packet.time,
            orig_len: packet.orig_len,
            link_type: packet.link_type,
            interface: packet.interface,
            data: packet.data.to_vec(),
        }
    }
}

/// A file in the making.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) order: Order,
    pub(crate) bytes: Vec<u8>,
    /// Where each header, record or block ends.
    pub(crate) ends: Vec<usize>,
    pub(crate) packets: Vec<Owned>,
    /// Where the record of each packet ends.
    pub(crate) packet_ends: Vec<usize>,
}

impl Made {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            order,
            bytes: Vec::new(),
            ends: Vec::new(),
            packets: Vec::new(),
            packet_ends: Vec::new(),
        }
    }

    /// A pcap file of these packets, whose times must be whole in `unit` nanoseconds.
    pub(crate) fn pcap(order: Order, unit: u32, packets: &[Owned]) -> Self {
        let mut made = Self::new(order);
        let magic = if unit == 1 { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        made.u32(magic).u16(2).u16(4).u32(0).u32(0).u32(262_144);
        // A frame check sequence of four bytes is announced in the upper bits.
        made.u32(0x4400_0001).end();
        for packet in packets {
            made.record(unit, packet);
        }
        made
    }

    /// Adds a record to a pcap file.
    pub(crate) fn record(&mut self, unit: u32, packet: &Owned) {
        let (nanos, unit) = (packet.time.nanos(), u64::from(unit));
        let seconds = u32::try_from(nanos / 1_000_000_000).unwrap();
        let fraction = u32::try_from(nanos % 1_000_000_000 / unit).unwrap();
        self.u32(seconds).u32(fraction).u32(length(packet));
        self.u32(packet.orig_len).raw(&packet.data);
        self.packet(packet);
    }

    /// Begins a section of the file's byte order.
    pub(crate) fn section(&mut self) -> &mut Self {
        let mut body = Self::new(self.order);
        body.u32(0x1a2b_3c4d).u16(1).u16(0).raw(&[0xff; 8]);
        // An option: the application.
        body.option(4, b"made for a test").option(0, b"");
        self.block(0x0a0d_0d0a, &body.bytes)
    }

    /// Describes an interface; `options` are whole.
    pub(crate) fn interface(
        &mut self,
        link: u16,
        snaplen: u32,
        options: &[(u16, &[u8])],
    ) -> &mut Self {
        let mut body = Self::new(self.order);
        body.u16(link).u16(0).u32(snaplen);
        for (code, value) in options {
            body.option(*code, value);
        }
        if !options.is_empty() {
            body.option(0, b"");
        }
        self.block(1, &body.bytes)
    }

    /// An Enhanced Packet Block of the section's interface `local`, at `ticks`.
    pub(crate) fn enhanced(&mut self, local: u32, ticks: u64, packet: &Owned) -> &mut Self {
        let mut body = Self::new(self.order);
        body.u32(local).ticks(ticks).u32(length(packet));
        body.u32(packet.orig_len).padded(&packet.data);
        body.option(2, &[1, 0, 0, 0]).option(0, b"");
        self.block(6, &body.bytes).packet(packet)
    }

    /// A Packet Block of the section's interface `local`, at `ticks`.
    pub(crate) fn obsolete(&mut self, local: u16, ticks: u64, packet: &Owned) -> &mut Self {
        let mut body = Self::new(self.order);
        body.u16(local).u16(3).ticks(ticks).u32(length(packet));
        body.u32(packet.orig_len).padded(&packet.data);
        self.block(2, &body.bytes).packet(packet)
    }

    /// A Simple Packet Block.
    pub(crate) fn simple(&mut self, packet: &Owned) -> &mut Self {
        let mut body = Self::new(self.order);
        body.u32(packet.orig_len).padded(&packet.data);
        self.block(3, &body.bytes).packet(packet)
    }

    /// A block of any type; `body` is a multiple of four bytes long.
    pub(crate) fn block(&mut self, kind: u32, body: &[u8]) -> &mut Self {
        let length = u32::try_from(body.len() + 12).unwrap();
        self.u32(kind).u32(length).raw(body).u32(length);
        self.end();
        self
    }

    /// Notes that the file is whole up to here.
    pub(crate) fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn packet(&mut self, packet: &Owned) -> &mut Self {
        self.packets.push(packet.clone());
        self.packet_ends.push(self.bytes.len());
        if self.ends.last() != Some(&self.bytes.len()) {
            self.end();
        }
        self
    }

    fn option(&mut self, code: u16, value: &[u8]) -> &mut Self {
        self.u16(code).u16(u16::try_from(value.len()).unwrap());
        self.padded(value)
    }

    fn ticks(&mut self, ticks: u64) -> &mut Self {
        let low = u32::try_from(ticks & 0xffff_ffff).unwrap();
        self.u32(u32::try_from(ticks >> 32).unwrap()).u32(low)
    }

    fn padded(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw(bytes);
        let short = bytes.len().next_multiple_of(4) - bytes.len();
        self.raw(&[0; 3][..short])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        match self.order {
            Order::Little => self.raw(&value.to_le_bytes()),
            Order::Big => self.raw(&value.to_be_bytes()),
        }
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        match self.order {
            Order::Little => self.raw(&value.to_le_bytes()),
            Order::Big => self.raw(&value.to_be_bytes()),
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
}

/// The bytes an option of eight holds in this order.
pub(crate) fn eight(order: Order, value: i64) -> [u8; 8] {
    match order {
        Order::Little => value.to_le_bytes(),
        Order::Big => value.to_be_bytes(),
    }
}

fn length(packet: &Owned) -> u32 {
    u32::try_from(packet.data.len()).unwrap()
}

/// A small file of each kind.
pub(crate) fn each() -> Vec<(&'static str, Made)> {
    let whole: Vec<_> = [(1_000_000_000, 60), (1_000_001_000, 0), (2_500_000_000, 3)]
        .map(|(nanos, length)| Owned::new(nanos, length))
        .into();
    let mut files = Vec::new();
    for order in [Order::Little, Order::Big] {
        files.push(("pcap, microseconds", Made::pcap(order, 1_000, &whole)));
        files.push(("pcap, nanoseconds", Made::pcap(order, 1, &whole)));
        files.push(("pcapng", pcapng(order, &whole)));
    }
    files
}

/// Two sections of opposite byte orders with every kind of block.
fn pcapng(order: Order, packets: &[Owned]) -> Made {
    let mut made = Made::new(order);
    made.section();
    made.interface(1, 0, &[(2, b"eth0"), (9, &[9]), (11, b"\0tcp port 80")]);
    made.interface(113, 0, &[]);
    for packet in packets {
        made.enhanced(0, packet.time.nanos(), packet);
        let cooked = Owned {
            interface: 1,
            link_type: LinkType::LINUX_SLL,
            ..packet.clone()
        };
        made.obsolete(1, packet.time.micros(), &cooked);
    }
    made.block(0x0bad_0bad, &[7; 16]);
    made.order = if order == Order::Little {
        Order::Big
    } else {
        Order::Little
    };
    made.section();
    let offset = eight(made.order, 1);
    made.interface(1, 4, &[(9, &[0x80 | 10]), (14, &offset)]);
    let mut cut = Owned::new(0, 4);
    (cut.interface, cut.orig_len) = (2, 9);
    made.simple(&cut);
    cut.time = Timestamp::from_nanos(2_500_000_000);
    made.enhanced(0, 1_536, &cut);
    made
}

/// Reads to the end or the first error; stops at twice the packets the file can hold.
pub(crate) fn drain(mut reader: Reader, length: usize) -> (Vec<Owned>, Option<ReadError>) {
    let mut packets = Vec::new();
    loop {
        match reader.next() {
            Ok(None) => return (packets, None),
            Err(error) => {
                assert!(matches!(reader.next(), Ok(None)), "an error is the end");
                return (packets, Some(error));
            }
            Ok(Some(packet)) => packets.push(Owned::of(&packet)),
        }
        assert!(packets.len() <= length, "more packets than bytes");
    }
}
