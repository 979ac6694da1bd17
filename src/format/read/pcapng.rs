//! The pcapng format: sections of blocks.
//!
//! The rule: a block counts only once it is there whole and both its lengths agree; blocks of unknown
//! types are passed over. It looks at a window and reads nothing itself.

mod clock;

use std::collections::HashMap;

use self::clock::Clock;
use super::pcap::too_long;
use super::{Found, Order, Parsed, size};
use crate::format::{
    BYTE_ORDER, ENHANCED_PACKET, INTERFACE_DESCRIPTION, PACKET, SECTION_HEADER, SIMPLE_PACKET,
};
use crate::interfaces::Interface;
use crate::packet::{LinkType, MAX_PACKET, Timestamp};

/// The longest block, in bytes: room for any packet with many options; Wireshark draws the line at the
/// same place (`MAX_BLOCK_SIZE` in `wiretap/pcapng.c`).
const MAX_BLOCK: usize = 16 << 20;

/// Type, length and length again: the shortest block.
const MIN_BLOCK: usize = 12;

/// How many interfaces a file may describe: as many as
/// [`Interfaces`](crate::interfaces::Interfaces) can number.
const MAX_INTERFACES: usize = 65_536;

/// How many bytes of names and filters are kept; 65,536 interfaces with 64 KiB each would be 4 GiB.
const MAX_DESCRIPTIONS: usize = 16 << 20;

/// The options of an Interface Description Block that are read.
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_FILTER: u16 = 11;
const IF_TSOFFSET: u16 = 14;

/// An interface as the packets of one section refer to it.
#[derive(Debug)]
struct Local {
    /// Its place in the list of the file.
    index: u32,
    link_type: LinkType,
    snaplen: u32,
    clock: Clock,
}

/// A pcapng file up to the block in hand.
#[derive(Debug, Default)]
pub(super) struct Pcapng {
    /// The byte order of the section; `None` before the first.
    order: Option<Order>,
    /// The interfaces of the section.
    section: Vec<Local>,
    interfaces: Vec<Interface>,
    /// Each known interface by its place in its section and its description.
    known: HashMap<(usize, Interface), u32>,
    /// Bytes of names and filters in `interfaces`.
    described: usize,
}

/// The fixed fields of a packet, and where its bytes begin in the block.
struct Fields {
    interface: usize,
    ticks: Option<u64>,
    captured: usize,
    orig_len: u32,
    start: usize,
}

impl Pcapng {
    /// The interfaces of all sections so far.
    pub(super) fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Looks at the block at the start of `window`.
    #[inline]
    pub(super) fn parse(&mut self, window: &[u8]) -> Parsed {
        let Some(head) = window.first_chunk::<MIN_BLOCK>() else {
            return Parsed::Need(MIN_BLOCK);
        };
        let order = match self.order(head) {
            Ok(order) => order,
            Err(what) => return Parsed::Damaged(what),
        };
        let length = size(order.u32(head, 4));
        if length < MIN_BLOCK || length % 4 != 0 || length > MAX_BLOCK {
            return Parsed::Damaged(format!(
                "a block of length {length}: not a multiple of 4 from {MIN_BLOCK} to {MAX_BLOCK}"
            ));
        }
        let Some(block) = window.get(..length) else {
            return Parsed::Need(length);
        };
        let again = order.u32(block, length - 4);
        if size(again) != length {
            return Parsed::Damaged(format!(
                "a block of length {length} at its start and {again} at its end"
            ));
        }
        let body = &block[..length - 4];
        let fields = match order.u32(head, 0) {
            ENHANCED_PACKET => enhanced(order, body),
            SIMPLE_PACKET => self.simple(order, body),
            PACKET => obsolete(order, body),
            kind => {
                return match self.other(kind, order, body) {
                    Ok(()) => Parsed::Skip(length),
                    Err(what) => Parsed::Damaged(what),
                };
            }
        };
        match fields.and_then(|fields| self.found(&fields, body, length)) {
            Ok(found) => Parsed::Packet(found),
            Err(what) => Parsed::Damaged(what),
        }
    }

    /// The byte order of the block that begins with `head`.
    #[inline]
    fn order(&self, head: &[u8; MIN_BLOCK]) -> Result<Order, String> {
        // The type of a section header reads the same in both orders.
        if Order::Little.u32(head, 0) == SECTION_HEADER {
            let magic = Order::Big.u32(head, 8);
            if magic == BYTE_ORDER {
                return Ok(Order::Big);
            }
            if magic.swap_bytes() == BYTE_ORDER {
                return Ok(Order::Little);
            }
            return Err(format!("a section of unknown byte order {magic:#010x}"));
        }
        self.order
            .ok_or_else(|| "a block before the first section".to_owned())
    }

    /// Checks the fields of a packet against its block and its interface.
    #[inline]
    fn found(&self, fields: &Fields, body: &[u8], length: usize) -> Result<Found, String> {
        if fields.captured > MAX_PACKET {
            return Err(too_long(fields.captured));
        }
        let end = fields.start + fields.captured;
        if end > body.len() {
            return Err(format!(
                "a packet of {} bytes in a block of {length}",
                fields.captured
            ));
        }
        let Some(local) = self.section.get(fields.interface) else {
            return Err(format!(
                "a packet of interface {}, and its section has described {}",
                fields.interface,
                self.section.len()
            ));
        };
        Ok(Found {
            time: fields
                .ticks
                .map_or(Timestamp::default(), |ticks| local.clock.time(ticks)),
            orig_len: fields.orig_len,
            link_type: local.link_type,
            interface: local.index,
            data: fields.start..end,
            size: length,
        })
    }

