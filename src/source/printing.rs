//! A source whose packets are shown now and then, as pycapa's `-pp` does.
//!
//! The rule: it wraps another source and changes nothing of it; a capture that shows no packets is built
//! without it.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::counters::{QueueCounters, QueueState};
use crate::hex;
use crate::packet::Packet;
use crate::source::{Burst, Source, SourceError};

/// Shows every so many packets of `S` on standard output.
#[derive(Debug)]
pub struct Printing<S> {
    source: S,
    every: NonZeroU64,
    seen: u64,
    limit: u64,
    text: Vec<u8>,
}

impl<S: Source> Printing<S> {
    /// Shows every `every`-th packet of `source`, up to the `limit`-th, beyond which they are not taken.
    pub fn new(source: S, every: NonZeroU64, limit: Option<u64>) -> Self {
        Self {
            source,
            every,
            seen: 0,
            limit: limit.unwrap_or(u64::MAX),
            text: Vec::new(),
        }
    }
}

impl<S: Source> Source for Printing<S> {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        let Self {
            source,
            every,
            seen,
            limit,
            text,
        } = self;
        source.recv(&mut |packet| {
            let taken = take(packet);
            if taken.is_continue() && *seen < *limit {
                *seen += 1;
                if *seen % *every == 0 {
                    describe(*seen, packet, text);
                    show(text);
                }
            }
            taken
        })
    }

    fn wait(&mut self, limit: Duration, spent: Duration) -> Result<(), SourceError> {
        self.source.wait(limit, spent)
    }

    fn account(&mut self, counters: &QueueCounters) {
        self.source.account(counters);
    }

    fn state(&self) -> QueueState {
        self.source.state()
    }

    fn lag(&self) -> Duration {
        self.source.lag()
    }

    fn stop(&mut self) -> Result<(), SourceError> {
        self.source.stop()
    }

    fn left(&mut self) -> u64 {
        self.source.left()
    }
}

/// Puts one packet into words.
#[cold]
fn describe(seen: u64, packet: &Packet<'_>, text: &mut Vec<u8>) {
    text.clear();
    writeln!(text, "{seen} packet(s) received").expect("writing to memory cannot go wrong");
    match packet.more {
        [] => hex::dump(packet.data, text),
        more => hex::dump(&[&[packet.data], more].concat().concat(), text),
    }
}

/// Prints it. Where standard output is gone nobody wants to see it, and the capture goes on.
fn show(text: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Clock;

    #[test]
    fn a_packet_is_shown_with_its_number_and_all_its_bytes() {
        let packet = Packet {
            clock: Clock::Arrival,
            time: crate::packet::Timestamp::default(),
            orig_len: 17,
            link_type: crate::packet::LinkType::ETHERNET,
            interface: 0,
            data: &[1; 16],
            more: &[&[2]],
        };
        let mut text = Vec::new();
        describe(20, &packet, &mut text);
        let expected = "20 packet(s) received\n\
                        01 01 01 01 01 01 01 01 01 01 01 01 01 01 01 01\n02\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
