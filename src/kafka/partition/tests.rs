//! The state machine against a model of a broker that loses requests and answers at random.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience {
    delivery: Duration::from_secs(300),
    retries: u32::MAX,
    backoff: Duration::from_millis(100),
    backoff_max: Duration::from_secs(1),
    in_flight: 5,
};

fn ready() -> (Partition, Instant) {
    let mut partition = Partition::new(0, true);
    let now = Instant::now();
    partition.lead(Some(1));
    assert!(partition.asks_for_id(now) && !partition.asks_for_id(now));
    partition.identify(Some((9, 0)), now, &PATIENCE);
    (partition, now)
}

fn push(partition: &mut Partition, slots: std::ops::Range<usize>, now: Instant) {
    for slot in slots {
        partition.push(slot, 10, now + PATIENCE.delivery);
    }
}

fn sent(partition: &mut Partition, now: Instant) -> Vec<(usize, i64, i32)> {
    std::iter::from_fn(|| partition.dispatch(now, &PATIENCE, true))
        .map(|sent| (sent.slot, sent.seal.producer_id, sent.seal.base_sequence))
        .collect()
}

#[test]
fn five_batches_are_out_at_once_and_their_numbers_follow_each_other() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..7, now);
    let first: Vec<_> = (0..5)
        .zip((0..).step_by(10))
        .map(|(slot, at)| (slot, 9, at))
        .collect();
    assert_eq!(sent(&mut partition, now), first);
    let ended = partition
        .answer(0, Verdict::Stored, now, &PATIENCE)
        .unwrap();
    assert_eq!(ended.outcome, Outcome::delivered(10));
    assert_eq!(sent(&mut partition, now), [(5, 9, 50)]);
}

#[test]
fn a_pause_that_is_over_is_not_due_any_more_though_nothing_can_be_sent() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..1, now);
    assert_eq!(sent(&mut partition, now).len(), 1);
    assert_eq!(partition.lose(0, true, now, &PATIENCE), None);
    assert!(partition.deadline().unwrap() < now + Duration::from_secs(1));
    let later = now + Duration::from_secs(2);
    partition.expire(later, &mut Vec::new());
    assert_eq!(partition.deadline(), Some(now + PATIENCE.delivery));
}

#[test]
fn after_an_error_the_oldest_goes_first_and_nothing_overtakes_it() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..4, now);
    assert_eq!(sent(&mut partition, now).len(), 4);
    assert_eq!(partition.answer(0, Verdict::Again, now, &PATIENCE), None);
    let later = now + Duration::from_secs(2);
    assert_eq!(sent(&mut partition, later), [], "three are unanswered");
    for slot in 1..4 {
        assert_eq!(
            partition.answer(slot, Verdict::OutOfOrder, now, &PATIENCE),
            None
        );
    }
    assert_eq!(sent(&mut partition, now), [], "a pause comes first");
    let again = [(0, 9, 0), (1, 9, 10), (2, 9, 20), (3, 9, 30)];
    assert_eq!(sent(&mut partition, later), again);
}

#[test]
fn what_was_lost_unanswered_is_asked_again_with_the_same_numbers() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..2, now);
    let before = sent(&mut partition, now);
    assert_eq!(partition.lose(0, true, now, &PATIENCE), None);
    assert_eq!(partition.lose(1, true, now, &PATIENCE), None);
    assert_eq!(sent(&mut partition, now + PATIENCE.backoff * 2), before);
}

#[test]
fn a_batch_of_unknown_fate_is_not_sent_again_under_another_id() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..2, now);
    sent(&mut partition, now);
    assert_eq!(partition.lose(0, true, now, &PATIENCE), None);
    assert_eq!(partition.lose(1, false, now, &PATIENCE), None);
    let later = now + Duration::from_secs(2);
    assert_eq!(sent(&mut partition, later), [(0, 9, 0), (1, 9, 10)]);
    assert_eq!(
        partition.answer(0, Verdict::OutOfOrder, later, &PATIENCE),
        None
    );
    assert_eq!(
        partition.answer(1, Verdict::OutOfOrder, later, &PATIENCE),
        None
    );
    let mut ended = Vec::new();
    partition.expire(later, &mut ended);
    assert_eq!(ended[0].outcome.possibly_persisted, 10);
    assert_eq!((ended.len(), ended[0].slot), (1, 0));
    assert!(partition.asks_for_id(later + Duration::from_secs(2)));
    partition.identify(Some((10, 0)), later, &PATIENCE);
    let again = sent(&mut partition, later + Duration::from_secs(2));
    assert_eq!(
        again,
        [(1, 10, 0)],
        "what certainly is not stored is sent under the new id"
    );
}

