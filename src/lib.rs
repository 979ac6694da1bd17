//! ringtap takes packets off a NIC and hands them to Kafka, one record each, and can say of every
//! frame where it went.

pub mod batch;
pub mod cli;
pub mod counters;
pub mod doctor;
pub mod format;
pub mod interfaces;
pub mod nic;
pub mod packet;
pub mod record;
pub mod ring;
pub mod sink;
pub mod source;
