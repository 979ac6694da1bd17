//! Every answer at every version, as the `kafka-protocol` crate writes it, and every one cut short.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, CreateTopicsResponse, DescribeConfigsResponse,
    InitProducerIdResponse, MetadataResponse, ProduceResponse, ProducerId,
    SaslAuthenticateResponse, SaslHandshakeResponse, TopicName, api_versions_response as versions,
    create_topics_response as topics, describe_configs_response as configs,
    metadata_response as metadata_of, produce_response as produced,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use proptest::prelude::*;

use super::*;

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

/// The body of an answer with what its header has after the correlation id.
fn encoded(answer: &impl Encodable, version: i16, header_has_tags: bool) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    if header_has_tags {
        bytes.extend_from_slice(&[0]);
    }
    answer.encode(&mut bytes, version).unwrap();
    bytes.to_vec()
}

/// Reads `bytes` and every beginning of them, of which none may be taken for the whole.
fn read<T: std::fmt::Debug + PartialEq>(bytes: &[u8], read: impl Fn(&[u8]) -> Read<T>) -> T {
    let whole = read(bytes).unwrap();
    for end in 0..bytes.len() {
        let _ = read(&bytes[..end]);
    }
    whole
}

#[test]
fn the_versions_of_a_broker_are_read_in_both_forms() {
    for version in [0, 3] {
        let api = versions::ApiVersion::default()
            .with_api_key(3)
            .with_min_version(0)
            .with_max_version(12);
        let answer = ApiVersionsResponse::default().with_api_keys(vec![api.clone(), api]);
        let bytes = encoded(&answer, version, false);
        let (code, found) = read(&bytes, |bytes| api_versions(bytes, version));
        let expected = ApiVersion {
            key: 3,
            min: 0,
            max: 12,
        };
        assert_eq!((code, found), (0, vec![expected; 2]));
    }
    let refused = ApiVersionsResponse::default().with_error_code(35);
    let bytes = encoded(&refused, 0, false);
    assert_eq!(api_versions(&bytes, 3).unwrap(), (35, vec![]));
}

#[test]
fn metadata_is_read_at_every_version() {
    for version in 1..=12 {
        let broker = metadata_of::MetadataResponseBroker::default()
            .with_node_id(BrokerId(7))
            .with_host(StrBytes::from_static_str("kafka-7"))
            .with_port(9_092);
        let partition = |number| {
            let partition = metadata_of::MetadataResponsePartition::default()
                .with_partition_index(number)
                .with_leader_id(BrokerId(7))
                .with_replica_nodes(vec![BrokerId(7), BrokerId(8)])
                .with_isr_nodes(vec![BrokerId(7)]);
            if version >= 7 {
                partition.with_leader_epoch(5)
            } else {
                partition
            }
        };
        let mut topic = metadata_of::MetadataResponseTopic::default()
            .with_name(Some(name("pcap")))
            .with_partitions(vec![partition(1), partition(0)]);
        if version >= 10 {
            topic = topic.with_topic_id(Uuid::from_u128(9));
        }
        let answer = MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_topics(vec![topic]);
        let bytes = encoded(&answer, version, version >= 9);
        let found = read(&bytes, |bytes| metadata(bytes, version));
        let node = Node {
            id: 7,
            host: "kafka-7".to_owned(),
            port: 9_092,
        };
        assert_eq!(found.brokers, [node]);
        assert_eq!(found.code, 0);
        assert_eq!(found.id.is_nil(), version < 10);
        let leader = |partition| Leader {
            partition,
            code: 0,
            node: 7,
            epoch: if version >= 7 { 5 } else { -1 },
        };
        assert_eq!(found.partitions, [leader(0), leader(1)]);
    }
}

#[test]
fn a_producer_id_is_read_at_every_version() {
    for version in 0..=5 {
        let answer = InitProducerIdResponse::default()
            .with_producer_id(ProducerId(4_711))
            .with_producer_epoch(3);
        let bytes = encoded(&answer, version, version >= 2);
        let found = read(&bytes, |bytes| producer_id(bytes, version));
        assert_eq!(found, (0, 4_711, 3));
    }
}

