//! AF_XDP: packets of one NIC queue, straight from the driver's hook.
//!
//! The rule: one frame in, one frame back. A burst is taken off the RX ring, its packets are offered,
//! and the frames of those that were taken are in the fill ring again before the next burst. While
//! nothing is received, packets stay where they are: the kernel drops what does not fit and counts
//! each one.

mod bind;
mod clock;
mod idle;
mod link;
mod umem;

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use xsk_rs::FrameDesc;

use self::clock::WallClock;
use self::idle::{Pace, Rest};
use self::link::{Link, Probe};
use self::umem::{Port, continues};
use super::{Burst, Source, SourceError};
use crate::counters::{QueueCounters, QueueState};
use crate::packet::{Clock, LinkType, Packet, Timestamp};
use crate::xdp::{self, Meter, Program, Tally, ZeroCopyToken};

pub use self::bind::{Bind, XskError, ZeroCopy, frame_size, room};
pub use self::idle::Idle;

/// Descriptors taken off the ring at a time: what NAPI delivers at a time, and 128 KiB of frames, which
/// stay in the cache between reading and giving back.
const BURST: usize = 64;

/// More fragments than a packet has: 46 pages, the most a kernel can be built for (`MAX_SKB_FRAGS`, 17
/// by default), cut into frames with 1,792 bytes for data, are 106.
const MAX_FRAGMENTS: usize = 128;

/// The fragments of most jumbo packets, 9,000 bytes in frames of 2,048, and some more.
const FEW_FRAGMENTS: usize = 8;

/// How many frames ahead memory is asked for: about as many misses as a core has under way.
const AHEAD: usize = 8;

/// How often the link is looked after.
const LOOK: Duration = Duration::from_millis(250);

/// How long ring and counters stand still before a drain is over: longer than any NAPI poll runs.
const STILL: Duration = Duration::from_millis(10);

/// The nap between two looks at a ring that is being drained.
const DRAIN_NAP: Duration = Duration::from_millis(1);

/// The first kernel that has `SO_PREFER_BUSY_POLL`.
const OLDEST_BUSY_POLL_KERNEL: (u32, u32) = (5, 11);

/// The shape and manners of one queue's socket.
#[derive(Clone, Debug)]
pub struct XskConfig {
    /// The number of frames; at least 128.
    pub frames: u32,
    /// Bytes per frame, 2,048 or 4,096: see [`frame_size`].
    pub frame_size: u32,
    /// Descriptors in the RX ring, rounded up to a power of two; one for each frame where `None`.
    pub ring: Option<u32>,
    /// What to do when the ring is empty.
    pub idle: Idle,
    /// Whether to bind for zero-copy.
    pub zero_copy: ZeroCopy,
    /// The number that packets carry as their interface, as registered in
    /// [`Interfaces`](crate::interfaces::Interfaces).
    pub interface: u16,
    /// Queues of the interface that nobody captures: their frames are counted here, as passed.
    pub left_out: Vec<u32>,
}

impl XskConfig {
    /// The default shape for an interface with this MTU: 8,192 frames, or 32,768 where packets take
    /// several.
    pub fn for_mtu(mtu: u32) -> Self {
        let (frame_size, jumbo) = frame_size(mtu);
        Self {
            frames: if jumbo { 32_768 } else { 8_192 },
            frame_size,
            ring: None,
            idle: Idle::DEFAULT,
            zero_copy: ZeroCopy::Auto,
            interface: 0,
            left_out: Vec::new(),
        }
    }
}

/// The packets of one queue.
pub struct XskSource {
    name: String,
    queue: u32,
    mode: Bind,
    interface: u16,
    port: Port,
    /// Descriptors that are ours are at `head..tail`; one slot for each frame, so it never overflows.
    held: Vec<FrameDesc>,
    head: usize,
    tail: usize,
    clock: WallClock,
    /// The time of the packets held that carry none; read when the first such is met.
    burst_time: Option<Timestamp>,
    is_stamped: bool,
    idle: Idle,
    pace: Pace,
    arrived: u32,
    is_prepared: bool,
    naps: u64,
    polls: u64,
    meter: Meter,
    probe: Probe,
    link: Link,
    looked: Instant,
    recoveries: u64,
    drain: Option<Drain>,
    _zero_copy: Option<ZeroCopyToken>,
}

/// A drain under way: what stood still, and since when.
struct Drain {
    tally: Tally,
    dropped: [u64; 2],
    since: Instant,
}

