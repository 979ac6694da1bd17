//! Packets of any interface, through libpcap.
//!
//! The rule: every packet that the kernel let into the ring is offered once, and the kernel's count
//! of those it had no room for is read when the ring stands still. So a capture ends with a filter
//! that lets nothing more in, then the rest of the ring, then the statistics.
//!
//! What libpcap does for us (1.10, `pcap-linux.c`): a TPACKET_V3 ring in shared memory, filled by
//! the kernel in blocks of 256 KiB; VLAN tags the kernel took off are put back (not with SLL2, the
//! link type of `any`, where there is no place for them). A link that goes down and comes up again
//! needs nothing from us: the kernel resumes by itself.

mod open;
mod socket;

#[cfg(test)]
mod root;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use pcap::{Active, BreakLoop, Capture, PacketHeader};

pub use self::open::{ANY, DEFAULT_BUFFER, Direction, OpenError, PcapOptions};

use self::open::{BLOCK_TIMEOUT, Started};
use self::socket::Link;
use super::{Burst, Source, SourceError};
use crate::counters::{QueueCounters, QueueState};
use crate::filter::message;
use crate::interfaces::{Interface, Interfaces};
use crate::packet::{Clock, LinkType, Packet, Timestamp};

/// The most packets of one burst.
const BURST: usize = 256;

/// How long nothing may have come before a ring counts as drained.
///
/// A packet under way when the filter fell shut opens a block, which is handed over after two block
/// timeouts at most; the third is for the grain of the kernel's timers.
const DRAIN: Duration = BLOCK_TIMEOUT.saturating_mul(3);

/// The longest sleep while the link is down, so that its return or removal is seen within a second.
const LOOK: Duration = Duration::from_millis(250);

/// Where a capture stands.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Packets come.
    Running,
    /// None come any more; the ring is being emptied. Nothing was found in it since `since`.
    Leaving { since: Instant, gone: bool },
    /// The ring is empty.
    Left { gone: bool },
}

/// A live capture on one interface.
pub struct PcapSource {
    interface: String,
    /// Its number in the kernel; `None` for [`ANY`].
    index: Option<i32>,
    /// Its number in [`Interfaces`].
    number: u16,
    link_type: LinkType,
    nanos_per_tick: u64,
    capture: Capture<Active>,
    stop_dispatch: BreakLoop,
    held: Held,
    phase: Phase,
    link: Link,
    dropped: Monotone,
    if_dropped: Monotone,
}

impl PcapSource {
    /// Starts a capture and registers its interface.
    pub fn open(options: &PcapOptions, interfaces: &Interfaces) -> Result<Self, OpenError> {
        let name = &options.interface;
        let Started {
            mut capture,
            index,
            link_type,
        } = open::start(options)?;
        let number = interfaces.register(Interface {
            name: name.clone(),
            link_type,
            snaplen: options.snaplen(),
            filter: options.filter.clone(),
        });
        let number = number.ok_or_else(|| OpenError::TooMany {
            interface: name.clone(),
        })?;
        Ok(Self {
            interface: name.clone(),
            index,
            number,
            link_type,
            nanos_per_tick: socket::nanos_per_tick(&capture),
            stop_dispatch: capture.breakloop_handle(),
            capture,
            held: Held::default(),
            phase: Phase::Running,
            link: Link::Up,
            dropped: Monotone::default(),
            if_dropped: Monotone::default(),
        })
    }

    /// What the first byte of its packets is.
    pub fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// Its number in [`Interfaces`].
    pub fn interface(&self) -> u16 {
        self.number
    }

