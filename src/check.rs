//! The checker: which of the numbered frames arrived, how often, and whether each byte is right.
//!
//! The rule: a frame counts as received only when every byte of it is what its sender wrote. The
//! checker builds each frame again from what it says of itself, and compares.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Serialize;

use crate::frames::{Identity, is_ours, read_number, slot};

/// How many numbers one page of a bitmap covers.
const PAGE: usize = 65_536;

/// How many ranges of missing numbers a report names.
const NAMED: usize = 8;

/// What the checker found a frame to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Whole, and the first with its number.
    Received {
        /// Its stream.
        stream: u32,
        /// Its number.
        sequence: u64,
        /// When it was sent: nanoseconds of CLOCK_MONOTONIC, where the sender stamped it.
        sent_at: Option<u64>,
    },
    /// Whole, but its number was there before.
    Duplicated,
    /// One of ours, and not as it was sent.
    Altered,
    /// None of ours.
    Foreign,
}

/// Takes frames in any order and keeps account of them; about one bit of memory for each.
#[derive(Debug, Default)]
pub struct Checker {
    streams: BTreeMap<u32, Stream>,
    /// Frames that were seen whole, with number and time 0.
    known: HashMap<Identity, Box<[u8]>>,
    altered: u64,
    foreign: u64,
}

#[derive(Debug, Default)]
struct Stream {
    pages: BTreeMap<u64, Box<[u64; PAGE / 64]>>,
    received: u64,
    duplicated: u64,
    reordered: u64,
    highest: u64,
}

impl Checker {
    /// A checker that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one frame, whole, from the destination address on.
    pub fn check(&mut self, frame: &[u8]) -> Verdict {
        if !is_ours(frame) {
            self.foreign += 1;
            return Verdict::Foreign;
        }
        let Some((identity, sequence)) = self.whole(frame) else {
            self.altered += 1;
            return Verdict::Altered;
        };
        let stream = self.streams.entry(identity.stream).or_default();
        if !stream.insert(sequence) {
            return Verdict::Duplicated;
        }
        let sent_at = identity.time_at().and_then(|at| read_number(&frame[at..]));
        Verdict::Received {
            stream: identity.stream,
            sequence,
            sent_at: sent_at.filter(|time| *time > 0),
        }
    }

    /// What is there and what is not, given how many frames of each stream were sent: those with the
    /// numbers from 0 on.
    ///
    /// A stream without an entry in `sent` is judged by its highest number.
    pub fn report(&self, sent: &BTreeMap<u32, u64>) -> Report {
        let mut numbers: Vec<u32> = self.streams.keys().chain(sent.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let nothing = Stream::default();
        let streams = numbers
            .into_iter()
            .map(|number| {
                let stream = self.streams.get(&number).unwrap_or(&nothing);
                (number, stream.report(sent.get(&number).copied()))
            })
            .collect();
        Report {
            altered: self.altered,
            foreign: self.foreign,
            streams,
        }
    }

    /// Identity and number of a frame of which every byte is right.
    fn whole(&mut self, frame: &[u8]) -> Option<(Identity, u64)> {
        let identity = Identity::read(frame)?;
        let sequence = read_number(&frame[identity.sequence_at()..])?;
        if slot(sequence) != usize::from(identity.slot) {
            return None;
        }
        if let Some(known) = self.known.get(&identity) {
            return same(&identity, frame, known).then_some((identity, sequence));
        }
        let mut built = vec![0; identity.len()];
        identity.write(&mut built);
        if !same(&identity, frame, &built) {
            return None;
        }
        self.known.insert(identity, built.into());
        Some((identity, sequence))
    }
}

/// Whether two frames differ in nothing but number and time.
fn same(identity: &Identity, frame: &[u8], built: &[u8]) -> bool {
    let at = identity.sequence_at();
    let rest = match identity.time_at() {
        Some(time) if read_number(&frame[time..]).is_none() => return false,
        Some(time) => time + 16,
        None => at + 16,
    };
    frame[..at] == built[..at] && frame[rest..] == built[rest..]
}

impl Stream {
    /// Notes a number; answers whether it is new.
    fn insert(&mut self, sequence: u64) -> bool {
        let (page, bit) = (sequence / PAGE as u64, sequence % PAGE as u64);
        let bit = usize::try_from(bit).expect("a bit of a page is less than PAGE");
        let words = self
            .pages
            .entry(page)
            .or_insert_with(|| Box::new([0; PAGE / 64]));
        let word = &mut words[bit / 64];
        let mask = 1 << (bit % 64);
        if *word & mask != 0 {
            self.duplicated += 1;
            return false;
        }
        *word |= mask;
        if self.received > 0 && sequence < self.highest {
            self.reordered += 1;
        }
        self.received += 1;
        self.highest = self.highest.max(sequence);
        true
    }

