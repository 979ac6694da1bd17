//! The sinks of both producers against Kafka: a mock cluster for faults, a real broker for the protocol.
//!
//! The property at every fault: delivered + unconfirmed + not persisted + possibly persisted = sent, and
//! what is called delivered is in the topic, once, byte for byte.

#![allow(clippy::unwrap_used)] // Clippy allows it in tests, and does not see that helpers are.

mod broker;
mod connect;
mod mock;
#[path = "../support/mod.rs"]
mod support;
