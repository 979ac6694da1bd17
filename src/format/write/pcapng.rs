//! pcapng, as draft-ietf-opsawg-pcapng has it: one section, its interfaces, packets, statistics.
//!
//! The rule: an interface is described before its first packet and only then, in mid-file where need
//! be; its number in the file is its place among the descriptions, not the number ringtap gave it.

use std::fs;

use super::{InterfaceTotals, Unfit, Whole, append_data, captured};
use crate::format::{
    BYTE_ORDER, ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS, SECTION_HEADER,
};
use crate::interfaces::Interfaces;
use crate::packet::{LinkType, Packet, Timestamp};

const END_OF_OPTIONS: u16 = 0;
const SHB_HARDWARE: u16 = 2;
const SHB_OS: u16 = 3;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const IF_FILTER: u16 = 11;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const ISB_FILTERACCEPT: u16 = 6;
const ISB_OSDROP: u16 = 7;
const ISB_USRDELIV: u16 = 8;

/// The exponent of the unit of time: nanoseconds.
const NANOSECONDS: u8 = 9;
/// `if_filter` begins with the kind of filter: text in pcap-filter syntax.
const FILTER_TEXT: u8 = 0;
/// A block without a body: type, length, length again.
const EMPTY_BLOCK: usize = 12;

/// What a section says of its making; what is empty is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The machine (`shb_hardware`).
    pub hardware: String,
    /// The operating system (`shb_os`).
    pub system: String,
    /// The program (`shb_userappl`).
    pub application: String,
}

