//! What librdkafka's mock cluster can do to a producer: errors in a row for each kind of request, brokers that go.
//!
//! It keeps no sequence numbers: what is sent again after a lost answer is there twice, and what follows a refused
//! batch before it, by no fault of a producer.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};

use crate::load::{EACH, Load, PACE, Writer};
use crate::support::producer::Producer;
use crate::support::records::{BURSTS, Total, check_unsequenced, read_back};
use crate::{SHORT, lasting};

type Mock = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "pcap";
const BROKERS: i32 = 3;
const SOME: u64 = 20;

fn mock() -> Mock {
    let mock = MockCluster::new(BROKERS).unwrap();
    mock.create_topic(TOPIC, 3, BROKERS).unwrap();
    mock
}

fn whole(mock: &Mock, total: &Total) {
    let outcome = total.outcome;
    assert_eq!(outcome.delivered, total.sent, "{outcome:?}");
    check_unsequenced(&read_back(&mock.bootstrap_servers(), TOPIC), total);
}

#[test]
fn errors_in_a_row_cost_nothing_whatever_was_asked() {
    let transport = Code::RD_KAFKA_RESP_ERR__TRANSPORT;
    let cases: [(Api, &[Code]); 4] = [
        (Api::ApiVersion, &[transport; 3]),
        (
            Api::Metadata,
            &[
                transport,
                Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                transport,
            ],
        ),
        (
            Api::InitProducerId,
            &[
                Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
                transport,
                Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
                Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS,
            ],
        ),
        (
            Api::Produce,
            &[
                Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                transport,
                Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
                Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            ],
        ),
    ];
    Producer::each(|producer| {
        for (api, errors) in cases {
            let mock = mock();
            // What is asked before the first record meets the errors as well.
            mock.request_errors(api, errors);
            let sink = producer.sink(&mock.bootstrap_servers(), TOPIC, &BURSTS, &SHORT);
            let mut writer = Writer::new(sink);
            writer.send(SOME);
            mock.request_errors(api, errors);
            writer.send(SOME);
            whole(&mock, &writer.total);
        }
    });
}

#[test]
fn a_cluster_that_is_away_for_long_costs_nothing() {
    Producer::each(|producer| {
        let mock = mock();
        let more = [&SHORT[..], &["delivery.timeout.ms=180000"]].concat();
        let sink = producer.sink(&mock.bootstrap_servers(), TOPIC, &BURSTS, &more);
        let load = Load::start(sink, PACE);
        load.wait_for(SOME * EACH);
        mock.broker_down(-1).unwrap();
        thread::sleep(lasting(15, 60));
        mock.broker_up(-1).unwrap();
        load.wait_for(SOME * EACH);
        whole(&mock, &load.stop());
    });
}

#[test]
fn brokers_that_go_in_turn_and_leaders_that_move_cost_nothing() {
    Producer::each(|producer| {
        let mock = mock();
        let sink = producer.sink(&mock.bootstrap_servers(), TOPIC, &BURSTS, &SHORT);
        let load = Load::start(sink, PACE);
        for broker in 1..=BROKERS {
            mock.partition_leader(TOPIC, 0, Some(broker)).unwrap();
            mock.partition_leader(TOPIC, 1, Some(broker % BROKERS + 1))
                .unwrap();
            load.wait_for(SOME * EACH);
            mock.broker_down(broker).unwrap();
            thread::sleep(Duration::from_millis(700));
            mock.broker_up(broker).unwrap();
            load.wait_for(SOME * EACH);
        }
        whole(&mock, &load.stop());
    });
}

#[test]
fn a_slow_cluster_costs_nothing() {
    Producer::each(|producer| {
        let mock = mock();
        let sink = producer.sink(&mock.bootstrap_servers(), TOPIC, &BURSTS, &SHORT);
        let mut writer = Writer::new(sink);
        let since = Instant::now();
        writer.send_while(3 * SOME, |_| {
            // Below the time-out of a request, and for a while beyond.
            let late = match since.elapsed().as_secs() {
                0..2 => 500,
                2..6 => 5_000,
                _ => 0,
            };
            mock.broker_round_trip_time(-1, Duration::from_millis(late))
                .unwrap();
        });
        whole(&mock, &writer.total);
    });
}
