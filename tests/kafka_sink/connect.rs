//! What stands in the way of a first answer, and how librdkafka's producer names it.

use std::net::SocketAddr;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::RDKafkaRespErr as Code;
use socket2::{Domain, Socket, Type};

use ringtap::kafka::connect::ConnectError;
use ringtap::sink::librdkafka::Cluster;

use crate::support::producer::settings;
use crate::support::records::TIMED;
use crate::support::sensor::PATIENCE;

/// Ports that nobody listens on, and nobody else is given while they are held.
fn silent() -> (Vec<Socket>, String) {
    let held: Vec<_> = (0..2)
        .map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
        .collect();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ports = held.iter().map(|socket| {
        socket.bind(&any.into()).unwrap();
        let address = socket.local_addr().unwrap();
        address.as_socket().unwrap().to_string()
    });
    let brokers = ports.collect::<Vec<_>>().join(",");
    (held, brokers)
}

#[test]
fn a_cluster_that_answers_tells_its_partitions_and_they_are_shared_out_whole() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 5, 1).unwrap();
    let settings = settings(&mock.bootstrap_servers(), &[]);
    let cluster = Cluster::connect(&settings, "pcap", PATIENCE).unwrap();
    assert_eq!(cluster.partitions(), 5);
    assert_eq!(cluster.brokers().len(), 1);
    assert_eq!(cluster.share(0, 2), [0, 2, 4]);
    assert_eq!(cluster.share(1, 2), [1, 3]);
    let sink = cluster.sink(vec![4], &TIMED).unwrap();
    assert_eq!(sink.partitions(), [4]);
}

#[test]
fn brokers_that_do_not_answer_are_named_one_by_one() {
    let (_held, brokers) = silent();
    let limit = Duration::from_secs(2);
    let error = Cluster::connect(&settings(&brokers, &[]), "pcap", limit).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    let text = error.to_string();
    for broker in brokers.split(',') {
        assert!(text.contains(broker), "{text}");
    }
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn a_missing_topic_is_named_with_the_command_that_makes_it() {
    let mock = MockCluster::new(1).unwrap();
    let brokers = mock.bootstrap_servers();
    let error = Cluster::connect(&settings(&brokers, &[]), "nowhere", PATIENCE).unwrap_err();
    assert!(
        matches!(error, ConnectError::TopicMissing { .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("\"nowhere\"") && text.contains("--create"),
        "{text}"
    );
}

#[test]
fn a_missing_topic_is_made_where_the_settings_say_so() {
    let mock = MockCluster::new(1).unwrap();
    let more = ["allow.auto.create.topics=true"];
    let settings = settings(&mock.bootstrap_servers(), &more);
    let cluster = Cluster::connect(&settings, "fresh", PATIENCE).unwrap();
    assert!(cluster.partitions() > 0);
}

#[test]
fn a_topic_that_is_not_ours_is_named() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 1, 1).unwrap();
    let denied = Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.topic_error("pcap", denied).unwrap();
    let settings = settings(&mock.bootstrap_servers(), &[]);
    let error = Cluster::connect(&settings, "pcap", PATIENCE).unwrap_err();
    assert!(
        matches!(error, ConnectError::TopicNotAuthorized { .. }),
        "{error}"
    );
}

#[test]
fn a_broker_without_tls_is_named_with_what_openssl_says() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("pcap", 1, 1).unwrap();
    let brokers = mock.bootstrap_servers();
    let settings = settings(&brokers, &["security.protocol=ssl"]);
    let error = Cluster::connect(&settings, "pcap", Duration::from_secs(3)).unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&brokers) && text.contains("SSL"), "{text}");
}

#[test]
fn settings_that_librdkafka_refuses_as_a_whole_are_refused_in_its_words() {
    let mock = MockCluster::new(1).unwrap();
    let more = ["reconnect.backoff.ms=500", "reconnect.backoff.max.ms=100"];
    let settings = settings(&mock.bootstrap_servers(), &more);
    let error = Cluster::connect(&settings, "pcap", PATIENCE).unwrap_err();
    assert!(
        error.to_string().contains("reconnect.backoff.max.ms"),
        "{error}"
    );
}
