//! Faults, injected by librdkafka's mock cluster.

use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};

use ringtap::counters::Failed;

use crate::support::producer::{Producer, Tested};
use crate::support::records::{
    BURSTS, TIMED, Total, batch_of, batches, check, check_unsequenced, drive, drive_for, finish,
    give, read_back, run,
};

type Mock = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "pcap";

fn mock(partitions: i32) -> (Mock, String) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, partitions, 1).unwrap();
    let brokers = mock.bootstrap_servers();
    (mock, brokers)
}

#[test]
fn every_record_arrives_once_in_one_partition_with_its_batch() {
    Producer::each(|producer| {
        for encoding in [BURSTS, TIMED] {
            let (_mock, brokers) = mock(3);
            let total = run(
                producer.sink(&brokers, TOPIC, &encoding, &[]),
                batches(7, 1_000, &encoding),
            );
            assert_eq!(total.outcome.delivered, 7_000);
            let read = read_back(&brokers, TOPIC);
            check(&read, &total);
            for pair in read
                .windows(2)
                .filter(|pair| pair[0].number() / 1_000 == pair[1].number() / 1_000)
            {
                assert_eq!(pair[0].partition, pair[1].partition);
            }
        }
    });
}

#[test]
fn so_many_batches_are_taken_while_nobody_is_there_and_all_come_back() {
    Producer::each(|producer| {
        let (mock, brokers) = mock(8);
        let mut sink = producer.sink(&brokers, TOPIC, &BURSTS, &[]);
        mock.broker_down(-1).unwrap();
        let mut left = batches(20, 10, &BURSTS).into_iter();
        let mut total = Total::default();
        while sink.has_room() {
            give(&mut sink, left.next().unwrap(), &mut total);
        }
        assert_eq!(total.given, producer.takes_unsent());
        mock.broker_up(-1).unwrap();
        drive(&mut sink, left.collect(), &mut total, |_| {});
        finish(&mut sink, &mut total, Duration::from_secs(60));
        assert_eq!(total.outcome.delivered, 200);
        assert_eq!(total.batches, 20);
        check(&read_back(&brokers, TOPIC), &total);
    });
}

#[test]
fn a_broker_that_goes_and_comes_back_costs_nothing() {
    Producer::each(|producer| {
        for encoding in [BURSTS, TIMED] {
            let (mock, brokers) = mock(2);
            let mut sink = producer.sink(&brokers, TOPIC, &encoding, &[]);
            let mut total = Total::default();
            let mut down_since = None;
            let mut is_back = false;
            drive(
                &mut sink,
                batches(40, 500, &encoding),
                &mut total,
                |total| {
                    if total.batches >= 5 && down_since.is_none() {
                        mock.broker_down(-1).unwrap();
                        down_since = Some(Instant::now());
                    }
                    let away = down_since.map_or(Duration::ZERO, |since| since.elapsed());
                    if away > Duration::from_millis(800) && !is_back {
                        mock.broker_up(-1).unwrap();
                        is_back = true;
                    }
                },
            );
            mock.broker_up(-1).unwrap();
            finish(&mut sink, &mut total, Duration::from_secs(60));
            assert_eq!(total.outcome.delivered, 20_000, "{total:?}");
            check_unsequenced(&read_back(&brokers, TOPIC), &total);
        }
    });
}

#[test]
fn a_retriable_error_costs_nothing() {
    Producer::each(|producer| {
        let (mock, brokers) = mock(1);
        let errors = [
            Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Code::RD_KAFKA_RESP_ERR__TRANSPORT,
            Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        ];
        mock.request_errors(RDKafkaApiKey::Produce, &errors);
        let total = run(
            producer.sink(&brokers, TOPIC, &BURSTS, &["retry.backoff.ms=10"]),
            batches(10, 100, &BURSTS),
        );
        assert_eq!(total.outcome.delivered, 1_000, "{total:?}");
        check_unsequenced(&read_back(&brokers, TOPIC), &total);
    });
}

#[test]
fn a_record_larger_than_message_max_bytes_is_counted_and_the_capture_goes_on() {
    Producer::each(|producer| {
        for encoding in [BURSTS, TIMED] {
            let (_mock, brokers) = mock(1);
            let size = |number| if number % 100 == 50 { 9_000 } else { 60 };
            let batches = vec![
                batch_of(0..300, &encoding, size),
                batch_of(300..600, &encoding, size),
            ];
            let sink = producer.sink(&brokers, TOPIC, &encoding, &["message.max.bytes=5000"]);
            let total = run(sink, batches);
            assert_eq!(total.outcome.not_persisted[Failed::TooLarge as usize], 6);
            assert_eq!(total.outcome.delivered, 594, "{total:?}");
            check(&read_back(&brokers, TOPIC), &total);
        }
    });
}

