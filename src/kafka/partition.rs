//! The batches of one partition on their way, in order.
//!
//! The rule: nothing overtakes the oldest batch, and a batch of unknown fate is never sent again under another
//! producer id. What a broker may have stored is either asked again with the same sequence numbers, which it
//! knows, or given up as possibly persisted.
//!
//! This is the part of the idempotent producer that has no socket: it says what to send next, hears what
//! became of it, and says of every batch how it ended. After any error it waits until nothing is unanswered
//! and begins again at the oldest batch; a new producer id is used only once nothing sent under the old
//! one is left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::batch::Seal;
use crate::counters::Failed;
use crate::sink::Outcome;

use super::verdict::Verdict;

/// The most unanswered batches that a broker tells duplicates among (Kafka protocol).
pub(crate) const MAX_IN_FLIGHT: usize = 5;

/// How often, and for how long, a batch is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// `delivery.timeout.ms`.
    pub(crate) delivery: Duration,
    /// `retries`.
    pub(crate) retries: u32,
    /// `retry.backoff.ms`, doubled with each failure in a row up to …
    pub(crate) backoff: Duration,
    /// `retry.backoff.max.ms`.
    pub(crate) backoff_max: Duration,
    /// The most unanswered batches of a partition.
    pub(crate) in_flight: usize,
}

/// A producer id of this partition, and the sequence number of the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    id: i64,
    epoch: i16,
    next: i32,
}

/// Whether a producer id is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not idempotent: batches carry no sequence numbers.
    Plain,
    /// An id is needed, and not asked for.
    Wanted,
    /// An id is asked for.
    Asked,
    /// It is there.
    Known(Identity),
}

/// A batch on its way.
#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: usize,
    records: u32,
    /// Records that have an outcome; the first ones.
    done: u32,
    /// The most records that go at once: fewer than `records` after a refusal as too large.
    piece: u32,
    /// The sequence number of the first record, once it was sent under the present id.
    sequence: Option<i32>,
    is_out: bool,
    /// Whether some attempt may have been stored.
    is_unsure: bool,
    attempts: u32,
    deadline: Instant,
    outcome: Outcome,
}

impl Entry {
    /// Whether the batch goes as it is, and not in pieces.
    fn is_whole(&self) -> bool {
        self.done == 0 && self.piece >= self.records
    }

    /// The number of records that go next.
    fn next(&self) -> u32 {
        self.piece.min(self.records - self.done)
    }

    fn stored(&mut self) {
        self.outcome.delivered += u64::from(self.next());
        self.done += self.next();
        self.is_unsure = false;
    }

    /// Gives up what has no outcome.
    fn give_up(&mut self, why: Failed) {
        let left = u64::from(self.records - self.done);
        self.done = self.records;
        if self.is_unsure {
            self.outcome.possibly_persisted += left;
        } else {
            self.outcome.not_persisted[why as usize] += left;
        }
    }
}

/// What to send next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch {
    /// The slot of the batch.
    pub(crate) slot: usize,
    /// The first record and the number of them, where the batch goes in pieces.
    pub(crate) piece: Option<(u32, u32)>,
    /// What to seal it with.
    pub(crate) seal: Seal,
    /// Whether it was sent before.
    pub(crate) is_retry: bool,
}

/// A batch that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) slot: usize,
    pub(crate) outcome: Outcome,
}

/// One partition of the topic, as its one writer sees it.
#[derive(Debug)]
pub(crate) struct Partition {
    number: i32,
    leader: Option<i32>,
    standing: Standing,
    entries: VecDeque<Entry>,
    out: usize,
    /// Nothing is sent until nothing is unanswered.
    is_gathering: bool,
    /// A new producer id is needed once nothing is unanswered.
    is_renewing: bool,
    failures: u32,
    not_before: Option<Instant>,
}

impl Partition {
    /// An empty partition; `is_idempotent` where its batches carry sequence numbers.
    pub(crate) fn new(number: i32, is_idempotent: bool) -> Self {
        Self {
            number,
            leader: None,
            standing: if is_idempotent {
                Standing::Wanted
            } else {
                Standing::Plain
            },
            entries: VecDeque::new(),
            out: 0,
            is_gathering: false,
            is_renewing: false,
            failures: 0,
            not_before: None,
        }
    }

    /// Its number.
    pub(crate) fn number(&self) -> i32 {
        self.number
    }

    /// The node that leads it, as far as known.
    pub(crate) fn leader(&self) -> Option<i32> {
        self.leader
    }

    /// Notes the leader; whether it is another one.
    pub(crate) fn lead(&mut self, leader: Option<i32>) -> bool {
        let before = std::mem::replace(&mut self.leader, leader);
        if before == leader {
            return false;
        }
        // Whoever leads now is asked at once.
        self.not_before = None;
        before.is_some() && leader.is_some()
    }

    /// How many batches it holds.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether another batch would be sent at once, as far as the partition knows.
    pub(crate) fn is_open(&self, patience: &Patience) -> bool {
        self.leader.is_some()
            && !self.is_gathering
            && !self.is_renewing
            && self.not_before.is_none()
            && matches!(self.standing, Standing::Plain | Standing::Known(_))
            && self.entries.len() < patience.in_flight
    }

