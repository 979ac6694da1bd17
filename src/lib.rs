//! ringtap takes packets off a NIC and hands them to Kafka, one record each, and can say of every
//! frame where it went.

pub mod batch;
pub mod capture;
pub mod check;
pub mod cli;
pub mod config;
pub mod consume;
pub mod control;
pub mod counters;
pub mod doctor;
pub mod exit;
pub mod filler;
pub mod filter;
pub mod format;
pub mod frames;
pub mod generate;
mod hex;
pub mod histogram;
pub mod interfaces;
pub mod kafka;
pub mod ledger;
pub mod log;
pub mod metrics;
pub mod nic;
pub mod packet;
pub mod progress;
pub mod publisher;
pub mod pycapa;
pub mod record;
pub mod ring;
pub mod signals;
pub mod sink;
pub mod source;
pub mod worker;
pub mod xdp;
