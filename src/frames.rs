//! Frames that can be told apart: numbered, checksummed Ethernet/IPv4/UDP frames of any size.
//!
//! The rule: a frame says what it is. Stream, slot, flow, tag and size stand in its headers, every
//! other byte follows from them, and its number is written twice; so whoever receives a frame can
//! build it again and compare each byte, knowing nothing of the sender.
//!
//! ```text
//! 0   Ethernet   to 02:72:74:61:70:01, from 02:72:SS:SS:SS:SS (stream), 802.1Q tag if asked for
//! 14  IPv4       identification = slot, from 10.F.F.F (flow), to 198.18.S.S
//! 34  UDP        from 1024 + flow mod 64,000, to 9 (discard)
//! 42  check      16 bits over stream, slot, flow, tag and size
//! 44  sequence   64 bits, and its complement at 52
//! 60  time       64 bits, and its complement at 68, in frames of 76 bytes and more
//! .   fill       pseudo-random bytes
//! ```
//!
//! All numbers are big-endian. A word and its complement add up to nothing in the Internet checksum,
//! so the UDP checksum is right for every sequence number and time: a sender patches 16 bytes, no more.

use std::fmt;
use std::str::FromStr;

/// The shortest frame in bytes, without FCS and without tag (IEEE 802.3).
pub const MIN: usize = 60;

/// The longest frame in bytes, without tag: what an MTU of 9,000 takes.
pub const MAX: usize = 9_014;

/// How many different frames a plan makes; frame `n` is that of slot `n % SLOTS`, with its number in it.
///
/// A multiple of 12, the period of IMIX; no less than the 1,455 sizes from 60 to 1,514; and no power of
/// two, so that a receiver that hands out an old frame of its ring hands out a wrong one.
pub const SLOTS: usize = 1_464;

/// Where the sequence number begins in a frame without tag.
pub const SEQUENCE_AT: usize = 44;

/// What a tag adds to a frame, in bytes.
pub const TAG_LEN: usize = 4;

/// The shortest frame without tag that has room for the time, in bytes.
pub const STAMPED: usize = 76;

const MAGIC: [u8; 6] = [0x02, b'r', b't', b'a', b'p', 1];
const ETHERTYPE_AT: usize = 12;
const CHECK_AT: usize = 42;
const TIME_AT: usize = SEQUENCE_AT + 16;
/// Seven of 60 bytes, four of 590, one of 1,514, spread.
const IMIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 1_514, 60, 590, 60, 590, 60];

/// What was given is no frame size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame size `{0}`: must be imix, or a number or range of numbers from 60 to 9014")]
pub struct SizeError(String);

/// How long the frames of a plan are, without tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All the same, [`MIN`] to [`MAX`].
    Fixed(u16),
    /// 60, 590 and 1,514 bytes, 7 : 4 : 1.
    Imix,
    /// From the first to the second, both included, each in turn in a mixed order; of more than
    /// [`SLOTS`] sizes only some.
    Range(u16, u16),
}

impl Size {
    /// The size in slot `slot`; values outside [`MIN`] to [`MAX`] are moved there.
    pub fn at(self, slot: usize) -> usize {
        // 619 shares no factor with SLOTS: every slot is met once.
        let mixed = slot * 619 % SLOTS;
        let size = match self {
            Self::Fixed(size) => usize::from(size),
            Self::Imix => IMIX[slot % IMIX.len()],
            Self::Range(from, to) => {
                let (from, to) = (usize::from(from), usize::from(to.max(from)));
                let sizes = to - from + 1;
                if sizes <= SLOTS {
                    from + mixed % sizes
                } else {
                    from + mixed * (sizes - 1) / (SLOTS - 1)
                }
            }
        };
        size.clamp(MIN, MAX)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let refused = || SizeError(text.to_owned());
        let bytes = |text: &str| match text.trim().parse::<u16>() {
            Ok(size) if (MIN..=MAX).contains(&usize::from(size)) => Ok(size),
            _ => Err(refused()),
        };
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let Some((from, to)) = text.split_once('-') else {
            return bytes(text).map(Self::Fixed);
        };
        let (from, to) = (bytes(from)?, bytes(to)?);
        if from > to {
            return Err(refused());
        }
        Ok(Self::Range(from, to))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Imix => f.write_str("imix"),
            Self::Range(from, to) => write!(f, "{from}-{to}"),
        }
    }
}