    fn contains(&self, sequence: u64) -> bool {
        let bit =
            usize::try_from(sequence % PAGE as u64).expect("a bit of a page is less than PAGE");
        let page = self.pages.get(&(sequence / PAGE as u64));
        page.is_some_and(|words| words[bit / 64] & (1 << (bit % 64)) != 0)
    }

    fn report(&self, sent: Option<u64>) -> StreamReport {
        let highest = (self.received > 0).then_some(self.highest);
        let sent = sent.unwrap_or_else(|| highest.map_or(0, |highest| highest.saturating_add(1)));
        let beyond = self.beyond(sent);
        let missing = sent - (self.received - beyond);
        StreamReport {
            sent,
            received: self.received,
            missing,
            duplicated: self.duplicated,
            reordered: self.reordered,
            beyond,
            highest,
            missing_ranges: if missing == 0 {
                Vec::new()
            } else {
                self.gaps(sent)
            },
        }
    }

    /// How many of its numbers are `end` or more.
    fn beyond(&self, end: u64) -> u64 {
        let pages = self.pages.range(end / PAGE as u64..);
        let mut count = 0;
        for (page, words) in pages {
            let first = page * PAGE as u64;
            if first >= end {
                count += words
                    .iter()
                    .map(|word| u64::from(word.count_ones()))
                    .sum::<u64>();
                continue;
            }
            let last = first.saturating_add(PAGE as u64 - 1);
            count += (end..=last).filter(|number| self.contains(*number)).count() as u64;
        }
        count
    }

    /// The first ranges of numbers below `end` that are not there.
    fn gaps(&self, end: u64) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let mut number = 0;
        while number < end {
            let page = number / PAGE as u64;
            let next = page.saturating_add(1).saturating_mul(PAGE as u64).min(end);
            if number % PAGE as u64 == 0 && !self.pages.contains_key(&page) {
                note(&mut gaps, number..next);
                number = self
                    .pages
                    .range(page..)
                    .next()
                    .map_or(end, |(page, _)| page * PAGE as u64);
                let from = gaps.last_mut().expect("a gap was just noted");
                from.end = number.min(end);
                continue;
            }
            for number in (number..next).filter(|number| !self.contains(*number)) {
                note(&mut gaps, number..number + 1);
            }
            if gaps.len() > NAMED {
                break;
            }
            number = next;
        }
        gaps.truncate(NAMED);
        gaps
    }
}

/// Adds a range behind the others, joined to the last where they touch.
fn note(gaps: &mut Vec<Range<u64>>, range: Range<u64>) {
    match gaps.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => gaps.push(range),
    }
}

/// What became of the frames of all streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Frames of ours that are not as they were sent; the numbers they had are missing in their stream.
    pub altered: u64,
    /// Frames that are none of ours.
    pub foreign: u64,
    /// By stream.
    pub streams: BTreeMap<u32, StreamReport>,
}

/// What became of the frames of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// How many were sent, as the caller says, or the highest number and one.
    pub sent: u64,
    /// Different frames that are there, whole.
    pub received: u64,
    /// Frames that were sent and are not there: sent + beyond − received.
    pub missing: u64,
    /// Frames whose number was there before; not among `received`.
    pub duplicated: u64,
    /// Frames that came after one with a higher number.
    pub reordered: u64,
    /// Frames with a number that was not sent.
    pub beyond: u64,
    /// The highest number that is there.
    pub highest: Option<u64>,
    /// The first eight ranges of missing numbers.
    pub missing_ranges: Vec<Range<u64>>,
}

impl Report {
    /// Whether every frame is there once and whole; order and foreign frames do not matter.
    pub fn is_complete(&self) -> bool {
        self.altered == 0 && self.streams.values().all(StreamReport::is_complete)
    }

    /// Whether every frame that is there is there once and whole: nothing but missing frames.
    pub fn is_sound(&self) -> bool {
        let once = |stream: &StreamReport| stream.duplicated == 0 && stream.beyond == 0;
        self.altered == 0 && self.streams.values().all(once)
    }

    /// Frames that are there, over all streams.
    pub fn received(&self) -> u64 {
        self.streams.values().map(|stream| stream.received).sum()
    }

    /// Frames that are not there, over all streams.
    pub fn missing(&self) -> u64 {
        self.streams.values().map(|stream| stream.missing).sum()
    }
}

