//! A batch lent to librdkafka, record by record, and what is known of each.
//!
//! The rule: from the first record that is handed over to the last that is answered, the batch neither
//! changes nor leaves its slot.

#![allow(unsafe_code)] // Whoever keeps the batch in place is the one who may lend it.

use std::time::{Duration, Instant};

use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::batch::{Batch, Record};
use crate::kafka::settings::Acks;
use crate::sink::{Finished, Outcome};

use super::client::{BURST, Client, Report, may_wait};
use super::outcome;

/// A batch lent to librdkafka, and what is known of it.
#[derive(Debug)]
pub(super) struct Slot {
    batch: Batch,
    partition: i32,
    /// When it came.
    since: Instant,
    /// The records that are to go, by number, where not all of them are.
    chosen: Option<Box<[u32]>>,
    /// Records that are librdkafka's or were refused, counted from the first that is to go.
    handed: u32,
    /// Of them, those that are answered.
    answered: u32,
    /// Of them, those given up unsent by a client that has ended, by number.
    unsent: Vec<u32>,
    /// How often it went to another client after a fatal error.
    fatal: u32,
    outcome: Outcome,
}

/// Why a client was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By a fatal error, which the batch may have caused.
    Fatal,
    /// It stood still.
    Stalled,
}

impl Slot {
    /// Takes a batch of which nothing is handed over yet.
    pub(super) fn new(batch: Batch, partition: i32) -> Self {
        Self {
            batch,
            partition,
            since: Instant::now(),
            chosen: None,
            handed: 0,
            answered: 0,
            unsent: Vec::new(),
            fatal: 0,
            outcome: Outcome::default(),
        }
    }

    /// How many records are to go.
    fn count(&self) -> u32 {
        let chosen = self.chosen.as_ref().map(|chosen| chosen.len());
        chosen.map_or(self.batch.count(), |count| {
            u32::try_from(count).expect("a batch has fewer than 2^32 records")
        })
    }

    /// Lends the rest of the batch, many records at a call.
    ///
    /// `at` comes back with every report; `client` must be dropped before this slot.
    pub(super) fn lend_in_bursts(&mut self, client: &mut Client, at: usize) -> Option<Code> {
        let count = self.count();
        let mut records = rest(&self.batch, self.chosen.as_deref(), self.handed);
        while self.handed < count {
            let (outcome, answered) = (&mut self.outcome, &mut self.answered);
            let burst = records.by_ref().take(BURST);
            // SAFETY: the batch stays in this slot, unchanged, until every record handed over is answered, and the
            // client is dropped before the slot.
            let handed = unsafe {
                client.produce_burst(self.partition, at, burst, |code| {
                    outcome::fail(outcome, code);
                    *answered += 1;
                })
            };
            self.handed += handed.records;
            if handed.stopped.is_some() {
                return handed.stopped;
            }
        }
        None
    }

    /// Lends the rest of the batch, one record at a call: each with its time and header.
    pub(super) fn lend_singly(&mut self, client: &mut Client, at: usize) -> Option<Code> {
        for (number, record) in rest(&self.batch, self.chosen.as_deref(), self.handed) {
            // SAFETY: the batch stays in this slot, unchanged, until this record is answered, and the client is
            // dropped before the slot.
            let handed = unsafe { client.produce_one(self.partition, at, (number, &record)) };
            if let Err(code) = handed {
                if may_wait(code) {
                    return Some(code);
                }
                outcome::fail(&mut self.outcome, code);
                self.answered += 1;
            }
            self.handed += 1;
        }
        None
    }

    #[inline]
    pub(super) fn answer(&mut self, report: Report, acks: Acks, has_ended: bool) {
        self.answered += 1;
        if has_ended && outcome::is_unsent(report) {
            self.unsent.push(report.record);
            return;
        }
        outcome::book(&mut self.outcome, report, acks);
    }

    pub(super) fn is_done(&self) -> bool {
        self.unsent.is_empty() && self.answered == self.count()
    }

    /// Prepares for the next client: what was given up unsent goes again with what was never handed over,
    /// unless the batch is older than `limit` or has met a second fatal error.
    pub(super) fn renew(&mut self, ended: Ended, limit: Duration) {
        let mut unsent = std::mem::take(&mut self.unsent);
        self.fatal += u32::from(ended == Ended::Fatal && self.handed > 0);
        let lost_by = match self.fatal {
            0 | 1 if self.since.elapsed() < limit => None,
            0 | 1 => Some(Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT),
            _ => Some(Code::RD_KAFKA_RESP_ERR__FATAL),
        };
        if let Some(code) = lost_by {
            for _ in unsent.drain(..) {
                outcome::fail(&mut self.outcome, code);
            }
        }
        let rest = rest(&self.batch, self.chosen.as_deref(), self.handed);
        unsent.extend(rest.map(|(number, _)| number));
        unsent.sort_unstable();
        self.chosen = Some(unsent.into_boxed_slice());
        self.handed = 0;
        self.answered = 0;
    }

    /// Counts what was never handed over, and what was given up unsent, as given up.
    pub(super) fn give_up_rest(&mut self) {
        let unsent =
            u32::try_from(self.unsent.drain(..).count()).expect("of fewer than 2^32 records");
        let rest = self.count() - self.handed;
        for _ in 0..rest + unsent {
            outcome::fail(&mut self.outcome, Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE);
        }
        self.answered += rest;
        self.handed += rest;
    }

    /// Whether a record is with librdkafka and not answered.
    pub(super) fn is_waiting(&self) -> bool {
        self.answered < self.handed
    }

    /// Counts what librdkafka never answered, once its client is gone: nobody knows what became of it.
    pub(super) fn abandon(&mut self) {
        self.outcome.possibly_persisted += u64::from(self.handed - self.answered);
        self.answered = self.handed;
    }

    /// Gives the batch back, once [`is_done`](Self::is_done).
    pub(super) fn finish(self) -> Finished {
        assert!(self.is_done(), "a batch is given back when it is done");
        Finished {
            batch: self.batch,
            outcome: self.outcome,
        }
    }
}

/// The records that are to go, with their numbers, after the first `handed` of them.
fn rest<'a>(
    batch: &'a Batch,
    chosen: Option<&'a [u32]>,
    handed: u32,
) -> impl Iterator<Item = (u32, Record<'a>)> {
    let is_chosen =
        move |number: &u32| chosen.is_none_or(|chosen| chosen.binary_search(number).is_ok());
    let records = (0..).zip(batch.records());
    records
        .filter(move |(number, _)| is_chosen(number))
        .skip(usize::try_from(handed).expect("32 bits fit"))
}
