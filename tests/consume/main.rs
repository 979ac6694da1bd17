//! `ringtap consume` and `ringtap pycapa` through the binary, with a real broker.
//!
//! `RINGTAP_TEST_BROKERS=HOST:PORT` names the broker, as scripts/test does; a test without one fails and
//! says so. Each test makes a topic of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod choice;
mod errors;
mod form;
mod group;
mod live;
mod pycapa;
mod support;