    /// A Simple Packet Block: no time, and cut by the snap length of the first interface.
    fn simple(&self, order: Order, body: &[u8]) -> Result<Fields, String> {
        fixed(body, 12)?;
        let orig_len = order.u32(body, 8);
        let captured = match self.section.first() {
            Some(first) if first.snaplen > 0 => orig_len.min(first.snaplen),
            _ => orig_len,
        };
        Ok(Fields {
            interface: 0,
            ticks: None,
            captured: size(captured),
            orig_len,
            start: 12,
        })
    }

    /// Takes in a block that holds no packet.
    fn other(&mut self, kind: u32, order: Order, body: &[u8]) -> Result<(), String> {
        match kind {
            SECTION_HEADER => {
                fixed(body, 24)?;
                let major = order.u16(body, 12);
                if major != 1 {
                    return Err(format!(
                        "pcapng of major version {major}; only 1 is understood"
                    ));
                }
                self.order = Some(order);
                self.section.clear();
                Ok(())
            }
            INTERFACE_DESCRIPTION => self.describe(order, body),
            _ => Ok(()),
        }
    }

    /// Takes in an Interface Description Block.
    fn describe(&mut self, order: Order, body: &[u8]) -> Result<(), String> {
        fixed(body, 16)?;
        let mut interface = Interface {
            name: String::new(),
            link_type: LinkType(order.u16(body, 8)),
            snaplen: order.u32(body, 12),
            filter: None,
        };
        let (mut resolution, mut offset) = (None, 0);
        let mut options = &body[16..];
        while let Some((code, value, rest)) = option(order, options)? {
            match (code, value.len()) {
                (IF_NAME, _) => interface.name = text(value),
                // The first byte says what follows: 0 a filter's text, 1 its byte code.
                (IF_FILTER, 1..) if value[0] == 0 => interface.filter = Some(text(&value[1..])),
                (IF_TSRESOL, 1) => resolution = Some(value[0]),
                (IF_TSOFFSET, 8) => offset = order.u64(value, 0).cast_signed(),
                (IF_TSRESOL | IF_TSOFFSET, length) => {
                    return Err(format!("option {code} of an interface has {length} bytes"));
                }
                _ => {}
            }
            options = rest;
        }
        let local = Local {
            link_type: interface.link_type,
            snaplen: interface.snaplen,
            clock: Clock::new(resolution, offset),
            index: self.number(interface)?,
        };
        self.section.push(local);
        Ok(())
    }

    /// The number of `interface`, the next of its section, among those of the file.
    fn number(&mut self, interface: Interface) -> Result<u32, String> {
        if self.section.len() >= MAX_INTERFACES {
            return Err(format!(
                "more than {MAX_INTERFACES} interfaces in a section"
            ));
        }
        let key = (self.section.len(), interface);
        if let Some(&number) = self.known.get(&key) {
            return Ok(number);
        }
        let interface = key.1.clone();
        self.described += interface.name.len() + interface.filter.as_ref().map_or(0, String::len);
        if self.interfaces.len() >= MAX_INTERFACES || self.described > MAX_DESCRIPTIONS {
            return Err(format!(
                "more than {MAX_INTERFACES} interfaces, or more than {MAX_DESCRIPTIONS} bytes of \
                 their names and filters"
            ));
        }
        let number = u32::try_from(self.interfaces.len()).expect("fewer than MAX_INTERFACES");
        self.interfaces.push(interface);
        self.known.insert(key, number);
        Ok(number)
    }
}

/// An Enhanced Packet Block.
#[inline]
fn enhanced(order: Order, body: &[u8]) -> Result<Fields, String> {
    fixed(body, 28)?;
    Ok(Fields {
        interface: size(order.u32(body, 8)),
        ticks: Some(ticks(order, body)),
        captured: size(order.u32(body, 20)),
        orig_len: order.u32(body, 24),
        start: 28,
    })
}

/// A Packet Block, which the Enhanced Packet Block has replaced.
fn obsolete(order: Order, body: &[u8]) -> Result<Fields, String> {
    fixed(body, 28)?;
    Ok(Fields {
        interface: usize::from(order.u16(body, 8)),
        ticks: Some(ticks(order, body)),
        captured: size(order.u32(body, 20)),
        orig_len: order.u32(body, 24),
        start: 28,
    })
}

/// The time of both kinds of packet block: the upper half first, in either byte order.
#[inline]
fn ticks(order: Order, body: &[u8]) -> u64 {
    u64::from(order.u32(body, 12)) << 32 | u64::from(order.u32(body, 16))
}

/// Checks that a block without its last length holds its `length` fixed bytes.
#[inline]
fn fixed(body: &[u8], length: usize) -> Result<(), String> {
    if body.len() < length {
        return Err(format!(
            "a block of {} bytes, shorter than its fixed fields",
            body.len() + 4
        ));
    }
    Ok(())
}

/// The first of `options` with its code, and what follows it; `None` after the last.
fn option(order: Order, options: &[u8]) -> Result<Option<(u16, &[u8], &[u8])>, String> {
    if options.len() < 4 {
        return Ok(None);
    }
    let code = order.u16(options, 0);
    if code == 0 {
        return Ok(None);
    }
    let length = usize::from(order.u16(options, 2));
    let value = options.get(4..4 + length).ok_or_else(|| {
        format!("option {code} of an interface runs {length} bytes past its block")
    })?;
    let rest = options.get(4 + length.next_multiple_of(4)..);
    Ok(Some((code, value, rest.unwrap_or_default())))
}

/// The text of an option; some writers end it with a zero.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}
