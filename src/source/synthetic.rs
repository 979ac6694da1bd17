//! Packets made in memory: for benches, and for trying a sink without a NIC.
//!
//! The rule: the packets are numbered from 0 without a gap, and each is offered until it is taken.
//! A sink that is too slow slows the source down; nothing is ever dropped here.

use std::ops::ControlFlow;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use super::{Burst, Source, SourceError};
use crate::counters::{QueueCounters, QueueState};
use crate::frames::{Plan, SLOTS, Size, Table};
use crate::interfaces::{Interface, Interfaces};
use crate::packet::{LinkType, Packet, Timestamp};

/// The name under which the source is registered.
pub const NAME: &str = "synthetic";

/// The most packets of one burst.
const BURST: u64 = 256;

/// The shortest sleep of a paced source: waking for a single packet costs more than the packet.
const NAP: Duration = Duration::from_micros(50);

/// What `--source` says, and is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--source {key}={value}: {rule}; write synthetic,size=60|imix[,flows=N][,pps=N][,count=N]")]
pub struct SpecError {
    /// The key that is wrong; `kind` for the word in front.
    pub key: String,
    /// What was given for it.
    pub value: String,
    /// What it must be.
    pub rule: String,
}

/// What packets to make, as `--source synthetic,size=imix,flows=100` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticSpec {
    /// Their sizes; 60 bytes unless given.
    pub size: Size,
    /// How many flows they belong to in turn, 1 to [`SLOTS`]; 1 unless given.
    pub flows: u32,
    /// Packets per second; without a number, as fast as they are taken.
    pub pps: Option<u64>,
    /// How many; without a number, until the source is stopped.
    pub count: Option<u64>,
}

impl FromStr for SyntheticSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        if kind != NAME {
            return Err(wrong("kind", kind, "must be synthetic"));
        }
        let mut spec = Self {
            size: Size::Fixed(60),
            flows: 1,
            pps: None,
            count: None,
        };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "size" => {
                    let size = value.parse();
                    let rule = "must be imix, or a number or range of numbers from 60 to 9014";
                    spec.size = size.map_err(|_| wrong(key, value, rule))?;
                }
                "flows" => {
                    let flows = u32::try_from(number(key, value)?).unwrap_or(u32::MAX);
                    if usize::try_from(flows).is_ok_and(|flows| flows > SLOTS) {
                        return Err(wrong(key, value, &format!("must be at most {SLOTS}")));
                    }
                    spec.flows = flows;
                }
                "pps" => spec.pps = Some(number(key, value)?),
                "count" => spec.count = Some(number(key, value)?),
                _ => {
                    let rule = "the key must be size, flows, pps or count";
                    return Err(wrong(key, value, rule));
                }
            }
        }
        Ok(spec)
    }
}

/// A source of packets that nobody sent.
#[derive(Debug)]
pub struct SyntheticSource {
    table: Table,
    interface: u16,
    pps: Option<u64>,
    count: u64,
    /// When the first packet was asked for.
    start: Option<Instant>,
    /// The number of the next packet.
    next: u64,
    /// What a refusal left of a burst: its packets keep their time.
    left: u64,
    time: Timestamp,
    stopped: bool,
}

impl SyntheticSource {
    /// Prepares the packets of stream `stream`; sources that run side by side need different ones.
    ///
    /// Returns `None` when too many interfaces are registered.
    pub fn new(spec: &SyntheticSpec, stream: u32, interfaces: &Interfaces) -> Option<Self> {
        let mut plan = Plan::new(stream, spec.size);
        plan.flows = spec.flows;
        let interface = interfaces.register(Interface {
            name: NAME.to_owned(),
            link_type: LinkType::ETHERNET,
            snaplen: 0,
            filter: None,
        })?;
        Some(Self {
            table: plan.table(),
            interface,
            pps: spec.pps,
            count: spec.count.unwrap_or(u64::MAX),
            start: None,
            next: 0,
            left: 0,
            time: Timestamp::default(),
            stopped: false,
        })
    }

    /// What it is doing.
    pub fn state(&self) -> QueueState {
        if self.next == self.count || (self.stopped && self.left == 0) {
            return QueueState::Ended;
        }
        if self.stopped {
            return QueueState::Draining;
        }
        QueueState::Up
    }

    /// How many packets may be made now.
    fn due(&mut self) -> u64 {
        let Some(pps) = self.pps else { return BURST };
        let elapsed = self.start.get_or_insert_with(Instant::now).elapsed();
        // The first packet is due at once.
        let due = elapsed.as_nanos() * u128::from(pps) / 1_000_000_000 + 1;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        due.saturating_sub(self.next).min(BURST)
    }

    /// How long until the next packet is due.
    fn pause(&self) -> Duration {
        let (Some(pps), Some(start)) = (self.pps, self.start) else {
            return Duration::ZERO;
        };
        let at = (u128::from(self.next) * 1_000_000_000).div_ceil(u128::from(pps));
        let at = Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX));
        at.saturating_sub(start.elapsed())
    }
}

