//! What an operator does to a cluster while it is written to.
//!
//! The rule: one request, one answer, no client in between; an error of the cluster is a panic. Kafka's own tools
//! take seconds each, and librdkafka's admin client does not know half of these.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterPartitionReassignmentsRequest, BrokerId, CreateAclsRequest,
    CreatePartitionsRequest, DeleteAclsRequest, ElectLeadersRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, MetadataResponse, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::proxy::read_frame;
use crate::support::broker::Kafka;
use crate::support::sensor::{PATIENCE, eventually};

const TIMEOUT_MS: i32 = 30_000;
const TOPIC: i8 = 2;
const LITERAL: i8 = 3;
const ALL: i8 = 2;
const WRITE: i8 = 4;
const DENY: i8 = 2;
const ALLOW: i8 = 3;
const ANY: i8 = 1;

/// The operator of one Kafka.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin(pub(crate) Kafka);

impl Admin {
    /// The broker that leads a partition; 0 where none does.
    pub(crate) fn leader(self, topic: &str, partition: i32) -> i32 {
        let partitions = self.partitions(topic);
        let found = partitions.iter().find(|(index, ..)| *index == partition);
        found.map_or(0, |(_, leader, _)| *leader)
    }

    /// Waits until every partition has a leader and all its copies are in sync.
    pub(crate) fn settled(self, topic: &str) {
        eventually("all copies are in sync", || {
            let partitions = self.partitions(topic);
            !partitions.is_empty()
                && partitions
                    .iter()
                    .all(|(_, leader, in_sync)| *leader > 0 && *in_sync == 3)
        });
    }

    /// Each partition with its leader and the number of its copies in sync.
    fn partitions(self, topic: &str) -> Vec<(i32, i32, usize)> {
        let named = MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default().with_topics(Some(vec![named]));
        let answer: MetadataResponse = self.ask(&request, 9);
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let found = partitions.map(|partition| {
            let leader = partition.leader_id.0.max(0);
            (partition.partition_index, leader, partition.isr_nodes.len())
        });
        found.collect()
    }

    /// Has `broker` lead a partition: first in its list of copies, then elected.
    pub(crate) fn move_leader(self, topic: &str, partition: i32, broker: i32) {
        let others = (1..=3).filter(|other| *other != broker);
        let copies = [broker].into_iter().chain(others).map(BrokerId).collect();
        let partitions = ReassignablePartition::default()
            .with_partition_index(partition)
            .with_replicas(Some(copies));
        let moved = ReassignableTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![partitions]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![moved]);
        let answer = self.ask(&request, 0);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        let chosen = TopicPartitions::default()
            .with_topic(name(topic))
            .with_partitions(vec![partition]);
        let request = ElectLeadersRequest::default()
            .with_topic_partitions(Some(vec![chosen]))
            .with_timeout_ms(TIMEOUT_MS);
        eventually("the leader moves", || {
            let answer = self.ask(&request, 2);
            assert_eq!(answer.error_code, 0, "{answer:?}");
            self.leader(topic, partition) == broker
        });
    }

    /// Raises the number of partitions.
    pub(crate) fn raise(self, topic: &str, partitions: i32) {
        let raised = CreatePartitionsTopic::default()
            .with_name(name(topic))
            .with_count(partitions)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![raised]);
        let answer = self.ask(&request, 2);
        assert_eq!(answer.results[0].error_code, 0, "{answer:?}");
    }

    /// Changes one setting of a topic.
    pub(crate) fn configure(self, topic: &str, key: &str, value: &str) {
        let change = AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text(topic))
            .with_configs(vec![change]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.ask(&request, 1);
        assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
    }

    /// Limits what one client may write to bytes a second; `None` lifts the limit.
    pub(crate) fn limit(self, client: &str, bytes: Option<f64>) {
        let entity = EntityData::default()
            .with_entity_type(text("client-id"))
            .with_entity_name(Some(text(client)));
        let change = OpData::default()
            .with_key(text("producer_byte_rate"))
            .with_value(bytes.unwrap_or_default())
            .with_remove(bytes.is_none());
        let entry = EntryData::default()
            .with_entity(vec![entity])
            .with_ops(vec![change]);
        let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
        let answer = self.ask(&request, 1);
        assert_eq!(answer.entries[0].error_code, 0, "{answer:?}");
    }

    /// Forbids writing to a topic, and nothing else of it.
    pub(crate) fn forbid(self, topic: &str) {
        let rules = [(ALL, ALLOW), (WRITE, DENY)].map(|(operation, permission)| {
            AclCreation::default()
                .with_resource_type(TOPIC)
                .with_resource_name(text(topic))
                .with_resource_pattern_type(LITERAL)
                .with_principal(text("User:ANONYMOUS"))
                .with_host(text("*"))
                .with_operation(operation)
                .with_permission_type(permission)
        });
        let request = CreateAclsRequest::default().with_creations(rules.to_vec());
        let answer = self.ask(&request, 2);
        assert!(
            answer.results.iter().all(|made| made.error_code == 0),
            "{answer:?}"
        );
    }

    /// Lifts every rule for a topic.
    pub(crate) fn permit(self, topic: &str) {
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(TOPIC)
            .with_resource_name_filter(Some(text(topic)))
            .with_pattern_type_filter(LITERAL)
            .with_principal_filter(None)
            .with_host_filter(None)
            .with_operation(ANY)
            .with_permission_type(ANY);
        let request = DeleteAclsRequest::default().with_filters(vec![filter]);
        let answer = self.ask(&request, 2);
        assert_eq!(answer.filter_results[0].error_code, 0, "{answer:?}");
        assert_eq!(answer.filter_results[0].matching_acls.len(), 2);
    }

    /// Asks the brokers in turn, until one answers.
    fn ask<R: Request>(self, request: &R, version: i16) -> R::Response {
        let end = Instant::now() + PATIENCE;
        let brokers = self.0.brokers();
        loop {
            for broker in brokers.split(',') {
                if let Ok(answer) = ask(broker, request, version) {
                    return answer;
                }
            }
            assert!(Instant::now() < end, "no broker answers");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn ask<R: Request>(broker: &str, request: &R, version: i16) -> std::io::Result<R::Response> {
    let mut stream = TcpStream::connect(broker)?;
    // A broker that stands still is passed over.
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let head = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(text("operator")));
    let mut body = BytesMut::new();
    head.encode(&mut body, R::header_version(version)).unwrap();
    request.encode(&mut body, version).unwrap();
    let length = i32::try_from(body.len()).unwrap();
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&body)?;
    let mut answer = Bytes::from(read_frame(&mut stream)?);
    ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
    Ok(R::Response::decode(&mut answer, version).unwrap())
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
