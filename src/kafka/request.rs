//! Requests as bytes on the wire.
//!
//! The rule: a Produce request is written around the record batch, never over it: a head, the batch as it
//! lies in its own memory, a tail. Every other request is encoded by the `kafka-protocol` crate.
//!
//! Source of the layouts: Kafka's protocol guide, "Protocol Primitive Types" and "Produce API".

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use uuid::Uuid;

/// From this version on, a Produce request has compact lengths and tagged fields.
const FLEXIBLE_PRODUCE: i16 = 9;

/// From this version on, a Produce request names its topic by id.
pub(crate) const PRODUCE_BY_ID: i16 = 13;

/// What follows the records from version 9 on: no tagged field of the partition, of the topic, of the request.
const TAIL: [u8; 3] = [0; 3];

/// The broker knows no version of a request that can say what we have to say.
#[derive(Debug, thiserror::Error)]
#[error("the broker is too old: it has no version of {api:?} that ringtap speaks")]
pub(crate) struct TooOld {
    /// The request.
    pub(crate) api: ApiKey,
}

/// A request with its length in front, ready for the socket.
pub(crate) fn encode<R: Request>(
    body: &R,
    version: i16,
    correlation: i32,
    client_id: &str,
) -> Result<Vec<u8>, TooOld> {
    let api = ApiKey::try_from(R::KEY).expect("the crate knows the keys of its own requests");
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let mut bytes = BytesMut::with_capacity(256);
    bytes.put_i32(0);
    let encoded = header
        .encode(&mut bytes, api.request_header_version(version))
        .and_then(|()| body.encode(&mut bytes, version));
    encoded.map_err(|_| TooOld { api })?;
    let length = i32::try_from(bytes.len() - 4).expect("a request of ours is far below 2 GiB");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.to_vec())
}

/// Where the records of a Produce request go, and what is asked of the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Produce<'a> {
    /// The version; 3 to 13.
    pub(crate) version: i16,
    /// The correlation id.
    pub(crate) correlation: i32,
    /// The client's name.
    pub(crate) client_id: &'a str,
    /// -1 for all in-sync replicas, 1 for the leader, 0 for none.
    pub(crate) acks: i16,
    /// How long the broker may wait for replicas, in milliseconds.
    pub(crate) timeout_ms: i32,
    /// The topic's name, at most 249 bytes.
    pub(crate) topic: &'a str,
    /// The topic's id, for version 13.
    pub(crate) topic_id: Uuid,
    /// The partition.
    pub(crate) partition: i32,
    /// The length of the record batch in bytes.
    pub(crate) records: usize,
}

impl Produce<'_> {
    /// Writes everything in front of the records into `head` and returns what comes behind them.
    pub(crate) fn write(&self, head: &mut Vec<u8>) -> &'static [u8] {
        let flexible = self.version >= FLEXIBLE_PRODUCE;
        let tail: &'static [u8] = if flexible { &TAIL } else { &[] };
        head.clear();
        head.put_i32(0);
        head.put_i16(ApiKey::Produce as i16);
        head.put_i16(self.version);
        head.put_i32(self.correlation);
        put_string(head, self.client_id);
        let records = self.records;
        if flexible {
            head.put_u8(0);
            head.put_u8(0);
        } else {
            head.put_i16(-1);
        }
        head.put_i16(self.acks);
        head.put_i32(self.timeout_ms);
        if flexible {
            head.put_u8(2);
            if self.version >= PRODUCE_BY_ID {
                head.put_slice(self.topic_id.as_bytes());
            } else {
                put_varint(head, self.topic.len() + 1);
                head.put_slice(self.topic.as_bytes());
            }
            head.put_u8(2);
            head.put_i32(self.partition);
            put_varint(head, records + 1);
        } else {
            head.put_i32(1);
            put_string(head, self.topic);
            head.put_i32(1);
            head.put_i32(self.partition);
            head.put_i32(i32::try_from(records).expect("a batch is below 2 GiB"));
        }
        let length = head.len() - 4 + records + tail.len();
        let length = i32::try_from(length).expect("a batch is far below 2 GiB");
        head[..4].copy_from_slice(&length.to_be_bytes());
        tail
    }
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    let length = i16::try_from(text.len()).expect("names on the wire are below 32 KiB");
    bytes.put_i16(length);
    bytes.put_slice(text.as_bytes());
}

fn put_varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::ProduceRequest;
    use kafka_protocol::protocol::{Decodable, decode_request_header_from_buffer};

    use super::*;

    #[test]
    fn every_version_of_a_produce_request_is_read_back_by_an_independent_decoder() {
        for version in 3..=PRODUCE_BY_ID {
            for records in [vec![7; 61], vec![9; 200_000]] {
                let request = Produce {
                    version,
                    correlation: 99,
                    client_id: "ringtap",
                    acks: -1,
                    timeout_ms: 30_000,
                    topic: "pcap",
                    topic_id: Uuid::from_u128(42),
                    partition: 3,
                    records: records.len(),
                };
                let mut bytes = Vec::new();
                let tail = request.write(&mut bytes);
                bytes.extend(&records);
                bytes.extend(tail);
                let mut bytes = Bytes::from(bytes);
                let length = bytes.split_to(4);
                assert_eq!(
                    length.as_ref(),
                    u32::try_from(bytes.len()).unwrap().to_be_bytes()
                );
                let header = decode_request_header_from_buffer(&mut bytes).unwrap();
                assert_eq!(header.correlation_id, 99);
                assert_eq!(header.request_api_version, version);
                assert_eq!(header.client_id.unwrap().as_str(), "ringtap");
                let read = ProduceRequest::decode(&mut bytes, version).unwrap();
                assert!(bytes.is_empty(), "version {version}");
                assert_eq!((read.acks, read.timeout_ms), (-1, 30_000));
                let topic = &read.topic_data[0];
                if version >= PRODUCE_BY_ID {
                    assert_eq!(topic.topic_id, Uuid::from_u128(42));
                } else {
                    assert_eq!(topic.name.as_str(), "pcap");
                }
                let partition = &topic.partition_data[0];
                assert_eq!(partition.index, 3);
                assert_eq!(partition.records.as_deref(), Some(&records[..]));
            }
        }
    }
}