impl StreamReport {
    fn is_complete(&self) -> bool {
        self.missing == 0 && self.duplicated == 0 && self.beyond == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frames::{MAX, Plan, Size, TAG_LEN};

    fn frame(plan: Plan, sequence: u64) -> Vec<u8> {
        let mut out = vec![0; MAX + TAG_LEN];
        let len = plan.frame(sequence, &mut out);
        out.truncate(len);
        out
    }

    fn plan(stream: u32) -> Plan {
        Plan {
            flows: 7,
            ..Plan::new(stream, Size::Range(60, 1_514))
        }
    }

    #[test]
    fn all_frames_of_two_streams_in_any_order_are_complete() {
        let (mut a, mut b) = (plan(0).table(), plan(1).table());
        let mut checker = Checker::new();
        for sequence in 0..100_000 {
            let other = sequence ^ 1;
            assert!(matches!(
                checker.check(a.frame(sequence)),
                Verdict::Received { .. }
            ));
            assert!(matches!(
                checker.check(b.frame(other)),
                Verdict::Received { .. }
            ));
        }
        let report = checker.report(&BTreeMap::from([(0, 100_000), (1, 100_000)]));
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.streams[&0].reordered, 0);
        assert_eq!(report.streams[&1].reordered, 50_000);
        assert_eq!(report.received(), 200_000);
        assert!(!checker.report(&BTreeMap::from([(2, 1)])).is_complete());
    }

    #[test]
    fn what_is_missing_doubled_or_beyond_is_counted_and_named() {
        let mut table = plan(9).table();
        let mut checker = Checker::new();
        for sequence in
            (0..300_000).filter(|n| !(10..13).contains(n) && !(70_000..250_000).contains(n))
        {
            checker.check(table.frame(sequence));
        }
        assert_eq!(checker.check(table.frame(20)), Verdict::Duplicated);
        checker.check(table.frame(1_000_000));
        let report = checker.report(&BTreeMap::from([(9, 300_001)]));
        let stream = &report.streams[&9];
        assert_eq!(stream.missing, 3 + 180_000 + 1);
        assert_eq!(
            stream.missing_ranges,
            [10..13, 70_000..250_000, 300_000..300_001]
        );
        assert_eq!((stream.duplicated, stream.beyond), (1, 1));
        assert_eq!(
            stream.received + stream.missing,
            stream.sent + stream.beyond
        );
    }

    #[test]
    fn a_stranger_is_foreign() {
        let mut checker = Checker::new();
        assert_eq!(checker.check(&[0xff; 60]), Verdict::Foreign);
        assert_eq!(checker.check(&[]), Verdict::Foreign);
        assert_eq!(checker.report(&BTreeMap::new()).foreign, 1 + 1);
    }

    #[test]
    fn every_change_of_every_byte_of_a_short_frame_is_detected() {
        for vlan in [None, Some(0x2007)] {
            let whole = frame(
                Plan {
                    vlan,
                    ..Plan::new(0x0102_0304, Size::Fixed(60))
                },
                77_777,
            );
            let mut checker = Checker::new();
            for at in 0..whole.len() {
                for change in 1..=255 {
                    let mut frame = whole.clone();
                    frame[at] ^= change;
                    assert_eq!(checker.check(&frame), Verdict::Altered, "{at} {change}");
                }
            }
        }
    }

    #[test]
    fn a_tag_that_was_stripped_is_detected() {
        let mut frame = frame(
            Plan {
                vlan: Some(7),
                ..plan(0)
            },
            5,
        );
        frame.drain(12..16);
        assert_eq!(Checker::new().check(&frame), Verdict::Altered);
    }

    proptest! {
        #[test]
        fn any_altered_byte_of_any_frame_is_detected(
            size in 60..=9_014_u16,
            sequence in any::<u64>(),
            at in any::<prop::sample::Index>(),
            change in 1..=255_u8,
            seen in any::<bool>(),
        ) {
            let mut frame = frame(Plan::new(1, Size::Fixed(size)), sequence);
            let mut checker = Checker::new();
            if seen {
                let received = Verdict::Received { stream: 1, sequence, sent_at: None };
                prop_assert_eq!(checker.check(&frame), received);
            }
            let at = at.index(frame.len());
            frame[at] ^= change;
            prop_assert_eq!(checker.check(&frame), Verdict::Altered);
        }

        #[test]
        fn the_head_of_one_frame_with_the_tail_of_another_is_detected(
            a in any::<u64>(), b in any::<u64>(), cut in 64..1_500_usize,
        ) {
            prop_assume!(slot(a) != slot(b));
            let plan = Plan::new(1, Size::Fixed(1_514));
            let mut torn = frame(plan, a);
            torn[cut..].copy_from_slice(&frame(plan, b)[cut..]);
            prop_assert_eq!(Checker::new().check(&torn), Verdict::Altered);
        }

        #[test]
        fn a_cut_or_padded_frame_is_detected(sequence in any::<u64>(), len in 6..1_600_usize) {
            let mut frame = frame(Plan::new(1, Size::Fixed(1_000)), sequence);
            prop_assume!(len != frame.len());
            frame.resize(len, 0);
            prop_assert_eq!(Checker::new().check(&frame), Verdict::Altered);
        }
    }
}
