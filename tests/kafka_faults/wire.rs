//! What can go wrong on the wire, between a producer and one broker.

use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

use ringtap::counters::Failed;

use crate::SHORT;
use crate::load::{EACH, Writer};
use crate::proxy::{ASKED, Act, Proxy, Rule, Side};
use crate::support::broker::{Kafka, Topic, accounted, sent};
use crate::support::count;
use crate::support::producer::Producer;
use crate::support::records::{BURSTS, Total, not_persisted};
use crate::support::sensor::Start;

/// Batches that go through before the first fault, and with it.
const BEFORE: u64 = 4;
const MEANWHILE: u64 = 36;

/// Long enough for what is answered, however busy the machine is.
const GIVEN_UP: &str = "delivery.timeout.ms=10000";

/// A producer that writes to a topic through a proxy.
struct Case {
    topic: Topic,
    proxy: Proxy,
    writer: Writer,
}

impl Case {
    /// A sink that has sent its first batches unharmed.
    fn new(producer: Producer, more: &[&str]) -> Self {
        Self::behind(proxy(), producer, more)
    }

    fn behind(proxy: Proxy, producer: Producer, more: &[&str]) -> Self {
        let topic = Kafka::Current.topic(2, &[]);
        let more = [&SHORT, more].concat();
        let sink = producer.sink(&proxy.brokers(), topic.name(), &BURSTS, &more);
        let mut writer = Writer::new(sink);
        writer.send(BEFORE);
        assert_eq!(writer.total.outcome.delivered, BEFORE * EACH);
        Self {
            topic,
            proxy,
            writer,
        }
    }

    /// Ends it without faults, and holds the topic against what became of each record.
    fn end(self) -> Total {
        self.proxy.heal();
        self.writer.end(&self.topic)
    }
}

fn proxy() -> Proxy {
    Proxy::before(&Kafka::Current.brokers())
}

/// Sends batches through faults that must not cost a record.
fn costs_nothing(rules: &[Rule]) {
    costs(rules, |_, total| {
        assert_eq!(total.outcome.delivered, total.sent)
    });
}

/// Sends batches through faults that cost the native producer nothing, and may leave those of librdkafka in doubt:
/// it gives up what it asked for on that connection, and cannot know whether it is stored.
fn costs_librdkafka_certainty(rules: &[Rule]) {
    costs(rules, |producer, total| {
        let outcome = total.outcome;
        match producer {
            Producer::Native => assert_eq!(outcome.delivered, total.sent),
            Producer::Librdkafka => {
                assert_eq!(outcome.delivered + outcome.possibly_persisted, total.sent);
            }
        }
    });
}

fn costs(rules: &[Rule], judge: impl Fn(Producer, &Total) + Sync) {
    Producer::each(|producer| {
        let mut case = Case::new(producer, &[]);
        for rule in rules {
            case.proxy.plan(*rule);
        }
        case.writer.send(MEANWHILE);
        assert!(case.proxy.hits() >= rules.len(), "no fault was met");
        let total = case.end();
        println!("{rules:?}: {:?}", total.outcome);
        judge(producer, &total);
    });
}

#[test]
fn answers_that_come_byte_by_byte_are_put_together() {
    Producer::each(|producer| {
        let proxy = proxy();
        for api in ASKED {
            proxy.plan(Rule {
                api,
                ..Rule::answers(0, usize::MAX, Act::Trickle)
            });
        }
        let mut case = Case::behind(proxy, producer, &[]);
        case.writer.send(MEANWHILE);
        let total = case.end();
        assert_eq!(total.outcome.delivered, total.sent);
    });
}

#[test]
fn a_broker_that_reads_in_sips_gets_every_byte() {
    Producer::each(|producer| {
        let proxy = proxy();
        proxy.sip(true);
        let mut case = Case::behind(proxy, producer, &[]);
        // A megabyte each: more than the kernel takes in one call.
        case.writer.send_sized(8, 700, 1_400);
        let total = case.end();
        assert_eq!(total.outcome.delivered, total.sent);
    });
}

#[test]
fn answers_half_a_second_late_are_waited_for() {
    costs_nothing(&[Rule::answers(1, 4, Act::Delay(Duration::from_millis(500)))]);
}

#[test]
fn answers_later_than_the_request_timeout_are_not_needed() {
    costs_nothing(&[Rule::answers(1, 2, Act::Delay(Duration::from_secs(5)))]);
}

#[test]
fn a_reset_in_the_middle_of_a_request_costs_nothing() {
    for at in [0, 3, 4, 20, 1_000] {
        costs_nothing(&[Rule::requests(1, 2, Act::Cut(at))]);
    }
}

