//! What an operator does to a topic while it is written to.

use std::collections::{BTreeMap, BTreeSet};

use ringtap::counters::Failed;

use crate::SHORT;
use crate::admin::Admin;
use crate::load::{EACH, Load, PACE, Writer};
use crate::nodes::whole;
use crate::proxy::Proxy;
use crate::support::broker::Kafka;
use crate::support::producer::Producer;
use crate::support::records::{BURSTS, check, not_persisted};

const CLUSTER: Admin = Admin(Kafka::Cluster);
const CURRENT: Admin = Admin(Kafka::Current);

/// Batches that are delivered before, between and after faults.
const SOME: u64 = 20;

#[test]
fn partitions_that_are_added_are_written_to_and_cost_nothing() {
    let _whole = whole();
    Producer::each(|producer| {
        let topic = Kafka::Cluster.topic(1, &[]);
        let load = Load::start(topic.under(producer, &BURSTS, &SHORT), PACE);
        load.wait_for(SOME * EACH);
        CLUSTER.raise(topic.name(), 4);
        CLUSTER.settled(topic.name());
        if producer.takes_new_partitions() {
            topic.fills(4);
        }
        load.wait_for(SOME * EACH);
        let total = load.stop();
        assert_eq!(total.outcome.delivered, total.sent);
        let read = topic.records();
        check(&read, &total);
        let mut partitions = BTreeMap::new();
        for record in &read {
            let batch = record.number() / EACH;
            let partition = partitions.entry(batch).or_insert(record.partition);
            assert_eq!(*partition, record.partition, "a batch is in one partition");
        }
        let used: BTreeSet<_> = partitions.into_values().collect();
        let expected = if producer.takes_new_partitions() {
            4
        } else {
            1
        };
        assert_eq!(used.len(), expected, "{used:?}");
    });
}

#[test]
fn a_topic_that_is_deleted_and_made_again_is_written_to_again() {
    let _whole = whole();
    Producer::each(|producer| {
        let topic = Kafka::Cluster.topic(2, &[]);
        let more = [&SHORT[..], &["delivery.timeout.ms=10000"]].concat();
        let mut writer = Writer::new(topic.under(producer, &BURSTS, &more));
        writer.send(SOME);
        assert_eq!(writer.total.outcome.delivered, SOME * EACH);
        check(&topic.records(), &writer.total);

        topic.delete();
        writer.total = Default::default();
        writer.send_until("records fail", EACH, 60, |total| {
            not_persisted(&total.outcome) > 0
        });
        topic.make(2, &[]);
        writer.send_until_delivered();
        writer.send(SOME);
        let total = writer.end(&topic);
        assert!(total.outcome.delivered > SOME * EACH, "{:?}", total.outcome);
    });
}

#[test]
fn a_quota_makes_it_slower_and_costs_nothing() {
    Producer::each(|producer| {
        let topic = Kafka::Current.topic(2, &[]);
        let proxy = Proxy::before(&Kafka::Current.brokers());
        let client = format!("client.id={}", topic.name());
        let more = [&SHORT[..], &[&client]].concat();
        let sink = producer.sink(&proxy.brokers(), topic.name(), &BURSTS, &more);
        let mut writer = Writer::new(sink);
        writer.send(SOME);
        CURRENT.limit(topic.name(), Some(20_000.0));
        writer.send_until("an answer is throttled", 100, 1_000, |_| {
            proxy.throttled() > 0
        });
        CURRENT.limit(topic.name(), None);
        writer.send(SOME);
        let total = writer.end(&topic);
        assert_eq!(total.outcome.delivered, total.sent);
    });
}

#[test]
fn a_limit_that_is_lowered_is_followed() {
    let _whole = whole();
    Producer::each(|producer| {
        let topic = Kafka::Cluster.topic(2, &[]);
        let mut writer = Writer::new(topic.under(producer, &BURSTS, &SHORT));
        writer.send_sized(8, 2_000, 60);
        CLUSTER.configure(topic.name(), "max.message.bytes", "20000");
        // Records that are too large by themselves, until one of them is refused.
        writer.send_until("the limit is in force", 1, 30_000, |total| {
            total.outcome.not_persisted[Failed::TooLarge as usize] > 0
        });
        writer.send_sized(16, 2_000, 60);
        CLUSTER.configure(topic.name(), "max.message.bytes", "1048588");
        writer.send_until_delivered();
        let total = writer.end(&topic);
        let too_large = total.outcome.not_persisted[Failed::TooLarge as usize];
        assert_eq!(total.outcome.delivered + too_large, total.sent);
        if producer.follows_a_lowered_limit() {
            assert_eq!(too_large, 1);
        } else {
            assert!(too_large > 0);
        }
    });
}

#[test]
fn a_topic_that_is_closed_to_us_for_a_while_is_written_to_again() {
    Producer::each(|producer| {
        let topic = Kafka::Current.topic(2, &[]);
        let mut writer = Writer::new(topic.under(producer, &BURSTS, &SHORT));
        writer.send(SOME);
        CURRENT.forbid(topic.name());
        writer.send_until("records are refused", EACH, 60, |total| {
            total.outcome.not_persisted[Failed::NotAuthorized as usize] > 0
        });
        CURRENT.permit(topic.name());
        writer.send_until_delivered();
        writer.send(SOME);
        let total = writer.end(&topic);
        assert!(total.outcome.delivered > SOME * EACH);
        let outcome = total.outcome;
        assert_eq!(outcome.delivered + not_persisted(&outcome), total.sent);
    });
}
