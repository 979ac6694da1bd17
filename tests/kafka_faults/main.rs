//! Faults, one room each: on the wire, among three brokers, in librdkafka's mock cluster, and at random.
//!
//! Every case is written once and run over both producers. The property at its end: delivered + unconfirmed +
//! not persisted + possibly persisted = sent, and the topic, read back, holds each delivered record once, none
//! that was counted as not persisted, and each possibly persisted one at most once; in order within a partition,
//! byte for byte.
//!
//! `RINGTAP_TEST_LONG=1` has the timed faults last as long as they do in earnest.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod cluster;
mod everybody;
mod load;
mod mock;
mod nodes;
mod proxy;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod topic;
mod wire;

use std::time::Duration;

/// Time-outs so short that a case meets them; a record is still given a minute.
const SHORT: [&str; 8] = [
    "request.timeout.ms=1500",
    "socket.timeout.ms=2000",
    "delivery.timeout.ms=60000",
    "retry.backoff.ms=20",
    "retry.backoff.max.ms=200",
    "reconnect.backoff.ms=20",
    "reconnect.backoff.max.ms=300",
    "topic.metadata.refresh.interval.ms=1000",
];

/// `short` in the daily run, `long` in the full one.
fn lasting(short: u64, long: u64) -> Duration {
    let is_long = std::env::var_os("RINGTAP_TEST_LONG").is_some();
    Duration::from_secs(if is_long { long } else { short })
}
