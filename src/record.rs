//! A Kafka record as ringtap writes it: the key, the value, the optional `rt` header.
//!
//! The rule: these bytes are a contract with every Metron consumer, kept to the byte. The key is eight
//! bytes, big-endian, the packet's time since the epoch; the value is the raw frame; there are no
//! headers unless asked for.

use crate::packet::{LinkType, Timestamp};

/// The unit of the time in the key (`--key-time`); Metron's `kafka.pcap.ts_granularity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyTime {
    /// Microseconds: what fastcapa and pycapa write.
    #[default]
    Micros,
    /// Nanoseconds.
    Nanos,
    /// Milliseconds.
    Millis,
}

impl KeyTime {
    /// The key's number for a packet of time `time`.
    #[inline]
    pub fn key(self, time: Timestamp) -> u64 {
        match self {
            Self::Micros => time.micros(),
            Self::Nanos => time.nanos(),
            Self::Millis => time.millis(),
        }
    }

    /// The time that a key says; saturates where it is beyond the year 2554.
    pub fn time(self, key: u64) -> Timestamp {
        Timestamp::from_nanos(match self {
            Self::Micros => key.saturating_mul(1_000),
            Self::Nanos => key,
            Self::Millis => key.saturating_mul(1_000_000),
        })
    }
}

/// What the record's own timestamp says (`--record-time`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordTime {
    /// The packet's time: for live capture.
    #[default]
    Packet,
    /// The time its batch was begun: for files, which time-based retention would else delete at once.
    Now,
}

/// How a packet becomes a record.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// The unit of the key.
    pub key_time: KeyTime,
    /// What the record's timestamp says.
    pub record_time: RecordTime,
    /// Whether each record carries the `rt` header.
    pub headers: bool,
    /// Packets are cut to this many bytes.
    pub snaplen: usize,
}

/// The name of the one header.
pub const HEADER: &[u8] = b"rt";

/// The packet was cut: the record holds fewer bytes than were on the wire.
pub const TRUNCATED: u8 = 1;
/// The time is that of the burst's reading, not of the packet's arrival.
pub const BURST_CLOCK: u8 = 2;
/// The time was taken by the NIC.
pub const HARDWARE_CLOCK: u8 = 4;

/// What the `rt` header tells of a packet beyond its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordInfo {
    /// [`TRUNCATED`], [`BURST_CLOCK`], [`HARDWARE_CLOCK`], or-ed.
    pub flags: u8,
    /// What the first byte of the value is.
    pub link_type: LinkType,
    /// The queue it came in on.
    pub queue: u16,
    /// The number of the interface it came in on.
    pub interface: u16,
    /// Its length on the wire.
    pub orig_len: u32,
    /// Its time.
    pub time: Timestamp,
    /// Its number among the packets of that queue, from 0.
    pub sequence: u64,
}

impl RecordInfo {
    /// The length of the encoded form in bytes.
    pub const LEN: usize = 28;
    /// The first byte of the encoded form.
    pub const VERSION: u8 = 1;

    /// The value of the `rt` header, big-endian: version, flags, link type (2), queue (2),
    /// interface (2), original length (4), time in ns (8), sequence (8).
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = Self::VERSION;
        out[1] = self.flags;
        out[2..4].copy_from_slice(&self.link_type.0.to_be_bytes());
        out[4..6].copy_from_slice(&self.queue.to_be_bytes());
        out[6..8].copy_from_slice(&self.interface.to_be_bytes());
        out[8..12].copy_from_slice(&self.orig_len.to_be_bytes());
        out[12..20].copy_from_slice(&self.time.nanos().to_be_bytes());
        out[20..28].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }

    /// Reads the value of an `rt` header; `None` where version or length are not ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let [
            Self::VERSION,
            flags,
            l0,
            l1,
            q0,
            q1,
            i0,
            i1,
            o0,
            o1,
            o2,
            o3,
            rest @ ..,
        ] = *bytes
        else {
            return None;
        };
        let (time, sequence) = rest.split_first_chunk::<8>()?;
        Some(Self {
            flags,
            link_type: LinkType(u16::from_be_bytes([l0, l1])),
            queue: u16::from_be_bytes([q0, q1]),
            interface: u16::from_be_bytes([i0, i1]),
            orig_len: u32::from_be_bytes([o0, o1, o2, o3]),
            time: Timestamp::from_nanos(u64::from_be_bytes(*time)),
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rt_header_reads_back_as_it_was_written() {
        let info = RecordInfo {
            flags: TRUNCATED | HARDWARE_CLOCK,
            link_type: LinkType(0x1234),
            queue: 0x5678,
            interface: 0x9abc,
            orig_len: 0xdef0_1234,
            time: Timestamp::from_nanos(0x1122_3344_5566_7788),
            sequence: u64::MAX - 1,
        };
        assert_eq!(RecordInfo::decode(&info.encode()), Some(info));
        assert_eq!(RecordInfo::decode(&info.encode()[1..]), None);
        let mut other = info.encode();
        other[0] = 2;
        assert_eq!(RecordInfo::decode(&other), None);
    }

    #[test]
    fn a_key_is_the_time_in_its_unit() {
        let time = Timestamp::from_nanos(1_458_240_269_373_968_123);
        assert_eq!(KeyTime::Micros.key(time), 1_458_240_269_373_968);
        assert_eq!(KeyTime::Millis.key(time), 1_458_240_269_373);
        assert_eq!(KeyTime::Nanos.key(time), 1_458_240_269_373_968_123);
        assert_eq!(
            KeyTime::Millis.time(1_458_240_269_373).nanos(),
            1_458_240_269_373_000_000
        );
    }
}