#[test]
fn a_reset_in_the_middle_of_an_answer_stores_nothing_twice() {
    for at in [0, 3, 4, 20] {
        costs_nothing(&[Rule::answers(1, 2, Act::Cut(at))]);
    }
}

#[test]
fn a_lost_answer_stores_nothing_twice() {
    costs_nothing(&[Rule::answers(1, 1, Act::Lose)]);
}

#[test]
fn a_broker_that_falls_silent_stores_nothing_twice() {
    costs_nothing(&[Rule::answers(1, 2, Act::Mute)]);
}

#[test]
fn a_connection_that_is_half_open_is_given_up() {
    costs_nothing(&[Rule::requests(1, 1, Act::Hold)]);
    costs_nothing(&[Rule::answers(1, 1, Act::Hold)]);
}

#[test]
fn an_answer_of_two_gigabytes_is_not_waited_for() {
    for length in [i32::MAX, 0x7000_0000, -1, 0, 3] {
        costs_librdkafka_certainty(&[Rule::answers(1, 1, Act::Announce(length))]);
    }
}

#[test]
fn a_damaged_answer_stores_nothing_twice() {
    // The correlation id, the tags of the head, the number of topics, the name, and what follows.
    for at in [0, 3, 4, 5, 6, 12, 45] {
        costs_librdkafka_certainty(&[Rule::answers(1, 1, Act::Flip(at))]);
    }
}

#[test]
fn answers_out_of_order_store_nothing_twice() {
    costs_nothing(&[Rule::answers(1, 2, Act::Swap)]);
}

#[test]
fn a_listener_that_closes_at_once_is_tried_again() {
    Producer::each(|producer| {
        let mut case = Case::new(producer, &[]);
        case.proxy.slam(true);
        case.proxy.reset();
        let since = Instant::now();
        let proxy = &case.proxy;
        case.writer.send_while(MEANWHILE, |_| {
            proxy.slam(since.elapsed() < Duration::from_secs(3));
        });
        let total = case.end();
        assert_eq!(total.outcome.delivered, total.sent);
    });
}

#[test]
fn what_may_be_tried_again_is_and_is_stored_once() {
    let retriable = [
        ResponseError::UnknownTopicOrPartition,
        ResponseError::LeaderNotAvailable,
        ResponseError::NotLeaderOrFollower,
        ResponseError::RequestTimedOut,
        ResponseError::NotEnoughReplicas,
        ResponseError::NotEnoughReplicasAfterAppend,
        ResponseError::KafkaStorageError,
    ];
    for error in retriable {
        for act in [Act::Refuse(error), Act::Rewrite(error)] {
            let side = if matches!(act, Act::Refuse(_)) {
                Side::Request
            } else {
                Side::Answer
            };
            costs_nothing(&[Rule {
                side,
                ..Rule::answers(1, 1, act)
            }]);
        }
    }
}

#[test]
fn a_duplicate_is_a_delivery() {
    let error = ResponseError::DuplicateSequenceNumber;
    costs_nothing(&[Rule::answers(1, 1, Act::Rewrite(error))]);
}

#[test]
fn a_broker_that_is_not_ready_to_give_a_producer_id_is_asked_again() {
    Producer::each(|producer| {
        let proxy = proxy();
        let errors = [
            ResponseError::CoordinatorLoadInProgress,
            ResponseError::CoordinatorNotAvailable,
            ResponseError::NotController,
        ];
        for error in errors {
            proxy.plan(Rule {
                api: ApiKey::InitProducerId,
                ..Rule::requests(0, 1, Act::Refuse(error))
            });
        }
        let mut case = Case::behind(proxy, producer, &[]);
        assert!(case.proxy.hits() > 0);
        case.writer.send(MEANWHILE);
        let total = case.end();
        assert_eq!(total.outcome.delivered, total.sent);
    });
}

#[test]
fn a_producer_id_that_is_forbidden_is_done_without_and_that_is_said_once() {
    Producer::each(|producer| {
        let proxy = proxy();
        let forbidden = Act::Refuse(ResponseError::ClusterAuthorizationFailed);
        proxy.plan(Rule {
            api: ApiKey::InitProducerId,
            ..Rule::requests(0, usize::MAX, forbidden)
        });
        let topic = Kafka::Current.topic(2, &[]);
        let words = format!(
            "--source synthetic -c 2000 -k {} -t {} --producer {}",
            proxy.brokers(),
            topic.name(),
            producer.name()
        );
        let ended = Start::new(&words).run().with(0);
        let said = ended.log.matches("going on without idempotence");
        assert_eq!(said.count(), 1, "{}", ended.log);
        let held = topic.read(&sent(2_000));
        accounted(&ended, &held);
        assert_eq!(held.records, 2_000);

        let ended = Start::new(&format!("{words} -X enable.idempotence=true")).run();
        let texts = ["enable.idempotence=true", "producer id"];
        let ended = ended.saying(1, &texts);
        assert_eq!(count(&ended.ledger(), "/total/delivered"), 0);
        assert_eq!(topic.read(&sent(2_000)).records, 2_000);
    });
}