    /// Takes a batch of `records` records that lies in `slot`.
    pub(crate) fn push(&mut self, slot: usize, records: u32, deadline: Instant) {
        self.entries.push_back(Entry {
            slot,
            records,
            done: 0,
            piece: records,
            sequence: None,
            is_out: false,
            is_unsure: false,
            attempts: 0,
            deadline,
            outcome: Outcome::default(),
        });
    }

    /// Whether a producer id is to be asked for now; the answer goes to [`identify`](Self::identify).
    pub(crate) fn asks_for_id(&mut self, now: Instant) -> bool {
        self.not_before.take_if(|until| now >= *until);
        let waits = self.out > 0 || self.leader.is_none() || self.not_before.is_some();
        let asks = self.standing == Standing::Wanted && !waits;
        if asks {
            self.standing = Standing::Asked;
        }
        asks
    }

    /// The producer id that was asked for, or `None` where the asking failed.
    pub(crate) fn identify(
        &mut self,
        known: Option<(i64, i16)>,
        now: Instant,
        patience: &Patience,
    ) {
        if self.standing != Standing::Asked {
            return;
        }
        let Some((id, epoch)) = known else {
            self.standing = Standing::Wanted;
            self.failures += 1;
            self.not_before = Some(now + self.backoff(patience));
            return;
        };
        self.failures = 0;
        self.standing = Standing::Known(Identity { id, epoch, next: 0 });
    }

    /// Goes on without sequence numbers. What may be stored may be stored twice from now on.
    pub(crate) fn do_without_id(&mut self) {
        self.standing = Standing::Plain;
        self.is_renewing = false;
        for entry in &mut self.entries {
            entry.sequence = None;
        }
    }

    /// The batch, or the piece of one, that is to be sent now; it is out from here on.
    ///
    /// `has_reserve`: whether the memory that pieces are written to is free.
    pub(crate) fn dispatch(
        &mut self,
        now: Instant,
        patience: &Patience,
        has_reserve: bool,
    ) -> Option<Dispatch> {
        self.not_before.take_if(|until| now >= *until);
        self.leader?;
        let waits = self.is_renewing || self.not_before.is_some();
        if waits || self.out >= patience.in_flight {
            return None;
        }
        if self.is_gathering && self.out > 0 {
            return None;
        }
        self.is_gathering = false;
        let at = self.out;
        let is_behind_pieces =
            at > 0 && self.entries.front().is_some_and(|first| !first.is_whole());
        let entry = self.entries.get_mut(at).filter(|_| !is_behind_pieces)?;
        if !entry.is_whole() && (at > 0 || !has_reserve) {
            return None;
        }
        let mut seal = Seal::default();
        match &mut self.standing {
            Standing::Plain => {}
            Standing::Wanted | Standing::Asked => return None,
            Standing::Known(identity) => {
                let first = *entry.sequence.get_or_insert_with(|| {
                    // Sequence numbers begin with the records that are left.
                    let first = add(identity.next, 0_u32.wrapping_sub(entry.done));
                    identity.next = add(identity.next, entry.records - entry.done);
                    first
                });
                seal = Seal {
                    producer_id: identity.id,
                    producer_epoch: identity.epoch,
                    base_sequence: add(first, entry.done),
                };
            }
        }
        entry.is_out = true;
        entry.attempts += 1;
        self.out += 1;
        Some(Dispatch {
            slot: entry.slot,
            piece: (!entry.is_whole()).then_some((entry.done, entry.next())),
            seal,
            is_retry: entry.attempts > 1,
        })
    }

    /// The batch in `slot` is answered.
    pub(crate) fn answer(
        &mut self,
        slot: usize,
        verdict: Verdict,
        now: Instant,
        patience: &Patience,
    ) -> Option<Ended> {
        let at = self.come_back(slot)?;
        let is_oldest = at == 0;
        let entry = &mut self.entries[at];
        match verdict {
            Verdict::Stored => {
                entry.stored();
                self.failures = 0;
            }
            Verdict::TooLarge if entry.next() > 1 => {
                entry.piece = entry.next() / 2;
                // That it is refused says nothing against trying at once.
                entry.attempts -= 1;
                self.is_gathering = true;
            }
            Verdict::TooLarge => {
                entry.outcome.not_persisted[Failed::TooLarge as usize] += 1;
                entry.done += 1;
                self.renew();
            }
            Verdict::Failed(why) => {
                entry.give_up(why);
                self.renew();
            }
            Verdict::Unknown => {
                entry.is_unsure = true;
                entry.give_up(Failed::Refused);
                self.renew();
            }
            Verdict::Stranger => self.renew(),
            Verdict::OutOfOrder if is_oldest => self.renew(),
            Verdict::Again | Verdict::OutOfOrder | Verdict::Forbidden => {
                self.retry(at, now, patience);
            }
            Verdict::Unsure => {
                entry.is_unsure = true;
                self.retry(at, now, patience);
            }
        }
        self.end(at)
    }

