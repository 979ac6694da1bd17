//! A record as a packet.
//!
//! The rule: what is not a packet's record is named and counted, never guessed at and never fatal.

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use super::header;
use crate::packet::{Clock, LinkType, MAX_PACKET, Packet, Timestamp};
use crate::record::{KeyTime, RecordInfo};

/// 1990-01-01: no packet was captured to Kafka before it.
const EARLIEST: Timestamp = Timestamp::from_nanos(631_152_000_000_000_000);
/// 2100-01-01.
const LATEST: Timestamp = Timestamp::from_nanos(4_102_444_800_000_000_000);

/// Why a record holds no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    /// No key.
    #[error("it has no key")]
    NoKey,
    /// A key of another length than eight bytes.
    #[error("its key has {0} bytes, not 8")]
    KeyLength(usize),
    /// No value.
    #[error("it has no value")]
    NoValue,
    /// A value that no reader of capture files takes.
    #[error("its value has {0} bytes, and a packet has at most {MAX_PACKET}")]
    TooLong(usize),
}

/// A record's packet, restored as far as the record tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded<'a> {
    /// With the `rt` header: ns time, original length, link type, interface; else what the key and the
    /// value say.
    pub packet: Packet<'a>,
    /// The time in the key.
    pub key_time: Timestamp,
    /// Whether there was an `rt` header.
    pub restored: bool,
}

/// Reads records.
#[derive(Debug)]
pub(super) struct Decoder {
    key_time: KeyTime,
    doubted: bool,
}

impl Decoder {
    /// Reads keys in this unit.
    pub(super) fn new(key_time: KeyTime) -> Self {
        Self {
            key_time,
            doubted: false,
        }
    }

    /// The packet in `record`.
    pub(super) fn decode<'a>(
        &mut self,
        record: &'a BorrowedMessage<'_>,
    ) -> Result<Decoded<'a>, Bad> {
        let info = header::rt(record).and_then(RecordInfo::decode);
        let decoded = decode(self.key_time, record.key(), record.payload(), info)?;
        if !self.doubted && !(EARLIEST..LATEST).contains(&decoded.key_time) {
            self.doubt(record, decoded.key_time);
        }
        Ok(decoded)
    }

    /// The time to sort by; `None` where the record holds no packet.
    pub(super) fn time(&self, record: &BorrowedMessage<'_>) -> Option<Timestamp> {
        let info = header::rt(record).and_then(RecordInfo::decode);
        let decoded = decode(self.key_time, record.key(), record.payload(), info).ok()?;
        Some(decoded.packet.time)
    }

    #[cold]
    fn doubt(&mut self, record: &BorrowedMessage<'_>, time: Timestamp) {
        self.doubted = true;
        let seconds = i64::try_from(time.nanos() / 1_000_000_000).unwrap_or(i64::MAX);
        let year = time::OffsetDateTime::from_unix_timestamp(seconds).map_or(9_999, |t| t.year());
        tracing::warn!(
            partition = record.partition(),
            offset = record.offset(),
            "the key puts a packet in the year {year}: are its units right? --key-time us, ns or ms says \
             what the keys count"
        );
    }
}

fn decode<'a>(
    unit: KeyTime,
    key: Option<&[u8]>,
    value: Option<&'a [u8]>,
    info: Option<RecordInfo>,
) -> Result<Decoded<'a>, Bad> {
    let key = key.ok_or(Bad::NoKey)?;
    let key: [u8; 8] = key.try_into().map_err(|_| Bad::KeyLength(key.len()))?;
    let data = value.ok_or(Bad::NoValue)?;
    if data.len() > MAX_PACKET {
        return Err(Bad::TooLong(data.len()));
    }
    let len = u32::try_from(data.len()).expect("it is at most MAX_PACKET bytes long");
    let key_time = unit.time(u64::from_be_bytes(key));
    let packet = Packet {
        clock: Clock::Arrival,
        time: info.map_or(key_time, |info| info.time),
        orig_len: info.map_or(len, |info| info.orig_len.max(len)),
        link_type: info.map_or(LinkType::ETHERNET, |info| info.link_type),
        interface: info.map_or(0, |info| info.interface),
        data,
        more: &[],
    };
    Ok(Decoded {
        packet,
        key_time,
        restored: info.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 8] = 1_458_240_269_373_968_u64.to_be_bytes();

    #[test]
    fn a_record_without_header_is_an_uncut_ethernet_frame_at_the_time_of_its_key() {
        let decoded = decode(KeyTime::Micros, Some(&KEY), Some(&[1, 2, 3]), None).unwrap();
        assert_eq!(decoded.packet.time.nanos(), 1_458_240_269_373_968_000);
        assert_eq!(decoded.packet.orig_len, 3);
        assert_eq!(decoded.packet.link_type, LinkType::ETHERNET);
        assert_eq!(decoded.packet.data, [1, 2, 3]);
    }

    #[test]
    fn a_header_restores_what_key_and_value_cannot_tell() {
        let info = RecordInfo {
            flags: 0,
            link_type: LinkType::RAW,
            queue: 0,
            interface: 7,
            orig_len: 9_000,
            time: Timestamp::from_nanos(1_458_240_269_373_968_123),
            sequence: 0,
        };
        let decoded = decode(KeyTime::Micros, Some(&KEY), Some(&[1]), Some(info)).unwrap();
        assert_eq!(decoded.packet.time.nanos(), 1_458_240_269_373_968_123);
        assert_eq!(decoded.packet.orig_len, 9_000);
        assert_eq!(decoded.packet.link_type, LinkType::RAW);
        assert_eq!(decoded.packet.interface, 7);
        assert_eq!(decoded.key_time.nanos(), 1_458_240_269_373_968_000);
    }

    #[test]
    fn what_holds_no_packet_is_named() {
        let bad = |key: Option<&[u8]>, value: Option<&[u8]>| {
            decode(KeyTime::Micros, key, value, None)
                .map(drop)
                .unwrap_err()
        };
        let long = vec![0; MAX_PACKET + 1];
        assert_eq!(bad(None, Some(&[1])), Bad::NoKey);
        assert_eq!(bad(Some(&[]), Some(&[1])), Bad::KeyLength(0));
        assert_eq!(bad(Some(&KEY[..7]), Some(&[1])), Bad::KeyLength(7));
        assert_eq!(bad(Some(&[0; 9]), Some(&[1])), Bad::KeyLength(9));
        assert_eq!(bad(Some(&KEY), None), Bad::NoValue);
        assert_eq!(bad(Some(&KEY), Some(&long)), Bad::TooLong(MAX_PACKET + 1));
        assert!(decode(KeyTime::Micros, Some(&KEY), Some(&[]), None).is_ok());
    }
}