#[test]
fn an_answer_to_produce_is_read_at_every_version() {
    for version in 3..=13 {
        let mut partition = produced::PartitionProduceResponse::default()
            .with_index(2)
            .with_error_code(10)
            .with_base_offset(99);
        if version >= 8 {
            let record = produced::BatchIndexAndErrorMessage::default()
                .with_batch_index(1)
                .with_batch_index_error_message(Some(StrBytes::from_static_str("no")));
            partition = partition
                .with_record_errors(vec![record])
                .with_error_message(Some(StrBytes::from_static_str("too large")));
        }
        if version >= 10 {
            let leader = produced::LeaderIdAndEpoch::default().with_leader_id(BrokerId(3));
            partition = partition.with_current_leader(leader);
        }
        let mut topic =
            produced::TopicProduceResponse::default().with_partition_responses(vec![partition]);
        if version < 13 {
            topic = topic.with_name(name("pcap"));
        }
        let answer = ProduceResponse::default()
            .with_responses(vec![topic])
            .with_throttle_time_ms(250);
        let bytes = encoded(&answer, version, version >= 9);
        let found = read(&bytes, |bytes| produce(bytes, version));
        let expected = Produced {
            partition: 2,
            code: 10,
            throttle_ms: 250,
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn what_a_broker_says_of_a_password_is_read_at_every_version() {
    let offer = vec![StrBytes::from_static_str("PLAIN")];
    let answer = SaslHandshakeResponse::default()
        .with_error_code(33)
        .with_mechanisms(offer);
    let bytes = encoded(&answer, 1, false);
    assert_eq!(read(&bytes, sasl_handshake), (33, vec!["PLAIN".to_owned()]));
    for version in 0..=2 {
        let mut answer = SaslAuthenticateResponse::default()
            .with_error_code(58)
            .with_error_message(Some(StrBytes::from_static_str("no")))
            .with_auth_bytes(Bytes::from_static(b"r=1"));
        if version >= 1 {
            answer = answer.with_session_lifetime_ms(60_000);
        }
        let bytes = encoded(&answer, version, version >= 2);
        let found = sasl_authenticate(&bytes, version).unwrap();
        assert_eq!(
            (found.code, found.said, found.challenge),
            (58, "no", &b"r=1"[..])
        );
        assert_eq!(found.lifetime_ms, if version >= 1 { 60_000 } else { 0 });
    }
}

#[test]
fn a_topics_setting_is_read_at_every_version() {
    for version in 1..=4 {
        let synonym = configs::DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str("message.max.bytes"));
        let setting = configs::DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_static_str("max.message.bytes"))
            .with_value(Some(StrBytes::from_static_str("1048588")))
            .with_synonyms(vec![synonym]);
        let result = configs::DescribeConfigsResult::default()
            .with_resource_name(StrBytes::from_static_str("pcap"))
            .with_configs(vec![setting]);
        let answer = DescribeConfigsResponse::default().with_results(vec![result]);
        let bytes = encoded(&answer, version, version >= 4);
        let found = read(&bytes, |bytes| config(bytes, version, "max.message.bytes"));
        assert_eq!(found.as_deref(), Some("1048588"));
        let other = config(&bytes, version, "retention.ms").unwrap();
        assert_eq!(other, None);
    }
}

#[test]
fn the_fate_of_a_new_topic_is_read_at_every_version() {
    for version in 2..=7 {
        let topic = topics::CreatableTopicResult::default()
            .with_name(name("pcap"))
            .with_error_code(38)
            .with_error_message(Some(StrBytes::from_static_str("too few brokers")));
        let answer = CreateTopicsResponse::default().with_topics(vec![topic]);
        let bytes = encoded(&answer, version, version >= 5);
        let found = read(&bytes, |bytes| create_topic(bytes, version));
        assert_eq!(found, (38, "too few brokers".to_owned()));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic_or_reserve_more_than_there_is(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in 0_i16..14,
    ) {
        let _ = api_versions(&bytes, version);
        let _ = metadata(&bytes, version);
        let _ = producer_id(&bytes, version);
        let _ = produce(&bytes, version);
        let _ = sasl_handshake(&bytes);
        let _ = sasl_authenticate(&bytes, version);
        let _ = config(&bytes, version, "max.message.bytes");
        let _ = create_topic(&bytes, version);
    }
}