#[test]
fn a_producer_id_that_is_refused_is_replaced_and_nothing_is_stored_twice() {
    let errors = [
        ResponseError::OutOfOrderSequenceNumber,
        ResponseError::UnknownProducerId,
        ResponseError::InvalidProducerEpoch,
    ];
    for error in errors {
        Producer::each(|producer| {
            let mut case = Case::new(producer, &[]);
            case.proxy.plan(Rule::requests(1, 1, Act::Refuse(error)));
            case.writer.send(MEANWHILE);
            assert_eq!(case.proxy.hits(), 1);
            let before = case.writer.total.outcome.delivered;
            case.writer.send(BEFORE);
            assert_eq!(case.writer.total.outcome.delivered, before + BEFORE * EACH);
            case.end();
        });
    }
}

#[test]
fn what_is_refused_for_good_is_counted_by_its_reason_and_the_rest_goes_on() {
    let cases = [
        (ResponseError::InvalidRecord, Failed::Refused),
        (ResponseError::PolicyViolation, Failed::Refused),
        (
            ResponseError::TopicAuthorizationFailed,
            Failed::NotAuthorized,
        ),
    ];
    for (error, reason) in cases {
        Producer::each(|producer| {
            let mut case = Case::new(producer, &[]);
            case.proxy.plan(Rule::requests(1, 1, Act::Refuse(error)));
            case.writer.send(MEANWHILE);
            assert_eq!(case.proxy.hits(), 1);
            let outcome = case.writer.total.outcome;
            assert!(outcome.not_persisted[reason as usize] > 0, "{outcome:?}");
            case.writer.send_until_delivered();
            case.end();
        });
    }
}

#[test]
fn an_error_that_nobody_knows_leaves_records_possibly_persisted() {
    for code in [
        ResponseError::Unknown(999),
        ResponseError::UnknownServerError,
    ] {
        for rule in [
            Rule::requests(1, 1, Act::Refuse(code)),
            Rule::answers(1, 1, Act::Rewrite(code)),
        ] {
            costs(&[rule], |_, total| {
                let outcome = total.outcome;
                assert!(outcome.possibly_persisted > 0, "{outcome:?}");
                assert!(outcome.delivered > BEFORE * EACH, "{outcome:?}");
            });
        }
    }
}

#[test]
fn answers_that_never_come_leave_records_possibly_persisted() {
    Producer::each(|producer| {
        let mut case = Case::new(producer, &[GIVEN_UP]);
        case.proxy.plan(Rule::answers(0, usize::MAX, Act::Mute));
        case.writer.send(BEFORE);
        let outcome = case.writer.total.outcome;
        assert!(outcome.possibly_persisted > 0, "{outcome:?}");
        assert_eq!(outcome.delivered, BEFORE * EACH);
        case.proxy.heal();
        case.proxy.reset();
        case.writer.send(MEANWHILE);
        let total = case.end();
        let outcome = total.outcome;
        assert_eq!(
            outcome.delivered,
            (BEFORE + MEANWHILE) * EACH,
            "{outcome:?}"
        );
    });
}

#[test]
fn a_deadline_that_finds_records_in_flight_calls_them_possibly_persisted() {
    Producer::each(|producer| {
        let mut case = Case::new(producer, &["request.timeout.ms=60000"]);
        case.proxy.plan(Rule::answers(0, 1, Act::Lose));
        case.writer.send_unanswered(|| case.proxy.hits() > 0);
        let total = case.writer.cut_short(&case.topic);
        let outcome = total.outcome;
        assert_eq!(outcome.possibly_persisted, EACH, "{outcome:?}");
        assert_eq!(outcome.delivered, BEFORE * EACH, "{outcome:?}");
    });
}

#[test]
fn requests_that_never_arrive_are_not_in_the_topic() {
    Producer::each(|producer| {
        let mut case = Case::new(producer, &[GIVEN_UP]);
        case.proxy.plan(Rule::requests(0, usize::MAX, Act::Lose));
        case.writer.send(BEFORE);
        let outcome = case.writer.total.outcome;
        assert_eq!(outcome.delivered, BEFORE * EACH);
        assert_eq!(
            outcome.possibly_persisted + not_persisted(&outcome),
            BEFORE * EACH
        );
        case.proxy.heal();
        case.writer.send(MEANWHILE);
        case.end();
    });
}
