//! ringtap takes packets off a NIC and hands them to Kafka, one record each, and can say of every
//! frame where it went.
//!
//! # The path of a packet
//!
//! ```text
//!           kernel                      worker, pinned to a core           publisher, off those cores
//! ┌─────────────────────────┐   ┌─────────────────────────────────┐   ┌─────────────────────────────┐
//! │ NIC queue               │   │ recv one burst:                 │   │ take a ready batch          │
//! │  ▶ XDP: count, stamp,   │   │   for each descriptor:          │   │ give it to the sink         │
//! │    redirect             │   │     batch.push(packet)   ◀ copy │   │ on the answer: count it     │
//! │  ▶ RX ring ─────────────┼──▶│   frames back to the fill ring  │   │                             │
//! │ fill ring ◀─────────────┼───┤ batch full or old:              │   │                             │
//! └─────────────────────────┘   │   ready ring ───────────────────┼──▶│                             │
//!                               │   spent ring ◀──────────────────┼───┤ give it back                │
//!                               └─────────────────────────────────┘   └─────────────────────────────┘
//! ```
//!
//! **A packet is copied once: out of the UMEM, into the Kafka record batch that goes on the wire.** A batch is
//! the unit of everything after the worker: filled by one worker, moved by one slot of a ring, answered
//! for as a whole. Nothing on the path is locked, allocated or reference-counted after the start, and
//! when no batch is left to fill, a worker leaves packets where they are: the kernel drops what does not fit,
//! and counts each one.
//!
//! # Where to read
//!
//! In the order of calls: [`capture`] opens everything and starts the threads → [`worker`] is the receive
//! loop → [`source`] is where packets come from ([`source::xsk`] is AF_XDP) → [`filler`] decides about one
//! packet → [`batch`] is the record batch in memory → [`ring`] → [`publisher`] is the publish loop → [`sink`]
//! is where batches go ([`sink::kafka`] is the native producer). [`counters`] are written on the way, [`ledger`] adds them up.
//!
//! - What a packet and a record are: [`packet`], [`record`], [`interfaces`]; which flow it is of: [`flow`].
//! - The command line: [`cli`] (what was written) → [`config`] (what holds) → [`exit`] (how it ended).
//! - Interfaces: [`nic`] (what one can do), [`xdp`] (the program on it), [`doctor`] (what to mend).
//! - Capture files: [`mod@format`]; Kafka's protocol and settings: [`kafka`]; filters: [`filter`].
//! - Watching: [`metrics`], [`progress`], [`histogram`], [`log`].
//! - Numbered frames for tests and measurements: [`frames`], [`generate`], [`check`].

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
pub mod flow;
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
mod priority;
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