    /// Offers up to a burst from the ring; tells how many were taken, and whether one was refused.
    fn dispatch(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<(usize, bool), pcap::Error> {
        let mut taken = 0;
        let mut refused = false;
        let (held, stop_dispatch) = (&mut self.held, &self.stop_dispatch);
        let (link_type, interface) = (self.link_type, self.number);
        let nanos_per_tick = self.nanos_per_tick;
        let outcome = self.capture.dispatch(Some(BURST), |packet| {
            let offered = Packet {
                clock: Clock::Arrival,
                time: time(packet.header, nanos_per_tick),
                orig_len: packet.header.len,
                link_type,
                interface,
                data: packet.data,
                more: &[],
            };
            if take(&offered).is_continue() {
                taken += 1;
                return;
            }
            held.keep(&offered);
            refused = true;
            stop_dispatch.breakloop();
        });
        if refused {
            // libpcap reports the break as an error without a text.
            return Ok((taken, true));
        }
        outcome.map(|_| (taken, false))
    }

    /// Nothing is in the ring: goes on waiting, or is done.
    fn idle(&mut self) -> Result<Burst, SourceError> {
        if let Phase::Leaving { since, gone } = self.phase
            && since.elapsed() >= DRAIN
        {
            self.phase = Phase::Left { gone };
        }
        match self.phase {
            Phase::Left { gone: false } => Ok(Burst::End),
            Phase::Left { gone: true } => Err(SourceError::Gone {
                interface: self.interface.clone(),
            }),
            Phase::Running | Phase::Leaving { .. } => Ok(Burst::Empty),
        }
    }

    /// Something came from the ring while it is being emptied: the quiet begins anew.
    fn stir(&mut self) {
        if let Phase::Leaving { gone, .. } = self.phase {
            let since = Instant::now();
            self.phase = Phase::Leaving { since, gone };
        }
    }

    /// Tells a link that is down, or a device that is gone, from a fault.
    ///
    /// A device that is renamed is gone: libpcap asks after it by its name, and refuses all else.
    fn fault(&mut self, cause: pcap::Error) -> Result<Burst, SourceError> {
        if !matches!(self.phase, Phase::Running) {
            return self.idle();
        }
        self.look();
        let named = if_nametoindex(self.interface.as_str())
            .ok()
            .map(i32::try_from);
        if self.index.is_some_and(|index| named != Some(Ok(index))) {
            self.lose();
        }
        if self.link != Link::Up {
            return self.idle();
        }
        Err(SourceError::Io {
            doing: format!("receiving on {} through libpcap", self.interface),
            cause: io::Error::other(message(cause)),
        })
    }

    /// Asks the kernel for the state of the link; a device that is gone starts the drain of its
    /// ring.
    fn look(&mut self) {
        let Some(index) = self.index else { return };
        let Ok(link) = socket::link(self.capture.as_fd(), index) else {
            return;
        };
        match link {
            Link::Gone => self.lose(),
            other => self.link = other,
        }
    }

    fn lose(&mut self) {
        self.link = Link::Gone;
        if matches!(self.phase, Phase::Running) {
            let since = Instant::now();
            self.phase = Phase::Leaving { since, gone: true };
        }
    }
}

impl Source for PcapSource {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        let mut first = 0;
        if let Some(packet) = self.held.packet(self.link_type, self.number) {
            if take(&packet).is_break() {
                return Ok(Burst::Refused(0));
            }
            self.held.full = false;
            first = 1;
        }
        match self.dispatch(take) {
            Ok((taken, true)) => Ok(Burst::Refused(first + taken)),
            Ok((taken, false)) if first + taken > 0 => {
                self.stir();
                Ok(Burst::Packets(first + taken))
            }
            Err(_) if first > 0 => Ok(Burst::Packets(first)),
            Ok(_) => self.idle(),
            Err(cause) => self.fault(cause),
        }
    }