/// What the frames of one stream look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The stream's number.
    pub stream: u32,
    /// Their sizes.
    pub size: Size,
    /// How many flows they belong to in turn, 1 to [`SLOTS`]: source address and port differ.
    pub flows: u32,
    /// The tag control information of their 802.1Q tag: priority, and VLAN in the low 12 bits.
    pub vlan: Option<u16>,
}

impl Plan {
    /// Untagged frames of one flow.
    pub fn new(stream: u32, size: Size) -> Self {
        Self {
            stream,
            size,
            flows: 1,
            vlan: None,
        }
    }

    /// Writes frame `sequence` into the front of `out` and returns its length in bytes.
    ///
    /// Panics where `out` is shorter than [`len`](Self::len) says. Builds the frame anew each time: a
    /// [`Table`] is faster.
    pub fn frame(&self, sequence: u64, out: &mut [u8]) -> usize {
        let identity = self.identity(slot(sequence));
        let len = identity.write(out);
        number(&mut out[identity.sequence_at()..], sequence);
        len
    }

    /// The length of frame `sequence` in bytes, tag included.
    pub fn len(&self, sequence: u64) -> usize {
        self.identity(slot(sequence)).len()
    }

    /// The length of its longest frame in bytes, tag included.
    pub fn longest(&self) -> usize {
        (0..SLOTS)
            .map(|slot| self.identity(slot).len())
            .max()
            .unwrap_or(MIN)
    }

    /// How many bytes the first `frames` frames have together.
    pub fn bytes(&self, frames: u64) -> u64 {
        let sum = |slots: usize| -> u64 {
            (0..slots)
                .map(|slot| self.identity(slot).len() as u64)
                .sum()
        };
        frames / SLOTS as u64 * sum(SLOTS) + sum(slot(frames))
    }

    /// The frame of every slot, built once.
    pub fn table(&self) -> Table {
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        for slot in 0..SLOTS {
            let identity = self.identity(slot);
            let start = bytes.len();
            bytes.resize(start + identity.len(), 0);
            identity.write(&mut bytes[start..]);
            starts.push(bytes.len());
        }
        Table {
            bytes,
            starts,
            sequence_at: self.sequence_at(),
        }
    }

    /// Where the sequence number begins in its frames.
    pub fn sequence_at(&self) -> usize {
        self.identity(0).sequence_at()
    }

    fn identity(&self, slot: usize) -> Identity {
        let slot = slot % SLOTS;
        let size = u16::try_from(self.size.at(slot)).expect("no frame is longer than MAX");
        let slot = u16::try_from(slot).expect("there are fewer slots than 65,536");
        Identity {
            stream: self.stream,
            slot,
            flow: u32::from(slot) % self.flows.max(1),
            vlan: self.vlan,
            size,
        }
    }
}

/// The frames of a plan, ready but for their numbers.
#[derive(Clone, Debug)]
pub struct Table {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    sequence_at: usize,
}

impl Table {
    /// Frame `sequence`: writes the number into the frame of its slot and lends it.
    #[inline]
    pub fn frame(&mut self, sequence: u64) -> &[u8] {
        let slot = slot(sequence);
        let frame = &mut self.bytes[self.starts[slot]..self.starts[slot + 1]];
        number(&mut frame[self.sequence_at..], sequence);
        frame
    }
}

/// All that a frame follows from, but for its number and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) stream: u32,
    pub(crate) slot: u16,
    pub(crate) flow: u32,
    pub(crate) vlan: Option<u16>,
    /// Without tag.
    pub(crate) size: u16,
}