impl XskSource {
    /// Binds a socket to `queue` and gives it to the program, which is not attached yet.
    ///
    /// The interface is looked for in the network namespace of this thread. The source can then be
    /// sent to the thread that drives it.
    ///
    /// # Errors
    ///
    /// See [`XskError`]; a queue that is busy is tried for two seconds.
    pub fn open(program: &Program, queue: u32, config: &XskConfig) -> Result<Self, XskError> {
        let name = program.interface().to_owned();
        let shape = bind::shape(config.frames, config.ring, config.frame_size);
        let bound = bind::bind(program, queue, shape, config.zero_copy)?;
        if let Some(refusal) = &bound.refusal {
            let cause = refusal.to_string();
            tracing::info!(interface = name, queue, cause, "zero-copy refused, copying");
        }
        let failed = |cause| XskError::Socket {
            interface: name.clone(),
            queue,
            cause,
        };
        if config.idle == Idle::BusyPoll {
            link::prefer_busy_poll(bound.port.fd()).map_err(|cause| {
                let doing = format!("preferring busy polling on {name}");
                let too_old = xdp::too_old(&doing, OLDEST_BUSY_POLL_KERNEL);
                too_old.map_or_else(|| failed(cause), XskError::Program)
            })?;
        }
        let probe = Probe::new(&name).map_err(failed)?;
        let meter = program.meter(queue, &config.left_out).map_err(failed)?;
        program.register(queue, bound.port.fd())?;

        let now = Instant::now();
        let max = match config.idle {
            Idle::Nap { max } => max,
            Idle::Poll | Idle::Spin | Idle::BusyPoll => Duration::ZERO,
        };
        Ok(Self {
            queue,
            mode: bound.mode,
            interface: config.interface,
            port: bound.port,
            held: bound.frames,
            head: 0,
            tail: 0,
            clock: WallClock::new(),
            burst_time: None,
            is_stamped: true,
            idle: config.idle,
            pace: Pace::new(shape.ring, max, now),
            arrived: 0,
            is_prepared: false,
            naps: 0,
            polls: 0,
            meter,
            probe,
            link: Link::Up,
            looked: now,
            recoveries: 0,
            drain: None,
            _zero_copy: (bound.mode == Bind::ZeroCopy).then(|| program.zero_copy()),
            name,
        })
    }

    /// How the socket is bound.
    pub fn mode(&self) -> Bind {
        self.mode
    }