#[test]
fn a_batch_that_a_broker_finds_too_large_is_offered_in_halves() {
    // The mock keeps no sequence numbers: a second batch would overtake the halves of the first.
    for more in [&["enable.idempotence=false"][..], &["max.in.flight=1"]] {
        let (mock, brokers) = mock(1);
        let refused = [Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 3];
        mock.request_errors(RDKafkaApiKey::Produce, &refused);
        let sink = Producer::Native.sink(&brokers, TOPIC, &BURSTS, more);
        let total = run(sink, batches(4, 100, &BURSTS));
        assert_eq!(total.outcome.delivered, 400);
        check(&read_back(&brokers, TOPIC), &total);
    }
}

#[test]
fn what_the_broker_refuses_for_good_is_counted_by_its_reason() {
    Producer::each(|producer| {
        let mut cases = vec![
            (
                Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                Failed::NotAuthorized,
            ),
            (Code::RD_KAFKA_RESP_ERR_INVALID_RECORD, Failed::Refused),
        ];
        if producer == Producer::Librdkafka {
            // The native producer offers the halves instead.
            cases.push((Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Failed::TooLarge));
        }
        for (code, reason) in cases {
            for more in [&["enable.idempotence=false"][..], &[]] {
                let (mock, brokers) = mock(1);
                mock.request_errors(RDKafkaApiKey::Produce, &[code]);
                let mut more = more.to_vec();
                more.push("topic.metadata.refresh.interval.ms=200");
                let mut sink = producer.sink(&brokers, TOPIC, &BURSTS, &more);
                let mut total = Total::default();
                drive(&mut sink, batches(1, 100, &BURSTS), &mut total, |_| {});
                let refused = total.outcome.not_persisted[reason as usize];
                assert!(refused > 0, "{code:?} {more:?} {total:?}");
                let mut next = 100;
                while total.outcome.delivered == 0 {
                    let again = batch_of(next..next + 100, &BURSTS, |_| 60);
                    drive(&mut sink, vec![again], &mut total, |_| {});
                    next += 100;
                    std::thread::sleep(Duration::from_millis(50));
                }
                finish(&mut sink, &mut total, Duration::from_secs(60));
                check(&read_back(&brokers, TOPIC), &total);
            }
        }
    });
}

#[test]
fn an_answer_that_never_comes_makes_a_record_possibly_persisted() {
    Producer::each(|producer| {
        for more in [&["enable.idempotence=false"][..], &[]] {
            let (mock, brokers) = mock(1);
            let mut more = more.to_vec();
            more.extend(["message.timeout.ms=6000", "socket.timeout.ms=1000"]);
            let mut sink = producer.sink(&brokers, TOPIC, &BURSTS, &more);
            let mut total = Total::default();
            drive(&mut sink, batches(1, 100, &BURSTS), &mut total, |_| {});
            assert_eq!(total.outcome.delivered, 100);
            mock.broker_round_trip_time(-1, Duration::from_secs(20))
                .unwrap();
            let silent = batch_of(100..200, &BURSTS, |_| 60);
            drive(&mut sink, vec![silent], &mut total, |_| {});
            finish(&mut sink, &mut total, Duration::from_secs(1));
            assert_eq!(total.outcome.possibly_persisted, 100, "{more:?} {total:?}");
        }
    });
}

#[test]
fn a_broker_that_stays_away_leaves_records_not_persisted_in_time() {
    Producer::each(|producer| {
        let (mock, brokers) = mock(1);
        let mut sink = producer.sink(&brokers, TOPIC, &BURSTS, &["delivery.timeout.ms=1200"]);
        mock.broker_down(-1).unwrap();
        let mut total = Total::default();
        give_two(&mut sink, &mut total);
        drive(&mut sink, vec![], &mut total, |_| {});
        finish(&mut sink, &mut total, Duration::from_secs(1));
        let timed_out = total.outcome.not_persisted[Failed::TimedOut as usize];
        assert_eq!(timed_out, 200, "{total:?}");
    });
}

#[test]
fn the_deadline_at_the_end_gives_every_batch_back_as_purged() {
    Producer::each(|producer| {
        let (mock, brokers) = mock(1);
        let mut sink = producer.sink(&brokers, TOPIC, &BURSTS, &[]);
        mock.broker_down(-1).unwrap();
        let mut total = Total::default();
        give_two(&mut sink, &mut total);
        finish(&mut sink, &mut total, Duration::from_millis(300));
        let purged = total.outcome.not_persisted[Failed::Purged as usize];
        assert_eq!(purged, 200, "{total:?}");
    });
}

/// Gives a sink its first two batches, which every producer takes with nobody to send them to.
fn give_two(sink: &mut Tested, total: &mut Total) {
    for batch in batches(2, 100, &BURSTS) {
        assert!(sink.has_room());
        give(sink, batch, total);
    }
}

#[test]
fn a_full_queue_inside_librdkafka_holds_the_batch_and_loses_nothing() {
    for encoding in [BURSTS, TIMED] {
        let (_mock, brokers) = mock(1);
        let more = ["queue.buffering.max.messages=70", "linger.ms=1"];
        let mut sink = Producer::Librdkafka.sink(&brokers, TOPIC, &encoding, &more);
        let first = batch_of(0..1_000, &encoding, |_| 60);
        let mut total = Total::default();
        give(&mut sink, first, &mut total);
        assert!(!sink.has_room(), "the rest of the batch waits");
        let more = vec![batch_of(1_000..2_000, &encoding, |_| 60)];
        drive(&mut sink, more, &mut total, |_| {});
        finish(&mut sink, &mut total, Duration::from_secs(60));
        assert_eq!(total.outcome.delivered, 2_000);
        check(&read_back(&brokers, TOPIC), &total);
    }
}

