//! The classic format, as draft-ietf-opsawg-pcap has it: a 24-byte header, then packets.
//!
//! The rule: version 2.4, little-endian, as tcpdump writes it on the machines ringtap runs on; what
//! Metron's pycapa sends is the same to the byte.

use super::{Fraction, Unfit, Whole, append_data, captured};
use crate::format::{PCAP_MICROS, PCAP_NANOS};
use crate::packet::{LinkType, Packet};

const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

/// Encodes a pcap file: one link type, no interfaces.
#[derive(Clone, Debug)]
pub struct PcapEncoder {
    fraction: Fraction,
    snaplen: u32,
    link_type: LinkType,
}

impl PcapEncoder {
    /// A file that states `snaplen` and `link_type`; packets are not cut here.
    pub fn new(fraction: Fraction, snaplen: u32, link_type: LinkType) -> Self {
        Self {
            fraction,
            snaplen,
            link_type,
        }
    }

    pub(super) fn start(&self, out: &mut Vec<u8>) {
        let magic = match self.fraction {
            Fraction::Micros => PCAP_MICROS,
            Fraction::Nanos => PCAP_NANOS,
        };
        out.extend_from_slice(&magic.to_le_bytes());
        out.extend_from_slice(&2_u16.to_le_bytes());
        out.extend_from_slice(&4_u16.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.snaplen.to_le_bytes());
        out.extend_from_slice(&u32::from(self.link_type.0).to_le_bytes());
    }

    /// Times beyond the year 2106 are written as its last second: the field has 32 bits.
    #[inline]
    pub(super) fn packet(&self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        if packet.link_type != self.link_type {
            return Err(Unfit::LinkType {
                found: packet.link_type,
                held: self.link_type,
            });
        }
        let nanos = packet.time.nanos();
        let seconds = u32::try_from(nanos / 1_000_000_000).unwrap_or(u32::MAX);
        let fraction = match self.fraction {
            Fraction::Micros => nanos % 1_000_000_000 / 1_000,
            Fraction::Nanos => nanos % 1_000_000_000,
        };
        let fraction = u32::try_from(fraction).expect("a fraction of a second is below 10^9");
        let mut header = [0; PACKET_HEADER];
        header[0..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&fraction.to_le_bytes());
        header[8..12].copy_from_slice(&captured(packet).to_le_bytes());
        header[12..16].copy_from_slice(&packet.orig_len.to_le_bytes());
        out.extend_from_slice(&header);
        append_data(packet, out);
        Ok(())
    }
}

/// The whole blocks at the start of `written`.
pub(super) fn whole(written: &[u8], at_start: bool) -> Whole {
    let mut whole = Whole::default();
    if at_start {
        if written.len() < FILE_HEADER {
            return whole;
        }
        whole.bytes = FILE_HEADER;
    }
    while let Some(header) = written.get(whole.bytes..whole.bytes + PACKET_HEADER) {
        let captured = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        let end = whole.bytes + PACKET_HEADER + captured as usize;
        if end > written.len() {
            break;
        }
        whole.bytes = end;
        whole.packets += 1;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::{Encoder, Writer};
    use super::*;
    use crate::packet::{Clock, Timestamp};

    fn packet(data: &[u8]) -> Packet<'_> {
        Packet {
            clock: Clock::Arrival,
            time: Timestamp::from_nanos(1_458_240_269_373_968_123),
            orig_len: 4,
            link_type: LinkType::ETHERNET,
            interface: 0,
            data,
            more: &[],
        }
    }

    #[test]
    fn a_file_for_pycapa_has_exactly_these_bytes() {
        let encoder = Encoder::pcap(Fraction::Micros, 65_535, LinkType::ETHERNET);
        let mut writer = Writer::new(Vec::new(), encoder).unwrap();
        writer.packet(&packet(&[1, 2, 3, 4])).unwrap();
        let bytes = writer.finish(&|_| None).unwrap();
        let expected = [
            0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0,
            0, 0x0d, 0xfb, 0xea, 0x56, 0xd0, 0xb4, 5, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_packet_of_another_link_type_leaves_no_trace() {
        let encoder = Encoder::pcap(Fraction::Nanos, 65_535, LinkType::RAW);
        let mut writer = Writer::new(Vec::new(), encoder).unwrap();
        assert!(writer.packet(&packet(&[1, 2, 3, 4])).is_err());
        assert_eq!(writer.finish(&|_| None).unwrap().len(), FILE_HEADER);
    }

    #[test]
    fn a_write_cut_anywhere_is_kept_up_to_the_last_whole_packet() {
        let encoder = PcapEncoder::new(Fraction::Micros, 65_535, LinkType::ETHERNET);
        let mut bytes = Vec::new();
        encoder.start(&mut bytes);
        let mut ends = vec![bytes.len()];
        for len in [0, 4, 1, 70] {
            encoder.packet(&packet(&vec![7; len]), &mut bytes).unwrap();
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let kept = ends.iter().filter(|end| **end <= cut).count();
            let whole = whole(&bytes[..cut], true);
            assert_eq!(whole.packets, kept.saturating_sub(1) as u64);
            assert_eq!(whole.bytes, kept.checked_sub(1).map_or(0, |at| ends[at]));
        }
    }
}