    /// The queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Offers the packets held; returns how many were taken, where they end, and whether one was refused.
    fn offer(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> (usize, usize, bool) {
        let mut taken = 0;
        let mut at = self.head;
        while let Some(next) = self.next_packet(at) {
            if at + AHEAD < self.tail {
                self.port.prefetch(&self.held[at + AHEAD]);
            }
            if self.offer_one(at, next, take).is_break() {
                return (taken, at, true);
            }
            self.port.erase_stamp(&self.held[at]);
            taken += 1;
            at = next;
        }
        (taken, at, false)
    }

    /// Where the packet that begins at `at` ends; `None` where its end is not here yet.
    #[inline]
    fn next_packet(&self, at: usize) -> Option<usize> {
        let rest = &self.held[at..self.tail];
        let last = rest.iter().position(|frame| !continues(frame))?;
        Some(at + last + 1)
    }

    /// Offers the packet in the frames `from..to`.
    #[inline]
    fn offer_one(
        &mut self,
        from: usize,
        to: usize,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (time, clock) = self.time(from);
        let data = self.port.data(&self.held[from]);
        let packet = Packet {
            clock,
            time,
            orig_len: u32::try_from(data.len()).expect("a frame's length fits"),
            link_type: LinkType::ETHERNET,
            interface: self.interface,
            data,
            more: &[],
        };
        match to - from {
            1 => take(&packet),
            2..=FEW_FRAGMENTS => self.offer_parts::<FEW_FRAGMENTS>(packet, from + 1, to, take),
            _ => self.offer_parts::<{ MAX_FRAGMENTS + BURST }>(packet, from + 1, to, take),
        }
    }

    /// Offers a packet whose further fragments are in the frames `from..to`, `N` at most.
    fn offer_parts<const N: usize>(
        &self,
        packet: Packet<'_>,
        from: usize,
        to: usize,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut parts: [&[u8]; N] = [&[]; N];
        let frames = &self.held[from..to];
        for (part, frame) in parts.iter_mut().zip(frames) {
            *part = self.port.data(frame);
        }
        let mut whole = Packet {
            more: &parts[..frames.len()],
            ..packet
        };
        whole.orig_len = u32::try_from(whole.len()).expect("a packet's length fits");
        take(&whole)
    }

    /// When the packet that begins in the frame at `at` arrived.
    #[inline]
    fn time(&mut self, at: usize) -> (Timestamp, Clock) {
        let stamp = self.port.stamp(&self.held[at]);
        self.is_stamped = stamp.is_some();
        if let Some(stamp) = stamp {
            return (self.clock.at(stamp), Clock::Arrival);
        }
        (
            *self.burst_time.get_or_insert_with(Timestamp::now),
            Clock::Burst,
        )
    }

    /// Takes another burst off the ring, behind the fragments that wait for the end of their packet.
    fn fetch(&mut self) -> Result<(), SourceError> {
        self.held.copy_within(self.head..self.tail, 0);
        self.tail -= self.head;
        self.head = 0;
        if self.tail >= MAX_FRAGMENTS {
            let cause = io::Error::other("a packet has more fragments than the kernel makes");
            return Err(self.error("receiving from", cause));
        }
        let until = self.held.len().min(self.tail + BURST);
        let got = self.port.receive(&mut self.held[self.tail..until]);
        if got > 0 {
            self.tail += got;
            self.burst_time = None;
        }
        Ok(())
    }

    /// What to answer when no whole packet is there.
    fn empty(&mut self) -> Result<Burst, SourceError> {
        if self.drain.is_some() {
            return Ok(if self.is_still() {
                Burst::End
            } else {
                Burst::Empty
            });
        }
        if self.link == Link::Gone {
            return Err(SourceError::Gone {
                interface: self.name.clone(),
            });
        }
        Ok(Burst::Empty)
    }

    /// Whether the counters of program and socket have stood still for as long as a drain takes.
    fn is_still(&mut self) -> bool {
        let now = Instant::now();
        let tally = self.meter.read().unwrap_or_default();
        let dropped = self.dropped();
        let Some(drain) = &mut self.drain else {
            return false;
        };
        if drain.tally != tally || drain.dropped != dropped {
            *drain = Drain {
                tally,
                dropped,
                since: now,
            };
        }
        now.duration_since(drain.since) >= STILL
    }

    /// The drops that the socket has counted.
    fn dropped(&self) -> [u64; 2] {
        let statistics = self.port.statistics().unwrap_or_default();
        [statistics.rx_dropped(), statistics.rx_ring_full()]
    }

    /// Looks after link and clock, at most four times a second.
    fn look(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        self.clock.refresh(now);
        let link = self.probe.ask(self.port.fd());
        if self.link == Link::Down && link == Link::Up {
            self.recoveries += 1;
            self.link = Link::Up;
        }
        self.note(link);
    }

    /// Notes bad news of the link; that it is up again, only [`look`](Self::look) can tell.
    fn note(&mut self, link: Link) {
        match (self.link, link) {
            (Link::Gone, _) | (_, Link::Up) => {}
            (_, worse) => self.link = worse,
        }
    }

    /// Waits on the kernel for a packet; returns whether one came.
    fn poll(&mut self, limit: Duration) -> Result<bool, SourceError> {
        self.polls += 1;
        let fd: BorrowedFd<'_> = self.port.fd();
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(limit)), None) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(cause) => Err(self.error("waiting for", cause.into())),
        }
    }

    /// Naps, or waits on the kernel, as the rate of late suggests.
    fn rest(&mut self, limit: Duration, now: Instant) -> Result<(), SourceError> {
        let arrived = std::mem::take(&mut self.arrived);
        match self.pace.rest(arrived, self.is_stamped, now) {
            Rest::Nap(nap) => {
                self.naps += 1;
                thread::sleep(nap.min(limit));
            }
            Rest::Poll => {
                let ready = self.poll(limit)?;
                self.pace.polled(ready, Instant::now());
            }
        }
        Ok(())
    }

    /// An error of this queue.
    fn error(&self, doing: &str, cause: io::Error) -> SourceError {
        SourceError::Io {
            doing: format!("{doing} queue {} of {}", self.queue, self.name),
            cause,
        }
    }

    /// Takes the whole ring into our hands, so that its packets can be counted.
    fn hold_all(&mut self) -> u64 {
        self.held.copy_within(self.head..self.tail, 0);
        self.tail -= self.head;
        self.head = 0;
        // libxdp looks at the ring anew only when what it saw before is used up.
        loop {
            let received = self.port.receive(&mut self.held[self.tail..]);
            if received == 0 {
                break;
            }
            self.tail += received;
        }
        let held = &self.held[..self.tail];
        held.iter()
            .filter(|frame| !continues(frame))
            .fold(0, |count, _| count + 1)
    }
}

