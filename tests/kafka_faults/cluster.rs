//! What can happen to a cluster of three brokers while it is written to.

use std::thread;

use crate::everybody::{Everybody, Rate};
use crate::lasting;
use crate::nodes::{Nodes, whole};
use crate::support::broker::Kafka;

fn everybody() -> Everybody {
    Everybody::start(&Kafka::Cluster.brokers(), Rate::FULL)
}

#[test]
fn a_leader_that_is_killed_and_comes_back_costs_nothing() {
    let mut nodes = Nodes::alone();
    let everybody = everybody();
    everybody.led_by(1);
    everybody.wait();
    nodes.kill(1);
    everybody.wait();
    nodes.restart(1);
    everybody.settled();
    everybody.led_by(1);
    everybody.wait();
    everybody.end_without_loss();
}

#[test]
fn a_rolling_restart_costs_nothing() {
    let mut nodes = Nodes::alone();
    let everybody = everybody();
    for node in 1..=3 {
        everybody.led_by(node);
        nodes.restart(node);
        everybody.settled();
        everybody.wait();
    }
    everybody.end_without_loss();
}

#[test]
fn a_leader_that_stands_still_longer_than_the_request_timeout_costs_nothing() {
    let mut nodes = Nodes::alone();
    let everybody = everybody();
    // The first is back before the cluster gives it up, the second after another one leads.
    for (node, pause) in [(2, lasting(3, 3)), (3, lasting(8, 40))] {
        everybody.led_by(node);
        nodes.pause(node);
        thread::sleep(pause);
        nodes.resume(node);
        everybody.settled();
        everybody.wait();
    }
    everybody.end_without_loss();
}

#[test]
fn a_leader_that_is_moved_costs_nothing() {
    let _whole = whole();
    let everybody = everybody();
    for node in [1, 2, 3, 1] {
        everybody.led_by(node);
        everybody.wait();
    }
    everybody.end_without_loss();
}