#[test]
fn without_acks_everything_is_unconfirmed() {
    Producer::each(|producer| {
        let (_mock, brokers) = mock(1);
        let total = run(
            producer.sink(&brokers, TOPIC, &BURSTS, &["acks=0"]),
            batches(3, 100, &BURSTS),
        );
        assert_eq!(total.outcome.unconfirmed, 300);
        assert_eq!(total.outcome.delivered, 0);
    });
}

#[test]
fn a_broker_that_gives_no_producer_id_is_written_to_without() {
    Producer::each(|producer| {
        let (mock, brokers) = mock(1);
        let refusals = [Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 4];
        mock.request_errors(RDKafkaApiKey::InitProducerId, &refusals);
        let total = run(
            producer.sink(&brokers, TOPIC, &BURSTS, &[]),
            batches(4, 100, &BURSTS),
        );
        assert_eq!(total.outcome.delivered, 400, "{total:?}");
        check(&read_back(&brokers, TOPIC), &total);
    });
}

#[test]
fn a_fatal_error_ends_a_client_and_not_the_sink() {
    Producer::each(|producer| {
        let (mock, brokers) = mock(1);
        let mut sink = producer.sink(&brokers, TOPIC, &BURSTS, &[]);
        let mut total = Total::default();
        drive(&mut sink, batches(1, 100, &BURSTS), &mut total, |_| {});
        let fatal = [Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER];
        mock.request_errors(RDKafkaApiKey::Produce, &fatal);
        let hit = batch_of(100..200, &BURSTS, |_| 60);
        drive(&mut sink, vec![hit], &mut total, |_| {});
        let after = batch_of(200..300, &BURSTS, |_| 60);
        drive(&mut sink, vec![after], &mut total, |_| {});
        finish(&mut sink, &mut total, Duration::from_secs(60));
        assert!(total.outcome.delivered >= 200, "{total:?}");
        check(&read_back(&brokers, TOPIC), &total);
    });
}

/// A client that is given up soon: after a second without a request, five of an answering cluster.
/// Each batch is a request of its own.
const IMPATIENT: [&str; 6] = [
    "batch.num.messages=100",
    "socket.timeout.ms=1000",
    "reconnect.backoff.max.ms=100",
    "statistics.interval.ms=200",
    "api.version.request.timeout.ms=1000",
    "max.in.flight=1",
];

#[test]
fn a_client_that_stands_still_is_replaced_and_only_what_was_never_sent_goes_again() {
    let mock = MockCluster::new(2).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    mock.partition_leader(TOPIC, 0, Some(1)).unwrap();
    let brokers = mock.bootstrap_servers();
    let mut sink = Producer::Librdkafka.sink(&brokers, TOPIC, &BURSTS, &IMPATIENT);
    let mut total = Total::default();
    drive(&mut sink, batches(1, 100, &BURSTS), &mut total, |_| {});
    mock.broker_round_trip_time(1, Duration::from_secs(60))
        .unwrap();
    for first in [100, 200] {
        let hit = batch_of(first..first + 100, &BURSTS, |_| 60);
        give(&mut sink, hit, &mut total);
    }
    while total.outcome.possibly_persisted == 0 {
        drive_for(&mut sink, Duration::from_millis(50), &mut total);
    }
    mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    let after = batch_of(300..400, &BURSTS, |_| 60);
    drive(&mut sink, vec![after], &mut total, |_| {});
    finish(&mut sink, &mut total, Duration::from_secs(60));
    assert_eq!(total.outcome.possibly_persisted, 100, "{total:?}");
    assert_eq!(total.outcome.delivered, 300, "{total:?}");
    check(&read_back(&brokers, TOPIC), &total);
}

#[test]
fn a_client_is_kept_while_the_cluster_answers_nobody() {
    let (mock, brokers) = mock(1);
    let mut sink = Producer::Librdkafka.sink(&brokers, TOPIC, &BURSTS, &IMPATIENT);
    let mut total = Total::default();
    drive(&mut sink, batches(1, 100, &BURSTS), &mut total, |_| {});
    mock.broker_down(-1).unwrap();
    give(&mut sink, batch_of(100..200, &BURSTS, |_| 60), &mut total);
    mock.broker_round_trip_time(-1, Duration::from_secs(60))
        .unwrap();
    mock.broker_up(-1).unwrap();
    drive_for(&mut sink, Duration::from_secs(12), &mut total);
    assert_eq!(total.batches, 1, "nothing is given up: {total:?}");
    mock.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    drive(&mut sink, Vec::new(), &mut total, |_| {});
    assert_eq!(total.outcome.delivered, 200, "{total:?}");
    finish(&mut sink, &mut total, Duration::from_secs(60));
    check(&read_back(&brokers, TOPIC), &total);
}