impl Section {
    /// What is true here and now: the processor and the kernel as procfs names them, and ringtap.
    pub fn here() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let hardware = line("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or(std::env::consts::ARCH.to_owned(), |(_, name)| {
                name.trim().to_owned()
            });
        let kernel = line("/proc/sys/kernel/ostype") + " " + &line("/proc/sys/kernel/osrelease");
        Self {
            hardware,
            system: kernel.split_whitespace().collect::<Vec<_>>().join(" "),
            application: concat!("ringtap ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// An interface that the file describes, under its number in the file.
#[derive(Clone, Copy, Debug)]
struct Described {
    number: u32,
    link_type: LinkType,
}

/// Encodes a pcapng file.
#[derive(Clone, Debug)]
pub struct PcapngEncoder {
    section: Section,
    interfaces: Interfaces,
    described: Vec<Option<Described>>,
    count: u32,
    kept: u32,
}

impl PcapngEncoder {
    /// A file that takes the descriptions of its interfaces from `interfaces`.
    pub fn new(section: Section, interfaces: Interfaces) -> Self {
        Self {
            section,
            interfaces,
            described: Vec::new(),
            count: 0,
            kept: 0,
        }
    }

    pub(super) fn start(&mut self, out: &mut Vec<u8>) {
        self.described.clear();
        self.count = 0;
        self.kept = 0;
        block(SECTION_HEADER, out, |out| {
            out.extend_from_slice(&BYTE_ORDER.to_le_bytes());
            out.extend_from_slice(&1_u16.to_le_bytes());
            out.extend_from_slice(&0_u16.to_le_bytes());
            out.extend_from_slice(&(-1_i64).to_le_bytes());
            for (code, text) in [
                (SHB_HARDWARE, &self.section.hardware),
                (SHB_OS, &self.section.system),
                (SHB_USERAPPL, &self.section.application),
            ] {
                if !text.is_empty() {
                    option(code, &[text.as_bytes()], out);
                }
            }
            option(END_OF_OPTIONS, &[], out);
        });
    }

    #[inline]
    pub(super) fn packet(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let known = self.described.get(usize::from(packet.interface));
        let described = match known.copied().flatten() {
            Some(described) if described.link_type == packet.link_type => described,
            _ => self.describe_for(packet, out)?,
        };
        let captured = captured(packet);
        let padding = padding(captured as usize);
        let len = 32 + captured + padding;
        let [low, high] = halves(packet.time.nanos());
        let mut header = [0; 28];
        for (place, field) in header.as_chunks_mut::<4>().0.iter_mut().zip([
            ENHANCED_PACKET,
            len,
            described.number,
            high,
            low,
            captured,
            packet.orig_len,
        ]) {
            *place = field.to_le_bytes();
        }
        out.extend_from_slice(&header);
        append_data(packet, out);
        out.extend_from_slice(&[0; 4][..padding as usize]);
        out.extend_from_slice(&len.to_le_bytes());
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        totals: &dyn Fn(u16) -> Option<InterfaceTotals>,
        out: &mut Vec<u8>,
    ) {
        let registered = u16::try_from(self.interfaces.len()).unwrap_or(u16::MAX);
        for interface in 0..registered {
            let Some(totals) = totals(interface) else {
                continue;
            };
            let known = self.described.get(usize::from(interface));
            let Some(described) = known
                .copied()
                .flatten()
                .or_else(|| self.describe(interface, out))
            else {
                continue;
            };
            statistics(described.number, &totals, out);
        }
    }

    pub(super) fn keep_all(&mut self) {
        self.kept = self.count;
    }

    /// Says how much of `written` is whole blocks. Interfaces described beyond them are forgotten, and
    /// described again when their next packet comes.
    pub(super) fn keep(&mut self, written: &[u8]) -> Whole {
        let mut whole = Whole::default();
        while let Some(head) = written.get(whole.bytes..whole.bytes + EMPTY_BLOCK) {
            let kind = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if len < EMPTY_BLOCK || whole.bytes + len > written.len() {
                break;
            }
            whole.bytes += len;
            whole.packets += u64::from(kind == ENHANCED_PACKET);
            self.kept += u32::from(kind == INTERFACE_DESCRIPTION);
        }
        for described in &mut self.described {
            if described.is_some_and(|described| described.number >= self.kept) {
                *described = None;
            }
        }
        self.count = self.kept;
        whole
    }

    #[cold]
    fn describe_for(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<Described, Unfit> {
        let interface = packet.interface;
        let Some(known) = self.interfaces.get(interface) else {
            return Err(Unfit::Interface { interface });
        };
        if known.link_type != packet.link_type {
            return Err(Unfit::InterfaceType {
                interface,
                found: packet.link_type,
                held: known.link_type,
            });
        }
        self.describe(interface, out)
            .ok_or(Unfit::Interface { interface })
    }

    fn describe(&mut self, number: u16, out: &mut Vec<u8>) -> Option<Described> {
        let interface = self.interfaces.get(number)?;
        block(INTERFACE_DESCRIPTION, out, |out| {
            out.extend_from_slice(&interface.link_type.0.to_le_bytes());
            out.extend_from_slice(&0_u16.to_le_bytes());
            out.extend_from_slice(&interface.snaplen.to_le_bytes());
            if !interface.name.is_empty() {
                option(IF_NAME, &[interface.name.as_bytes()], out);
            }
            option(IF_TSRESOL, &[&[NANOSECONDS]], out);
            if let Some(filter) = &interface.filter {
                option(IF_FILTER, &[&[FILTER_TEXT], filter.as_bytes()], out);
            }
            option(END_OF_OPTIONS, &[], out);
        });
        let described = Described {
            number: self.count,
            link_type: interface.link_type,
        };
        self.count += 1;
        let place = usize::from(number);
        if self.described.len() <= place {
            self.described.resize(place + 1, None);
        }
        self.described[place] = Some(described);
        Some(described)
    }
}

fn statistics(number: u32, totals: &InterfaceTotals, out: &mut Vec<u8>) {
    block(INTERFACE_STATISTICS, out, |out| {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&stamp(totals.end.unwrap_or_else(Timestamp::now)));
        for (code, time) in [(ISB_STARTTIME, totals.start), (ISB_ENDTIME, totals.end)] {
            if let Some(time) = time {
                option(code, &[&stamp(time)], out);
            }
        }
        for (code, count) in [
            (ISB_IFRECV, totals.received),
            (ISB_IFDROP, totals.interface_dropped),
            (ISB_FILTERACCEPT, totals.accepted),
            (ISB_OSDROP, totals.system_dropped),
            (ISB_USRDELIV, totals.delivered),
        ] {
            if let Some(count) = count {
                option(code, &[&count.to_le_bytes()], out);
            }
        }
        option(END_OF_OPTIONS, &[], out);
    });
}

/// Appends a block whose body `fill` appends, a multiple of four bytes.
fn block(kind: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let len = u32::try_from(out.len() + 4 - start).expect("descriptions are far below 4 GiB");
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
}

/// Appends an option of the joined `parts`; what exceeds 65,535 bytes is cut off.
fn option(code: u16, parts: &[&[u8]], out: &mut Vec<u8>) {
    let whole: usize = parts.iter().map(|part| part.len()).sum();
    let len = u16::try_from(whole).unwrap_or(u16::MAX);
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    let end = out.len() + usize::from(len);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.truncate(end);
    out.resize(end + padding(usize::from(len)) as usize, 0);
}

/// A time as pcapng has it: the upper half first.
fn stamp(time: Timestamp) -> [u8; 8] {
    let [low, high] = halves(time.nanos());
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&high.to_le_bytes());
    bytes[4..].copy_from_slice(&low.to_le_bytes());
    bytes
}

#[inline]
fn halves(nanos: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = nanos.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// How many bytes are missing to a multiple of four.
#[inline]
fn padding(len: usize) -> u32 {
    const MISSING: [u32; 4] = [0, 3, 2, 1];
    MISSING[len % 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::Interface;
    use crate::packet::Clock;

    fn interfaces(names: &[&str]) -> Interfaces {
        let interfaces = Interfaces::default();
        for name in names {
            let registered = interfaces.register(Interface {
                name: (*name).to_owned(),
                link_type: LinkType::ETHERNET,
                snaplen: 0,
                filter: Some("tcp port 80".to_owned()),
            });
            assert!(registered.is_some());
        }
        interfaces
    }

    fn packet(interface: u16, data: &[u8]) -> Packet<'_> {
        Packet {
            clock: Clock::Arrival,
            time: Timestamp::from_nanos(1_458_240_269_373_968_123),
            orig_len: 2_000,
            link_type: LinkType::ETHERNET,
            interface,
            data,
            more: &[],
        }
    }

    /// The kinds of the blocks, with the interface number of those that carry one.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, u32)> {
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let len = word(bytes, 4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(bytes, len - 4) as usize, len);
            found.push((word(bytes, 0), word(bytes, 8)));
            bytes = &bytes[len..];
        }
        found
    }

    #[test]
    fn an_interface_is_described_before_its_first_packet_and_only_then() {
        let mut encoder = PcapngEncoder::new(Section::here(), interfaces(&["a", "b"]));
        let mut out = Vec::new();
        encoder.start(&mut out);
        for interface in [1, 0, 1] {
            encoder
                .packet(&packet(interface, &[1; 61]), &mut out)
                .unwrap();
        }
        let kinds: Vec<_> = blocks(&out).into_iter().skip(1).collect();
        let numbers: Vec<_> = kinds.iter().filter(|(kind, _)| *kind == 6).collect();
        assert_eq!(
            kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [1, 6, 1, 6, 6]
        );
        assert_eq!(numbers, [&(6, 0), &(6, 1), &(6, 0)]);
    }

    #[test]
    fn statistics_name_interfaces_that_had_no_packet() {
        let mut encoder = PcapngEncoder::new(Section::default(), interfaces(&["a", "b", "c"]));
        let mut out = Vec::new();
        encoder.start(&mut out);
        encoder.packet(&packet(2, &[]), &mut out).unwrap();
        out.clear();
        encoder.finish(
            &|interface| (interface != 0).then(InterfaceTotals::default),
            &mut out,
        );
        let found: Vec<_> = blocks(&out);
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].0, found[1], found[2]), (1, (5, 1), (5, 0)));
    }

    #[test]
    fn what_was_cut_off_is_described_again() {
        let mut encoder = PcapngEncoder::new(Section::default(), interfaces(&["a", "b"]));
        let mut out = Vec::new();
        encoder.start(&mut out);
        let start = out.len();
        encoder.packet(&packet(0, &[1; 4]), &mut out).unwrap();
        let first = out.len();
        encoder.packet(&packet(1, &[2; 4]), &mut out).unwrap();

        let mut other = encoder.clone();
        let whole = other.keep(&out[..out.len() - 1]);
        assert_eq!(whole.packets, 1);
        assert!(whole.bytes > first, "the description of b is whole");
        let mut again = Vec::new();
        other.packet(&packet(1, &[2; 4]), &mut again).unwrap();
        assert_eq!(blocks(&again), [(6, 1)]);

        let whole = encoder.keep(&out[..first - 1]);
        assert_eq!(whole.packets, 0);
        assert!(whole.bytes > start);
        let mut again = Vec::new();
        encoder.packet(&packet(1, &[2; 4]), &mut again).unwrap();
        encoder.packet(&packet(0, &[2; 4]), &mut again).unwrap();
        let kinds: Vec<_> = blocks(&again).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [1, 6, 6]);
    }

    #[test]
    fn a_packet_of_an_unknown_interface_leaves_no_trace() {
        let mut encoder = PcapngEncoder::new(Section::default(), interfaces(&["a"]));
        let mut out = Vec::new();
        let refused = encoder.packet(&packet(1, &[]), &mut out);
        assert_eq!(refused, Err(Unfit::Interface { interface: 1 }));
        assert!(out.is_empty());
    }
}