impl Source for XskSource {
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError> {
        if self.next_packet(self.head).is_none() {
            self.fetch()?;
        }
        let (taken, end, refused) = self.offer(take);
        self.arrived = self
            .arrived
            .saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        if end > self.head {
            let back = self.port.give_back(&self.held[self.head..end]);
            back.map_err(|cause| self.error("giving frames back to", cause))?;
            self.head = end;
        }
        if self.port.needs_wakeup() {
            self.note(link::knock(self.port.fd()));
        }
        match (taken, refused) {
            (taken, true) => Ok(Burst::Refused(taken)),
            (0, false) => self.empty(),
            (taken, false) => Ok(Burst::Packets(taken)),
        }
    }

    fn wait(&mut self, limit: Duration, _spent: Duration) -> Result<(), SourceError> {
        if !self.is_prepared {
            // The kernel adds up to 50 µs to every sleep otherwise: as long as the shortest nap.
            let _ = prctl::set_timerslack(1);
            self.is_prepared = true;
        }
        let now = Instant::now();
        self.look(now);
        if self.idle == Idle::BusyPoll {
            self.note(link::knock(self.port.fd()));
        }
        if self.drain.is_some() {
            thread::sleep(limit.min(DRAIN_NAP));
            return Ok(());
        }
        match self.idle {
            Idle::Nap { .. } => self.rest(limit, now),
            Idle::Poll => self.poll(limit).map(|_| ()),
            Idle::Spin | Idle::BusyPoll => {
                std::hint::spin_loop();
                Ok(())
            }
        }
    }

    fn account(&mut self, counters: &QueueCounters) {
        self.look(Instant::now());
        // Downstream first: what is counted later by the program is not missing further down.
        if let Ok(statistics) = self.port.statistics() {
            counters.rx_dropped.set(statistics.rx_dropped());
            counters.rx_ring_full.set(statistics.rx_ring_full());
            counters.rx_invalid_descs.set(statistics.rx_invalid_descs());
            counters
                .fill_ring_empty
                .set(statistics.rx_fill_ring_empty_descs());
        }
        if let Ok(tally) = self.meter.read() {
            counters.redirect_errors.set(tally.redirect_errors);
            counters.xdp_passed.set(tally.passed);
            counters.xdp_aborted.set(tally.aborted);
            counters.xdp_redirected.set(tally.redirected);
            counters.xdp_seen.set(tally.seen);
        }
        counters.naps.set(self.naps);
        counters.polls.set(self.polls);
        counters.recoveries.set(self.recoveries);
    }

    fn state(&self) -> QueueState {
        match self.link {
            Link::Up => QueueState::Up,
            Link::Down => QueueState::Down,
            Link::Gone => QueueState::Gone,
        }
    }

    fn left(&mut self) -> u64 {
        self.hold_all()
    }

    fn stop(&mut self) -> Result<(), SourceError> {
        let (tally, dropped) = (self.meter.read().unwrap_or_default(), self.dropped());
        self.drain = Some(Drain {
            tally,
            dropped,
            since: Instant::now(),
        });
        Ok(())
    }
}

impl Drop for XskSource {
    /// Sends further frames to the stack before the socket closes.
    fn drop(&mut self) {
        self.meter.unregister();
    }
}

impl fmt::Debug for XskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XskSource")
            .field("interface", &self.name)
            .field("queue", &self.queue)
            .field("mode", &self.mode)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::Attached;

    /// Compiles for types that may move to another thread.
    fn moves<T: Send>(none: Option<T>) -> bool {
        none.is_none()
    }

    #[test]
    fn a_source_moves_to_its_worker_and_the_program_to_whoever_stops_it() {
        assert!(moves(None::<XskSource>) && moves(None::<Program>) && moves(None::<Attached>));
    }

    #[test]
    fn a_jumbo_link_gets_more_frames() {
        let frames = |mtu| XskConfig::for_mtu(mtu).frames;
        assert_eq!((frames(1_500), frames(9_000)), (8_192, 32_768));
    }
}
