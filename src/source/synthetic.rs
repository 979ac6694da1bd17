//! Packets made in memory: for benches, and for trying a sink without a NIC.
//!
//! The rule: making a packet costs next to nothing, so that what is measured is what comes after it. The
//! frames are numbered and checksummed, so that what arrives can be checked to the byte.

use std::ops::ControlFlow;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use crate::counters::QueueCounters;
use crate::frames::{Plan, Size, Table};
use crate::packet::{Clock, LinkType, Packet, Timestamp};
use crate::source::pace::{Pace, Speed};
use crate::source::{Burst, Source, SourceError};

/// Packets per burst; as many as an AF_XDP burst.
const BURST: usize = 64;

/// What `--source synthetic,…` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The frames.
    pub plan: Plan,
    /// How fast they come.
    pub speed: Speed,
}

/// What was written after `--source` is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("source = {text}: {rule}; write synthetic,size=60|imix[,flows=N][,pps=N]")]
pub struct SpecError {
    text: String,
    rule: String,
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let error = |rule: String| SpecError {
            text: text.to_owned(),
            rule,
        };
        let mut parts = text.split(',');
        if parts.next() != Some("synthetic") {
            return Err(error("the only source of this kind is synthetic".into()));
        }
        let mut spec = Self {
            plan: Plan::new(0, Size::Fixed(60)),
            speed: Speed::Max,
        };
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "size" => {
                    spec.plan.size = value
                        .parse()
                        .map_err(|rule| error(format!("size={value}: {rule}")))?;
                }
                "flows" => {
                    let flows = value
                        .parse()
                        .ok()
                        .filter(|flows| (1..=1_024).contains(flows));
                    spec.plan.flows =
                        flows.ok_or_else(|| error(format!("flows={value}: 1 to 1024")))?;
                }
                "pps" => {
                    let rate = value
                        .parse()
                        .map_err(|_| error(format!("pps={value}: 1 or more")))?;
                    spec.speed = Speed::Rate(rate);
                }
                _ => return Err(error(format!("`{key}` is none of size, flows, pps"))),
            }
        }
        Ok(spec)
    }
}

/// A source of numbered frames without end.
#[derive(Debug)]
pub struct SyntheticSource {
    table: Table,
    next: u64,
    pace: Pace,
    due: Option<u64>,
    interface: u16,
    stopped: bool,
}

impl SyntheticSource {
    /// A source of what `spec` says, on the interface registered as `interface`.
    pub fn new(spec: &Spec, interface: u16) -> Self {
        Self {
            table: spec.plan.table(),
            next: 0,
            pace: Pace::new(spec.speed),
            due: None,
            interface,
            stopped: false,
        }
    }
}

impl Source for SyntheticSource {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        if self.stopped {
            return Ok(Burst::End);
        }
        let time = Timestamp::now();
        let now = self.pace.now();
        for taken in 0..BURST {
            let due = *self.due.get_or_insert_with(|| self.pace.due(time));
            if due > now {
                return Ok(if taken == 0 {
                    Burst::Empty
                } else {
                    Burst::Packets(taken)
                });
            }
            let data = self.table.frame(self.next);
            let packet = Packet {
                clock: Clock::Burst,
                time,
                orig_len: u32::try_from(data.len()).expect("no frame is longer than 9,000 bytes"),
                link_type: LinkType::ETHERNET,
                interface: self.interface,
                data,
                more: &[],
            };
            if take(&packet).is_break() {
                return Ok(Burst::Refused(taken));
            }
            self.next += 1;
            self.due = None;
        }
        Ok(Burst::Packets(BURST))
    }

    fn wait(&mut self, limit: Duration, _spent: Duration) -> Result<(), SourceError> {
        thread::sleep(self.pace.left(self.due.unwrap_or(0)).min(limit));
        Ok(())
    }

    fn account(&mut self, _counters: &QueueCounters) {}

    fn stop(&mut self) -> Result<(), SourceError> {
        self.stopped = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read_or_refused_by_key_and_rule() {
        let spec: Spec = "synthetic,size=imix,flows=7,pps=100".parse().unwrap();
        assert_eq!((spec.plan.size, spec.plan.flows), (Size::Imix, 7));
        assert_eq!(
            "synthetic".parse::<Spec>().unwrap().plan.size,
            Size::Fixed(60)
        );
        for (text, part) in [
            ("random", "synthetic"),
            ("synthetic,size=10", "size=10"),
            ("synthetic,flows=0", "1 to 1024"),
            ("synthetic,pps=x", "pps=x"),
            ("synthetic,colour=red", "`colour`"),
        ] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn frames_come_numbered_from_zero_and_none_is_lost_by_a_refusal() {
        let mut source = SyntheticSource::new(&"synthetic,size=imix".parse().unwrap(), 0);
        let plan = Plan::new(0, Size::Imix);
        let mut expected = vec![0; plan.longest()];
        let mut next = 0;
        for refuse_at in [3, 64, 0, 17] {
            let mut taken = 0;
            let _ = source.recv(&mut |packet| {
                if taken == refuse_at {
                    return ControlFlow::Break(());
                }
                let len = plan.frame(next, &mut expected);
                assert_eq!(packet.data, &expected[..len]);
                next += 1;
                taken += 1;
                ControlFlow::Continue(())
            });
        }
        assert_eq!(next, 3 + 64 + 17);
    }
}