    /// The batch in `slot` went out, and no answer is asked for.
    pub(crate) fn written(&mut self, slot: usize) -> Option<Ended> {
        let at = self.come_back(slot)?;
        let entry = &mut self.entries[at];
        entry.outcome.unconfirmed += u64::from(entry.next());
        entry.done += entry.next();
        self.end(at)
    }

    /// The connection that the batch in `slot` was sent by is lost; `whole` where all of it went out.
    pub(crate) fn lose(
        &mut self,
        slot: usize,
        whole: bool,
        now: Instant,
        patience: &Patience,
    ) -> Option<Ended> {
        let at = self.come_back(slot)?;
        self.entries[at].is_unsure |= whole;
        self.retry(at, now, patience);
        self.end(at)
    }

    /// Does what is due: gives up what is too old, and ends a producer id that is of no use.
    pub(crate) fn expire(&mut self, now: Instant, ended: &mut Vec<Ended>) {
        // Also while no leader can be sent to: a time that has passed would have the sink never sleep.
        self.not_before.take_if(|until| now >= *until);
        let mut is_broken = false;
        for entry in self.entries.iter_mut().filter(|entry| !entry.is_out) {
            if now >= entry.deadline {
                is_broken |= entry.sequence.is_some();
                entry.give_up(Failed::TimedOut);
            }
        }
        if is_broken {
            self.renew();
        }
        if self.is_renewing && self.out == 0 {
            self.is_renewing = false;
            self.is_gathering = false;
            self.standing = Standing::Wanted;
            for entry in &mut self.entries {
                if entry.is_unsure {
                    entry.give_up(Failed::Refused);
                }
                entry.sequence = None;
            }
        }
        self.collect(ended);
    }

    /// Gives up everything: the end has come. What is out may be stored, unless `never_whole` says of its slot
    /// that it did not go out whole.
    pub(crate) fn give_up(&mut self, never_whole: &dyn Fn(usize) -> bool, ended: &mut Vec<Ended>) {
        for entry in &mut self.entries {
            entry.is_unsure |= entry.is_out && !never_whole(entry.slot);
            entry.is_out = false;
            entry.give_up(Failed::Purged);
        }
        self.out = 0;
        self.collect(ended);
    }

    /// When [`expire`](Self::expire) or [`dispatch`](Self::dispatch) have something to do although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let oldest = self.entries.iter().find(|entry| !entry.is_out);
        [oldest.map(|entry| entry.deadline), self.not_before]
            .into_iter()
            .flatten()
            .min()
    }

    /// The place of the batch in `slot`, which is not out any more.
    fn come_back(&mut self, slot: usize) -> Option<usize> {
        let at = self.entries.iter().position(|entry| entry.slot == slot)?;
        let entry = &mut self.entries[at];
        if !std::mem::replace(&mut entry.is_out, false) {
            return None;
        }
        self.out -= 1;
        Some(at)
    }

    /// Has the batch at `at` sent again, once all that is out is answered.
    fn retry(&mut self, at: usize, now: Instant, patience: &Patience) {
        self.is_gathering = true;
        let entry = &mut self.entries[at];
        if entry.attempts > patience.retries {
            entry.give_up(Failed::Refused);
            self.renew();
        }
        if self.not_before.is_none() {
            self.failures += 1;
            self.not_before = Some(now + self.backoff(patience));
        }
    }

    /// Doubles with each failure in a row, and is spread by a fifth so that partitions do not come in step.
    fn backoff(&self, patience: &Patience) -> Duration {
        let doubled = patience
            .backoff
            .saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let spread = u32::try_from(self.number.unsigned_abs().wrapping_mul(7) % 5).unwrap_or(0);
        doubled
            .min(patience.backoff_max)
            .saturating_mul(10 + spread)
            / 12
    }

    /// There is a hole in the sequence numbers, or the broker does not know them.
    fn renew(&mut self) {
        self.is_gathering = true;
        if self.standing != Standing::Plain {
            self.is_renewing = true;
        }
    }

    /// Takes the batch at `at` out if each of its records has an outcome.
    fn end(&mut self, at: usize) -> Option<Ended> {
        let entry = self.entries[at];
        if entry.done < entry.records {
            return None;
        }
        self.entries.remove(at);
        Some(Ended {
            slot: entry.slot,
            outcome: entry.outcome,
        })
    }

    fn collect(&mut self, ended: &mut Vec<Ended>) {
        self.entries.retain(|entry| {
            let is_done = entry.done == entry.records && !entry.is_out;
            if is_done {
                ended.push(Ended {
                    slot: entry.slot,
                    outcome: entry.outcome,
                });
            }
            !is_done
        });
    }
}

/// Sequence numbers count records and wrap at 2^31.
fn add(sequence: i32, records: u32) -> i32 {
    let sum = sequence.cast_unsigned().wrapping_add(records);
    (sum & i32::MAX.cast_unsigned()).cast_signed()
}

#[cfg(test)]
mod tests;