impl Identity {
    /// What `frame` says it is; `None` where it is too short or too long to be one of ours.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let tagged = word(ETHERTYPE_AT)? == 0x8100;
        let tag = if tagged { TAG_LEN } else { 0 };
        let size = frame.len().checked_sub(tag)?;
        if !(MIN..=MAX).contains(&size) {
            return None;
        }
        Some(Self {
            stream: u32::from_be_bytes(*frame[8..].first_chunk()?),
            slot: word(tag + 18)?,
            flow: u32::from_be_bytes(*frame[tag + 26..].first_chunk()?) & 0x00ff_ffff,
            vlan: if tagged { word(14) } else { None },
            size: u16::try_from(size).ok()?,
        })
    }

    /// Its length in bytes, tag included.
    pub(crate) fn len(&self) -> usize {
        self.tag() + usize::from(self.size)
    }

    /// Where the sequence number begins.
    pub(crate) fn sequence_at(&self) -> usize {
        self.tag() + SEQUENCE_AT
    }

    /// Where the time begins, if the frame has room for it.
    pub(crate) fn time_at(&self) -> Option<usize> {
        (usize::from(self.size) >= STAMPED).then_some(self.tag() + TIME_AT)
    }

    /// Writes the frame with number and time 0 and returns its length.
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let out = &mut out[..self.len()];
        out[..6].copy_from_slice(&MAGIC);
        out[6..8].copy_from_slice(&[0x02, b'r']);
        out[8..12].copy_from_slice(&self.stream.to_be_bytes());
        if let Some(tag) = self.vlan {
            out[12..14].copy_from_slice(&0x8100_u16.to_be_bytes());
            out[14..16].copy_from_slice(&tag.to_be_bytes());
        }
        let tag = self.tag();
        out[tag + 12..tag + 14].copy_from_slice(&0x0800_u16.to_be_bytes());

        let seed = self.seed();
        let ip = &mut out[tag + 14..];
        ip[..20].copy_from_slice(&self.ip());
        let udp = &mut ip[20..];
        udp[..8].copy_from_slice(&self.udp());
        let payload = &mut udp[8..];
        let folded = (seed >> 16) ^ (seed & 0xffff);
        payload[..2].copy_from_slice(&folded.to_be_bytes()[2..]);
        number(&mut payload[2..], 0);
        let mut rest = SEQUENCE_AT + 16 - CHECK_AT;
        if self.time_at().is_some() {
            number(&mut payload[rest..], 0);
            rest += 16;
        }
        fill(&mut payload[rest..], seed);

        let sum = internet_checksum(&[&ip[12..20], &[0, 17], &ip[24..26], &ip[20..]]);
        // RFC 768: a sum of 0 is sent as all ones.
        let sum = if sum == 0 { 0xffff } else { sum };
        ip[26..28].copy_from_slice(&sum.to_be_bytes());
        self.len()
    }

    fn tag(&self) -> usize {
        if self.vlan.is_some() { TAG_LEN } else { 0 }
    }

    fn ip(&self) -> [u8; 20] {
        let mut ip = [0; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(self.size - 14).to_be_bytes());
        ip[4..6].copy_from_slice(&self.slot.to_be_bytes());
        ip[8] = 64;
        ip[9] = 17;
        ip[12..16].copy_from_slice(&(0x0a00_0000 | self.flow).to_be_bytes());
        ip[16..18].copy_from_slice(&[198, 18]);
        ip[18..20].copy_from_slice(&self.stream.to_be_bytes()[2..]);
        let sum = internet_checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip
    }

    fn udp(&self) -> [u8; 8] {
        let port = u16::try_from(1_024 + self.flow % 64_000).expect("65,023 is the highest port");
        let mut udp = [0; 8];
        udp[..2].copy_from_slice(&port.to_be_bytes());
        udp[2..4].copy_from_slice(&9_u16.to_be_bytes());
        udp[4..6].copy_from_slice(&(self.size - 34).to_be_bytes());
        udp
    }

    /// CRC-32C over the identity: what check and fill are made from.
    fn seed(&self) -> u32 {
        let mut bytes = [0; 15];
        bytes[..4].copy_from_slice(&self.stream.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.slot.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.flow.to_be_bytes());
        bytes[10] = u8::from(self.vlan.is_some());
        bytes[11..13].copy_from_slice(&self.vlan.unwrap_or(0).to_be_bytes());
        bytes[13..15].copy_from_slice(&self.size.to_be_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// Whether a frame is meant to be one of ours; one damaged byte does not hide it.
pub(crate) fn is_ours(frame: &[u8]) -> bool {
    let same = frame.iter().zip(MAGIC).filter(|(a, b)| **a == *b).count();
    same >= MAGIC.len() - 1
}

/// The slot of frame `sequence`.
pub(crate) fn slot(sequence: u64) -> usize {
    usize::try_from(sequence % SLOTS as u64).expect("a slot is less than SLOTS")
}

/// Writes a number and its complement into the first 16 bytes.
pub(crate) fn number(out: &mut [u8], number: u64) {
    out[..8].copy_from_slice(&number.to_be_bytes());
    out[8..16].copy_from_slice(&(!number).to_be_bytes());
}

/// Reads a number that its complement follows; `None` where the two disagree.
pub(crate) fn read_number(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    let complement = u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
    (number == !complement).then_some(number)
}

/// Fills `out` from an xorshift generator.
fn fill(out: &mut [u8], seed: u32) {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    for chunk in out.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
    }
}

/// The Internet checksum (RFC 1071) over `parts`, of which only the last may have an odd length.
fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for chunk in parts.iter().flat_map(|part| part.chunks(2)) {
        let low = chunk.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([chunk[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("a folded sum has 16 bits")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use etherparse::{SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn frame(plan: Plan, sequence: u64) -> Vec<u8> {
        let mut out = vec![0; MAX + TAG_LEN];
        let len = plan.frame(sequence, &mut out);
        out.truncate(len);
        out
    }

    proptest! {
        #[test]
        fn every_frame_is_a_valid_udp_packet_of_its_size_with_right_checksums(
            size in 60..=9_014_u16,
            sequence in any::<u64>(),
            stream in any::<u32>(),
            flows in 1..2_000_u32,
            vlan in proptest::option::of(0..4_095_u16),
        ) {
            let plan = Plan { stream, size: Size::Fixed(size), flows, vlan };
            let frame = frame(plan, sequence);
            prop_assert_eq!(frame.len(), usize::from(size) + if vlan.is_some() { 4 } else { 0 });
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4") };
            prop_assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            prop_assert_eq!(ip.header().total_len(), size - 14);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
            let right = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
            prop_assert_eq!(right, udp.checksum());
            prop_assert_eq!(read_number(&frame[plan.sequence_at()..]), Some(sequence));
        }

        #[test]
        fn a_table_makes_the_same_frames_as_the_plan(sequence in any::<u64>(), flows in 1..50_u32) {
            let plan = Plan { flows, ..Plan::new(3, Size::Range(60, 1_514)) };
            let mut table = plan.table();
            prop_assert_eq!(table.frame(sequence), frame(plan, sequence));
        }
    }

    #[test]
    fn imix_has_seven_four_and_one_parts() {
        let mut sizes = BTreeMap::new();
        for slot in 0..SLOTS {
            *sizes.entry(Size::Imix.at(slot)).or_insert(0) += 1;
        }
        let part = SLOTS / 12;
        assert_eq!(
            sizes,
            BTreeMap::from([(60, 7 * part), (590, 4 * part), (1_514, part)])
        );
    }

    #[test]
    fn a_range_has_every_size_once_the_slots_suffice() {
        let sizes: BTreeSet<_> = (0..SLOTS)
            .map(|slot| Size::Range(60, 1_514).at(slot))
            .collect();
        assert_eq!(sizes, (60..=1_514).collect());
        let sizes: BTreeSet<_> = (0..SLOTS)
            .map(|slot| Size::Range(60, 9_014).at(slot))
            .collect();
        assert_eq!((sizes.first(), sizes.last()), (Some(&60), Some(&9_014)));
    }

    #[test]
    fn a_size_reads_back_as_it_is_written_and_nothing_else_is_taken() {
        for size in [Size::Fixed(60), Size::Imix, Size::Range(60, 1_514)] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for text in ["", "59", "9015", "100-60", "60-", "mix"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_bytes_of_a_run_are_the_sum_of_its_frames() {
        let plan = Plan {
            vlan: Some(5),
            ..Plan::new(0, Size::Imix)
        };
        for frames in [0, 1, 1_463, 1_464, 5_000] {
            let sum: u64 = (0..frames).map(|sequence| plan.len(sequence) as u64).sum();
            assert_eq!(plan.bytes(frames), sum);
        }
    }

    #[test]
    fn flows_differ_in_address_and_port() {
        let plan = Plan {
            flows: 100,
            ..Plan::new(0, Size::Fixed(60))
        };
        let flows: BTreeSet<_> = (0..1_000)
            .map(|n| frame(plan, n)[26..36].to_vec())
            .collect();
        assert_eq!(flows.len(), 100);
    }
}