#[test]
fn a_batch_too_large_goes_in_pieces_and_only_the_record_that_is_too_large_is_lost() {
    let (mut partition, mut now) = ready();
    partition.push(0, 4, now + PATIENCE.delivery);
    partition.push(1, 4, now + PATIENCE.delivery);
    let mut id = 9;
    let mut outcomes = BTreeMap::new();
    let mut stored = Vec::new();
    for _ in 0..50 {
        now += Duration::from_secs(2);
        let mut ended = Vec::new();
        partition.expire(now, &mut ended);
        if partition.asks_for_id(now) {
            id += 1;
            partition.identify(Some((id, 0)), now, &PATIENCE);
        }
        while let Some(sent) = partition.dispatch(now, &PATIENCE, true) {
            let (first, count) = sent.piece.unwrap_or((0, 4));
            let records = (first..first + count).map(|at| (sent.slot, at));
            // Record 2 of batch 0 is larger than the topic takes; no more than two records go at once.
            let is_refused = count > 2 || records.clone().any(|record| record == (0, 2));
            let verdict = if is_refused {
                Verdict::TooLarge
            } else {
                Verdict::Stored
            };
            if !is_refused {
                stored.extend(
                    records.map(|record| (sent.seal.producer_id, sent.seal.base_sequence, record)),
                );
            }
            ended.extend(partition.answer(sent.slot, verdict, now, &PATIENCE));
        }
        outcomes.extend(ended.into_iter().map(|ended| (ended.slot, ended.outcome)));
    }
    assert_eq!(outcomes[&0].delivered, 3);
    assert_eq!(outcomes[&0].not_persisted[Failed::TooLarge as usize], 1);
    assert_eq!(outcomes[&1], Outcome::delivered(4));
    let order: Vec<_> = stored.iter().map(|(_, _, record)| *record).collect();
    let expected = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)];
    assert_eq!(order, expected);
    assert_eq!(stored[2].0, 10, "behind the hole there is a new id");
}

#[test]
fn what_was_never_stored_and_is_too_old_is_not_persisted() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..1, now);
    partition.lead(None);
    assert_eq!(sent(&mut partition, now), []);
    let mut ended = Vec::new();
    partition.expire(now + PATIENCE.delivery, &mut ended);
    assert_eq!(ended[0].outcome, Outcome::failed(10, Failed::TimedOut));
}

#[test]
fn nothing_is_due_in_the_past_while_the_leader_cannot_be_reached() {
    let (mut partition, now) = ready();
    push(&mut partition, 0..1, now);
    sent(&mut partition, now);
    assert_eq!(partition.lose(0, true, now, &PATIENCE), None);
    let later = now + Duration::from_secs(2);
    assert!(partition.deadline().unwrap() < later);
    partition.expire(later, &mut Vec::new());
    assert_eq!(partition.deadline(), Some(now + PATIENCE.delivery));
}

/// A broker of one partition, as far as sequence numbers go: the last five batches of a producer are known.
#[derive(Debug, Default)]
struct Broker {
    next: BTreeMap<i64, i32>,
    last: BTreeMap<i64, VecDeque<i32>>,
    log: Vec<(usize, u32)>,
}

impl Broker {
    fn append(&mut self, seal: Seal, slot: usize, first: u32, count: u32) -> Verdict {
        let known = self.last.entry(seal.producer_id).or_default();
        if known.contains(&seal.base_sequence) {
            return Verdict::Stored;
        }
        let next = self.next.entry(seal.producer_id).or_default();
        if *next != seal.base_sequence {
            return Verdict::OutOfOrder;
        }
        *next += i32::try_from(count).unwrap();
        known.push_back(seal.base_sequence);
        if known.len() > 5 {
            known.pop_front();
        }
        self.log.extend((first..first + count).map(|at| (slot, at)));
        Verdict::Stored
    }
}

