//! Kafka's framing, as far as a proxy must understand it.
//!
//! The rule: what need not be changed is passed on to the byte. Only answers that hold addresses or an error to
//! be changed are decoded, in the version in which they were asked for.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{
    ApiKey, InitProducerIdResponse, MetadataResponse, ProduceRequest, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

/// No message of a test is longer.
const LONGEST: usize = 64 << 20;

/// Where each broker, by the address it tells of itself, is to be found instead.
pub(super) type Routes = BTreeMap<(String, i32), (String, i32)>;

/// What a request asked, and by which number its answer is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) api: ApiKey,
    pub(super) version: i16,
    pub(super) correlation: i32,
}

impl Asked {
    /// What the body of a request says.
    pub(super) fn read(body: &[u8]) -> Self {
        let word = |at: usize| i16::from_be_bytes(body[at..at + 2].try_into().unwrap());
        Self {
            api: ApiKey::try_from(word(0)).unwrap(),
            version: word(2),
            correlation: correlation(&body[4..]),
        }
    }

    /// The answer with every address replaced by that of a proxy; `throttled` takes the time in it for which
    /// the client is to be slower.
    pub(super) fn redirect(
        self,
        body: Vec<u8>,
        routes: &Routes,
        throttled: impl FnOnce(i32),
    ) -> Vec<u8> {
        let route = |host: &mut StrBytes, port: &mut i32| {
            if let Some((host_, port_)) = routes.get(&(host.to_string(), *port)) {
                *host = StrBytes::from_string(host_.clone());
                *port = *port_;
            }
        };
        match self.api {
            ApiKey::Metadata => self.change(body, |answer: &mut MetadataResponse| {
                for broker in &mut answer.brokers {
                    route(&mut broker.host, &mut broker.port);
                }
            }),
            ApiKey::Produce => self.change(body, |answer: &mut ProduceResponse| {
                throttled(answer.throttle_time_ms);
                for node in &mut answer.node_endpoints {
                    route(&mut node.host, &mut node.port);
                }
            }),
            _ => body,
        }
    }

    /// The answer of Produce with this error for every partition.
    pub(super) fn rewrite(self, body: Vec<u8>, error: ResponseError) -> Vec<u8> {
        self.change(body, |answer: &mut ProduceResponse| {
            for topic in &mut answer.responses {
                for partition in &mut topic.partition_responses {
                    partition.error_code = error.code();
                    partition.base_offset = -1;
                }
            }
        })
    }

    /// The answer to a request that never reaches a broker.
    pub(super) fn refuse(self, body: &[u8], error: ResponseError) -> Vec<u8> {
        match self.api {
            ApiKey::Produce => self.answer(&self.refused(body, error)),
            ApiKey::InitProducerId => {
                let answer = InitProducerIdResponse::default();
                self.answer(&answer.with_error_code(error.code()))
            }
            api => panic!("no refusal of {api:?} is known"),
        }
    }

    /// This error for every partition of a request of Produce.
    fn refused(self, body: &[u8], error: ResponseError) -> ProduceResponse {
        let mut rest = Bytes::copy_from_slice(body);
        let version = ProduceRequest::header_version(self.version);
        RequestHeader::decode(&mut rest, version).unwrap();
        let request = ProduceRequest::decode(&mut rest, self.version).unwrap();
        let topics = request.topic_data.into_iter().map(|topic| {
            let partitions = topic.partition_data.into_iter().map(|partition| {
                PartitionProduceResponse::default()
                    .with_index(partition.index)
                    .with_error_code(error.code())
                    .with_base_offset(-1)
            });
            TopicProduceResponse::default()
                .with_name(topic.name)
                .with_topic_id(topic.topic_id)
                .with_partition_responses(partitions.collect())
        });
        ProduceResponse::default().with_responses(topics.collect())
    }

    fn change<T>(self, body: Vec<u8>, change: impl FnOnce(&mut T)) -> Vec<u8>
    where
        T: Decodable + Encodable + HeaderVersion,
    {
        let mut rest = Bytes::from(body);
        ResponseHeader::decode(&mut rest, T::header_version(self.version)).unwrap();
        let mut answer = T::decode(&mut rest, self.version).unwrap();
        change(&mut answer);
        self.answer(&answer)
    }

    fn answer<T: Encodable + HeaderVersion>(self, answer: &T) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        let head = ResponseHeader::default().with_correlation_id(self.correlation);
        let version = T::header_version(self.version);
        head.encode(&mut bytes, version).unwrap();
        answer.encode(&mut bytes, self.version).unwrap();
        bytes.to_vec()
    }
}

/// The number that an answer bears.
pub(super) fn correlation(body: &[u8]) -> i32 {
    i32::from_be_bytes(body[..4].try_into().unwrap())
}

/// Reads one message: what follows its length.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    assert!(length <= LONGEST, "a message of {length} bytes");
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

/// The message as it goes on the wire.
pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len()).unwrap();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}
