//! ringtap takes packets off a NIC and hands them to Kafka, one record each, and can say of every
//! frame where it went.

pub mod batch;
pub mod check;
pub mod cli;
pub mod counters;
pub mod filter;
pub mod format;
pub mod frames;
pub mod generate;
pub mod interfaces;
pub mod packet;
pub mod record;
pub mod ring;
pub mod sink;
pub mod source;
