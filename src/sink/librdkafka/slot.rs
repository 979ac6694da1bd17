//! A batch lent to librdkafka, record by record, and what is known of each.
//!
//! The rule: from the first record that is handed over to the last that is answered, the batch neither
//! changes nor leaves its slot.

#![allow(unsafe_code)] // Whoever keeps the batch in place is the one who may lend it.

use rdkafka_sys::rd_kafka_resp_err_t as Code;

use crate::batch::Batch;
use crate::kafka::settings::Acks;
use crate::sink::{Finished, Outcome};

use super::client::{BURST, Client, Report, may_wait};
use super::outcome;

/// A batch lent to librdkafka, and what is known of it.
#[derive(Debug)]
pub(super) struct Slot {
    batch: Batch,
    partition: i32,
    /// Records that are librdkafka's or were refused, counted from the first.
    handed: u32,
    /// Of them, those that are answered.
    answered: u32,
    /// Of them, those given up unsent after a fatal error.
    unsent: u32,
    /// Whether it goes to librdkafka for the second time.
    is_second: bool,
    outcome: Outcome,
}

impl Slot {
    /// Takes a batch of which nothing is handed over yet.
    pub(super) fn new(batch: Batch, partition: i32) -> Self {
        Self {
            batch,
            partition,
            handed: 0,
            answered: 0,
            unsent: 0,
            is_second: false,
            outcome: Outcome::default(),
        }
    }

    /// Lends the rest of the batch, many records at a call.
    ///
    /// `at` comes back with every report; `client` must be dropped before this slot.
    pub(super) fn lend_in_bursts(&mut self, client: &mut Client, at: usize) -> Option<Code> {
        let skipped = usize::try_from(self.handed).expect("32 bits fit");
        let mut records = self.batch.records().skip(skipped);
        while self.handed < self.batch.count() {
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
        let skipped = usize::try_from(self.handed).expect("32 bits fit");
        for record in self.batch.records().skip(skipped) {
            // SAFETY: the batch stays in this slot, unchanged, until this record is answered, and the client is
            // dropped before the slot.
            let handed = unsafe { client.produce_one(self.partition, at, &record) };
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
    pub(super) fn answer(&mut self, report: Report, acks: Acks, is_fatal: bool) {
        self.answered += 1;
        if is_fatal && outcome::is_unsent(report) {
            self.unsent += 1;
            return;
        }
        outcome::book(&mut self.outcome, report, acks);
    }

    pub(super) fn is_done(&self) -> bool {
        self.unsent == 0 && self.answered == self.batch.count()
    }

    /// Prepares for the next client: a batch of which nothing was sent goes again, once; what else was
    /// given up unsent is counted.
    pub(super) fn renew(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        if unsent > 0 && unsent == self.answered && !self.is_second {
            self.is_second = true;
            self.handed = 0;
            self.answered = 0;
            return;
        }
        for _ in 0..unsent {
            outcome::fail(&mut self.outcome, Code::RD_KAFKA_RESP_ERR__FATAL);
        }
    }

    /// Counts what was never handed over, and what was given up unsent, as given up.
    pub(super) fn give_up_rest(&mut self) {
        let rest = self.batch.count() - self.handed + std::mem::take(&mut self.unsent);
        for _ in 0..rest {
            outcome::fail(&mut self.outcome, Code::RD_KAFKA_RESP_ERR__PURGE_QUEUE);
        }
        self.answered += self.batch.count() - self.handed;
        self.handed = self.batch.count();
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
