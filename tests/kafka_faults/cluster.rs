//! What can happen to a cluster of three brokers while it is written to.
//!
//! A fault of a broker is met by everybody at once: a sink of each producer, and the program with each.

use std::thread;

use crate::admin::Admin;
use crate::load::Load;
use crate::nodes::{Nodes, whole};
use crate::support::broker::{Kafka, Topic, accounted, sent};
use crate::support::count;
use crate::support::producer::Producer;
use crate::support::records::{BURSTS, check};
use crate::support::sensor::{Running, Start};
use crate::{SHORT, lasting};

const ADMIN: Admin = Admin(Kafka::Cluster);

/// Records that are delivered before, between and after faults.
const SOME: u64 = 3_000;

/// Everybody who writes to the cluster while a fault lasts, each to a topic of its own.
struct Everybody {
    sinks: Vec<(Topic, Load)>,
    programs: Vec<(Topic, Running)>,
}

impl Everybody {
    fn start() -> Self {
        let sinks = Producer::ALL.map(|producer| {
            let topic = Kafka::Cluster.topic(2, &[]);
            let sink = topic.under(producer, &BURSTS, &SHORT);
            (topic, Load::start(sink))
        });
        let programs = Producer::ALL.map(|producer| {
            let topic = Kafka::Cluster.topic(2, &[]);
            let short: String = SHORT.map(|setting| format!(" -X {setting}")).concat();
            let words = format!(
                "--source synthetic,size=imix,flows=16,pps=5000 --drain 60 {} {}{short}",
                topic.sink(),
                producer.flag(),
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
    fn wait(&self) {
        for (_, load) in &self.sinks {
            load.wait_for(SOME);
        }
    }

    fn topics(&self) -> impl Iterator<Item = &Topic> {
        let sinks = self.sinks.iter().map(|(topic, _)| topic);
        sinks.chain(self.programs.iter().map(|(topic, _)| topic))
    }

    /// Has `node` lead a partition of each topic.
    fn led_by(&self, node: i32) {
        for topic in self.topics() {
            ADMIN.move_leader(topic.name(), 0, node);
        }
    }

    /// Waits until every copy of every partition is in sync.
    fn settled(&self) {
        for topic in self.topics() {
            ADMIN.settled(topic.name());
        }
    }

    /// Ends everybody, and holds each topic against what became of each record; none may be lost.
    fn end(self) {
        for (topic, load) in self.sinks {
            let total = load.stop();
            check(&topic.records(), &total);
            let outcome = total.outcome;
            assert_eq!(outcome.delivered, total.sent, "{outcome:?}");
        }
        for (topic, program) in self.programs {
            let ended = program.stop().with(0);
            let seen = count(&ended.ledger(), "/total/seen");
            let held = topic.read(&sent(seen));
            let ledger = accounted(&ended, &held);
            let received = count(&ledger, "/total/received");
            assert_eq!(count(&ledger, "/total/delivered"), received);
            for keys in held.keys.values() {
                assert!(keys.is_sorted(), "time steps back within a partition");
            }
        }
    }
}

#[test]
fn a_leader_that_is_killed_and_comes_back_costs_nothing() {
    let mut nodes = Nodes::alone();
    let everybody = Everybody::start();
    everybody.led_by(1);
    everybody.wait();
    nodes.kill(1);
    everybody.wait();
    nodes.restart(1);
    everybody.settled();
    everybody.led_by(1);
    everybody.wait();
    everybody.end();
}

#[test]
fn a_rolling_restart_costs_nothing() {
    let mut nodes = Nodes::alone();
    let everybody = Everybody::start();
    for node in 1..=3 {
        everybody.led_by(node);
        nodes.restart(node);
        everybody.settled();
        everybody.wait();
    }
    everybody.end();
}

#[test]
fn a_leader_that_stands_still_longer_than_the_request_timeout_costs_nothing() {
    let mut nodes = Nodes::alone();
    let everybody = Everybody::start();
    // The first is back before the cluster gives it up, the second after another one leads.
    for (node, pause) in [(2, lasting(3, 3)), (3, lasting(8, 40))] {
        everybody.led_by(node);
        nodes.pause(node);
        thread::sleep(pause);
        nodes.resume(node);
        everybody.settled();
        everybody.wait();
    }
    everybody.end();
}

#[test]
fn a_leader_that_is_moved_costs_nothing() {
    let _whole = whole();
    let everybody = Everybody::start();
    for node in [1, 2, 3, 1] {
        everybody.led_by(node);
        everybody.wait();
    }
    everybody.end();
}
