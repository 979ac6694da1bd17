//! Everybody who writes to the cluster while a fault lasts: a sink of each producer, and the program with each.

use std::time::Duration;

use crate::SHORT;
use crate::admin::Admin;
use crate::load::{EACH, Load};
use crate::support::broker::{Held, Kafka, Topic, sent};
use crate::support::producer::Producer;
use crate::support::records::{BURSTS, Total, check, not_persisted};
use crate::support::sensor::{Ended, Running, Start};
use crate::support::{balanced, count, sound, sum};

const ADMIN: Admin = Admin(Kafka::Cluster);

/// Batches that are delivered before, between and after faults.
const SOME: u64 = 30;

/// How many records a second each one writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(u64);

impl Rate {
    /// For a minute.
    pub(crate) const FULL: Self = Self(10_000);
    /// For as long as one likes: what is read back stays in memory.
    pub(crate) const LOW: Self = Self(1_000);

    fn pace(self) -> Duration {
        Duration::from_micros(EACH * 1_000_000 / self.0)
    }
}

/// Sinks and programs, each with a topic of its own.
pub(crate) struct Everybody {
    sinks: Vec<(Topic, Load)>,
    programs: Vec<(Topic, Running)>,
}

impl Everybody {
    /// Has them write to the cluster by way of `brokers`.
    pub(crate) fn start(brokers: &str, rate: Rate) -> Self {
        let sinks = Producer::ALL.map(|producer| {
            let topic = Kafka::Cluster.topic(2, &[]);
            let sink = producer.sink(brokers, topic.name(), &BURSTS, &SHORT);
            (topic, Load::start(sink, rate.pace()))
        });
        let programs = Producer::ALL.map(|producer| {
            let topic = Kafka::Cluster.topic(2, &[]);
            let short: String = SHORT.map(|setting| format!(" -X {setting}")).concat();
            let words = format!(
                "--source synthetic,size=imix,flows=16,pps={} --drain 60 -k {brokers} -t {} --producer {}{short}",
                rate.0,
                topic.name(),
                producer.name(),
            );
            (topic, Start::new(&words).ready())
        });
        let everybody = Self {
            sinks: sinks.into(),
            programs: programs.into(),
        };
        everybody.wait();
        everybody
    }

    /// Waits until some more records of each sink are delivered.
    pub(crate) fn wait(&self) {
        for (_, load) in &self.sinks {
            load.wait_for(SOME * EACH);
        }
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        let sinks = self.sinks.iter().map(|(topic, _)| topic);
        sinks.chain(self.programs.iter().map(|(topic, _)| topic))
    }

    /// Has `node` lead a partition of each topic.
    pub(crate) fn led_by(&self, node: i32) {
        for topic in self.topics() {
            ADMIN.move_leader(topic.name(), 0, node);
        }
    }

    /// Waits until every copy of every partition is in sync.
    pub(crate) fn settled(&self) {
        for topic in self.topics() {
            ADMIN.settled(topic.name());
        }
    }

    /// Ends everybody, and holds each topic against what became of each record.
    pub(crate) fn end(self) -> Vec<Sum> {
        let sinks = self.sinks.into_iter().map(|(topic, load)| {
            let total = load.stop();
            check(&topic.records(), &total);
            Sum::of_sink(&total)
        });
        let programs = self.programs.into_iter().map(|(topic, program)| {
            let ended = program.stop();
            let seen = count(&ended.ledger(), "/total/seen");
            Sum::of_program(&ended, &topic.read(&sent(seen)))
        });
        sinks.chain(programs).collect()
    }

    /// The same where no record may be lost or in doubt.
    pub(crate) fn end_without_loss(self) {
        for sum in self.end() {
            assert_eq!(
                (sum.not_persisted, sum.possibly_persisted),
                (0, 0),
                "{sum:?}"
            );
        }
    }
}

/// What became of the records of one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) not_persisted: u64,
    pub(crate) possibly_persisted: u64,
}

impl Sum {
    fn of_sink(total: &Total) -> Self {
        Self {
            sent: total.sent,
            delivered: total.outcome.delivered,
            not_persisted: not_persisted(&total.outcome),
            possibly_persisted: total.outcome.possibly_persisted,
        }
    }

    /// Panics unless the topic holds each delivered record once, what is in doubt at most once, and no other.
    fn of_program(ended: &Ended, held: &Held) -> Self {
        let ledger = ended.ledger();
        balanced(&ledger);
        let sum = Self {
            sent: count(&ledger, "/total/received") - sum(&ledger["dropped"]),
            delivered: count(&ledger, "/total/delivered"),
            not_persisted: count(&ledger, "/failed/not_persisted"),
            possibly_persisted: count(&ledger, "/failed/possibly_persisted"),
        };
        let seen = count(&ledger, "/total/seen");
        assert_eq!(held.records + sound(&held.report), seen, "{ledger:#}");
        let most = sum.delivered + sum.possibly_persisted;
        let stored = sum.delivered..=most;
        assert!(
            stored.contains(&held.records),
            "{} of {sum:?}",
            held.records
        );
        for keys in held.keys.values() {
            assert!(keys.is_sorted(), "time steps back within a partition");
        }
        sum
    }
}