    fn wait(&mut self, limit: Duration, _spent: Duration) -> Result<(), SourceError> {
        if self.held.full {
            return Ok(());
        }
        let limit = match (self.phase, self.link) {
            (Phase::Left { .. }, _) => return Ok(()),
            (Phase::Leaving { since, .. }, _) => {
                limit.min(DRAIN.saturating_sub(since.elapsed()) + Duration::from_millis(1))
            }
            (Phase::Running, Link::Up) => limit,
            (Phase::Running, _) => limit.min(LOOK),
        };
        let mut ready = [PollFd::new(self.capture.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut ready, Some(TimeSpec::from(limit)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(cause) => Err(SourceError::Io {
                doing: format!("waiting for packets on {}", self.interface),
                cause: cause.into(),
            }),
        }
    }

    fn account(&mut self, counters: &QueueCounters) {
        let was = self.link;
        self.look();
        if was == Link::Down && self.link == Link::Up {
            counters.recoveries.add(1);
        }
        let Ok(stat) = self.capture.stats() else {
            return;
        };
        counters.pcap_dropped.set(self.dropped.follow(stat.dropped));
        counters
            .pcap_if_dropped
            .set(self.if_dropped.follow(stat.if_dropped));
    }

    /// The link is looked at in [`account`](Source::account).
    fn state(&self) -> QueueState {
        match (self.phase, self.link) {
            (Phase::Running, Link::Up) => QueueState::Up,
            (Phase::Running, Link::Down) => QueueState::Down,
            (Phase::Running, Link::Gone)
            | (Phase::Leaving { gone: true, .. } | Phase::Left { gone: true }, _) => {
                QueueState::Gone
            }
            (Phase::Leaving { .. }, _) => QueueState::Draining,
            (Phase::Left { .. }, _) => QueueState::Ended,
        }
    }

    /// A block that is not full lies with the kernel for up to the block timeout.
    fn lag(&self) -> Duration {
        BLOCK_TIMEOUT * 2
    }

    fn stop(&mut self) -> Result<(), SourceError> {
        let Phase::Running = self.phase else {
            return Ok(());
        };
        socket::accept_nothing(self.capture.as_fd()).map_err(|cause| SourceError::Io {
            doing: format!("closing the packet socket of {} to packets", self.interface),
            cause,
        })?;
        let since = Instant::now();
        self.phase = Phase::Leaving { since, gone: false };
        Ok(())
    }
}

impl fmt::Debug for PcapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PcapSource")
            .field("interface", &self.interface)
            .field("link_type", &self.link_type)
            .field("phase", &self.phase)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// The packet's time; libpcap keeps nanoseconds in the field for microseconds when asked to.
fn time(header: &PacketHeader, nanos_per_tick: u64) -> Timestamp {
    let seconds = u64::try_from(header.ts.tv_sec).unwrap_or(0);
    let ticks = u64::try_from(header.ts.tv_usec).unwrap_or(0);
    Timestamp::from_nanos(seconds * 1_000_000_000 + ticks * nanos_per_tick)
}

/// A packet that was refused, kept to be offered again: libpcap has no way to put one back.
#[derive(Debug, Default)]
struct Held {
    full: bool,
    time: Timestamp,
    orig_len: u32,
    data: Vec<u8>,
}

impl Held {
    fn keep(&mut self, packet: &Packet<'_>) {
        self.full = true;
        self.time = packet.time;
        self.orig_len = packet.orig_len;
        self.data.clear();
        self.data.extend_from_slice(packet.data);
    }

    fn packet(&self, link_type: LinkType, interface: u16) -> Option<Packet<'_>> {
        self.full.then_some(Packet {
            clock: Clock::Arrival,
            time: self.time,
            orig_len: self.orig_len,
            link_type,
            interface,
            data: &self.data,
            more: &[],
        })
    }
}

/// A 64-bit count that follows one of 32 bits, which wraps.
#[derive(Debug, Default)]
struct Monotone {
    last: u32,
    total: u64,
}

impl Monotone {
    /// Adds what came since the last call.
    ///
    /// A figure that went back adds nothing: libpcap reads `ps_ifdrop` from files that vanish with
    /// the device. More than 2^31 between two calls look the same, and do not happen.
    fn follow(&mut self, now: u32) -> u64 {
        let step = now.wrapping_sub(self.last);
        self.last = now;
        if step <= u32::MAX / 2 {
            self.total += u64::from(step);
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_wraps_goes_on_rising() {
        let mut count = Monotone::default();
        assert_eq!(count.follow(10), 10);
        for _ in 0..3 {
            count.follow(0x7000_0000);
            count.follow(0xe000_0000);
            count.follow(10);
        }
        assert_eq!(count.follow(25), 3 * (1 << 32) + 25);
    }

    #[test]
    fn a_count_that_steps_back_adds_nothing() {
        let mut count = Monotone::default();
        count.follow(500);
        assert_eq!(count.follow(0), 500);
        assert_eq!(count.follow(7), 507);
    }

    #[test]
    fn ticks_are_micro_or_nanoseconds() {
        let header = PacketHeader {
            ts: libc::timeval {
                tv_sec: 1_700_000_000,
                tv_usec: 123_456,
            },
            caplen: 0,
            len: 0,
        };
        assert_eq!(time(&header, 1).nanos(), 1_700_000_000_000_123_456);
        assert_eq!(time(&header, 1_000).nanos(), 1_700_000_000_123_456_000);
    }
}