proptest! {
    /// Whatever is lost on the way: each delivered record is stored once and in order, what is called not
    /// persisted is not stored, and what is called possibly persisted is stored at most once.
    #[test]
    fn nothing_is_stored_twice_or_out_of_order_whatever_is_lost(
        fates in proptest::collection::vec(0_u8..16, 0..400),
        batches in 1_usize..40,
    ) {
        const RECORDS: u32 = 6;
        let mut now = Instant::now();
        let mut partition = Partition::new(0, true);
        partition.lead(Some(1));
        let (mut broker, mut id) = (Broker::default(), 0);
        let mut fates = fates.into_iter();
        let mut pushed = 0;
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        // Requests on the wire, oldest first.
        let mut wire: VecDeque<Dispatch> = VecDeque::new();
        for _ in 0..4_000 {
            now += Duration::from_millis(300);
            let mut ended = Vec::new();
            partition.expire(now, &mut ended);
            if partition.asks_for_id(now) {
                id += 1;
                partition.identify(Some((id, 0)), now, &PATIENCE);
            }
            if pushed < batches && partition.is_open(&PATIENCE) {
                partition.push(pushed, RECORDS, now + PATIENCE.delivery);
                pushed += 1;
            }
            wire.extend(std::iter::from_fn(|| partition.dispatch(now, &PATIENCE, true)));
            match (wire.front().copied(), fates.next().unwrap_or(15)) {
                (None, _) => {}
                // The connection is lost: some requests had arrived, the answers are gone.
                (Some(_), fate @ 0..=2) => {
                    for (at, sent) in wire.drain(..).enumerate() {
                        let (first, count) = sent.piece.unwrap_or((0, RECORDS));
                        let arrived = at < usize::from(fate);
                        if arrived {
                            broker.append(sent.seal, sent.slot, first, count);
                        }
                        ended.extend(partition.lose(sent.slot, arrived || at % 2 == 0, now, &PATIENCE));
                    }
                }
                (Some(sent), fate) => {
                    wire.pop_front();
                    let (first, count) = sent.piece.unwrap_or((0, RECORDS));
                    let verdict = match fate {
                        3 => Verdict::Again,
                        4 => Verdict::Unsure,
                        5 => { broker.append(sent.seal, sent.slot, first, count); Verdict::Unsure }
                        6 => Verdict::Stranger,
                        7 => Verdict::Failed(Failed::Refused),
                        8 => Verdict::TooLarge,
                        9 => { broker.append(sent.seal, sent.slot, first, count); Verdict::Unknown }
                        _ => broker.append(sent.seal, sent.slot, first, count),
                    };
                    // A broker says these only of what it did not store, now or before.
                    let known = broker.log.contains(&(sent.slot, first));
                    let is_denial = matches!(verdict, Verdict::Failed(_) | Verdict::TooLarge | Verdict::Again);
                    let verdict = if known && is_denial { Verdict::Stored } else { verdict };
                    ended.extend(partition.answer(sent.slot, verdict, now, &PATIENCE));
                }
            }
            for Ended { slot, outcome } in ended {
                prop_assert!(outcomes.insert(slot, outcome).is_none());
            }
        }
        prop_assert_eq!(outcomes.len(), batches);
        let mut sorted = broker.log.clone();
        sorted.sort_unstable();
        sorted.dedup();
        prop_assert_eq!(sorted.len(), broker.log.len(), "a record is stored twice");
        prop_assert!(broker.log.is_sorted(), "a record is stored out of order");
        for (slot, outcome) in outcomes {
            let stored = broker.log.iter().filter(|(at, _)| *at == slot).count() as u64;
            let failed: u64 = outcome.not_persisted.iter().sum();
            prop_assert_eq!(outcome.delivered + outcome.possibly_persisted + failed, u64::from(RECORDS));
            prop_assert!(
                (outcome.delivered..=outcome.delivered + outcome.possibly_persisted).contains(&stored),
                "slot {}: {} stored, {:?}", slot, stored, outcome
            );
        }
    }
}