impl Source for SyntheticSource {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        if self.left == 0 {
            if self.stopped || self.next == self.count {
                return Ok(Burst::End);
            }
            self.left = self.due().min(self.count - self.next);
            self.time = Timestamp::now();
        }
        let first = self.next;
        let end = self.next + self.left;
        while self.next < end {
            let data = self.table.frame(self.next);
            let packet = Packet {
                time: self.time,
                orig_len: u32::try_from(data.len()).expect("a frame has 9,018 bytes at most"),
                link_type: LinkType::ETHERNET,
                interface: self.interface,
                data,
                more: &[],
            };
            let taken = |next: u64| usize::try_from(next - first).expect("a burst is short");
            if take(&packet).is_break() {
                self.left = end - self.next;
                return Ok(Burst::Refused(taken(self.next)));
            }
            self.next += 1;
        }
        self.left = 0;
        if end == first {
            return Ok(Burst::Empty);
        }
        Ok(Burst::Packets(
            usize::try_from(end - first).expect("a burst is short"),
        ))
    }

    fn wait(&mut self, limit: Duration, _spent: Duration) -> Result<(), SourceError> {
        let pause = self.pause();
        if self.left == 0 && !pause.is_zero() {
            thread::sleep(pause.max(NAP).min(limit));
        }
        Ok(())
    }

    /// There is nothing that others count.
    fn account(&mut self, _counters: &QueueCounters) {}

    fn stop(&mut self) -> Result<(), SourceError> {
        self.stopped = true;
        Ok(())
    }
}

fn number(key: &str, value: &str) -> Result<u64, SpecError> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(wrong(key, value, "must be a whole number above 0")),
    }
}

fn wrong(key: &str, value: &str, rule: &str) -> SpecError {
    SpecError {
        key: key.to_owned(),
        value: value.to_owned(),
        rule: rule.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::check::Checker;

    fn source(spec: &str) -> SyntheticSource {
        SyntheticSource::new(&spec.parse().unwrap(), 0, &Interfaces::default()).unwrap()
    }

    #[test]
    fn every_packet_is_made_once_whole_and_in_order() {
        let mut source = source("synthetic,size=imix,flows=100,count=5000");
        let mut checker = Checker::new();
        let mut offers = 0;
        loop {
            let burst = source.recv(&mut |packet| {
                offers += 1;
                if offers % 5 == 0 {
                    return ControlFlow::Break(());
                }
                checker.check(packet.data);
                assert_eq!(packet.orig_len as usize, packet.data.len());
                ControlFlow::Continue(())
            });
            if burst.unwrap() == Burst::End {
                break;
            }
        }
        let report = checker.report(&BTreeMap::from([(0, 5_000)]));
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(source.state(), QueueState::Ended);
    }

    #[test]
    fn a_refused_packet_keeps_its_time() {
        let mut source = source("synthetic,size=60");
        let mut refused = None;
        let burst = source.recv(&mut |packet| {
            refused = Some((packet.time, packet.data.to_vec()));
            ControlFlow::Break(())
        });
        assert_eq!(burst.unwrap(), Burst::Refused(0));
        source.stop().unwrap();
        assert_eq!(source.state(), QueueState::Draining);
        let mut again = Vec::new();
        let burst = source.recv(&mut |packet| {
            again.push((packet.time, packet.data.to_vec()));
            ControlFlow::Continue(())
        });
        assert_eq!(burst.unwrap(), Burst::Packets(256));
        assert_eq!(refused, again.first().cloned());
        let end = source.recv(&mut |_| ControlFlow::Continue(()));
        assert_eq!(end.unwrap(), Burst::End);
    }

    #[test]
    fn a_paced_source_is_never_ahead_of_its_rate() {
        let start = Instant::now();
        let mut source = source("synthetic,size=60,pps=2000,count=100");
        let mut taken = 0;
        while source.recv(&mut |_| ControlFlow::Continue(())).unwrap() != Burst::End {
            let allowed = start.elapsed().as_nanos() * 2_000 / 1_000_000_000 + 1;
            taken = source.next;
            assert!(u128::from(taken) <= allowed);
            source
                .wait(Duration::from_millis(5), Duration::ZERO)
                .unwrap();
        }
        assert_eq!(taken, 100);
    }

    #[test]
    fn a_specification_says_what_is_made() {
        let spec: SyntheticSpec = "synthetic,size=60-1514,flows=7,pps=1000,count=9"
            .parse()
            .unwrap();
        let wanted = SyntheticSpec {
            size: Size::Range(60, 1_514),
            flows: 7,
            pps: Some(1_000),
            count: Some(9),
        };
        assert_eq!(spec, wanted);
        let least: SyntheticSpec = "synthetic".parse().unwrap();
        assert_eq!((least.size, least.flows), (Size::Fixed(60), 1));
    }

    #[test]
    fn a_wrong_specification_is_named_by_key_and_value() {
        for (text, key, value) in [
            ("random", "kind", "random"),
            ("synthetic,size=20", "size", "20"),
            ("synthetic,flows=0", "flows", "0"),
            ("synthetic,flows=9999", "flows", "9999"),
            ("synthetic,pps=fast", "pps", "fast"),
            ("synthetic,count", "count", ""),
            ("synthetic,colour=red", "colour", "red"),
        ] {
            let error = text.parse::<SyntheticSpec>().unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_str()), (key, value));
        }
    }
}
