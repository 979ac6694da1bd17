//! A packet socket: one system call for each frame, on any kernel and device, for any size.
//!
//! The rule: a frame that the device refused is the next one tried, so numbers leave in order.
//!
//! A veth device tells of a frame that its full peer dropped since Linux 6.6 ("veth: Fixing transmit
//! return status for dropped packets"); before, such a frame counts as sent.

#![allow(unsafe_code)] // nix has no safe way to make the address of an interface.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket};
use nix::time::{ClockId, clock_gettime};

use super::{GenerateError, Job, Progress, Transmit};
use crate::frames::{STAMPED, TAG_LEN, Table, number};

/// How many bursts a second carry a given rate, and the most frames in one of them: it must fit the
/// receiver's ring.
const BURSTS: u64 = 2_000;
const MOST_BURST: u64 = 1_024;

/// The longest stay in the engine: the stop flag is looked at outside.
const LOOK: Duration = Duration::from_millis(20);

/// The packet-socket engine of one thread.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    frames: Table,
    frame: Vec<u8>,
    /// Where the time stands, and the shortest frame that has it.
    time: Option<(usize, usize)>,
    rate: Option<u64>,
    begun: Option<Instant>,
    progress: Progress,
}

impl Socket {
    /// Opens a socket that sends out of the interface and receives nothing.
    pub(super) fn new(interface: &str, index: u32, job: &Job) -> Result<Self, GenerateError> {
        let failed = |errno: Errno| GenerateError::Socket {
            interface: interface.to_owned(),
            cause: errno.into(),
        };
        // No protocol: nothing is queued to this socket.
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(failed)?;
        bind(&socket, index).map_err(failed)?;
        let tag = if job.plan.vlan.is_some() { TAG_LEN } else { 0 };
        Ok(Self {
            socket,
            frames: job.plan.table(),
            frame: Vec::new(),
            time: job
                .stamp
                .then(|| (job.plan.sequence_at() + 16, tag + STAMPED)),
            rate: job.rate,
            begun: None,
            progress: Progress::default(),
        })
    }

    /// Sends `frames` frames; answers whether the device took all of them.
    fn burst(&mut self, frames: u64) -> bool {
        for _ in 0..frames {
            self.progress.next = self.progress.sent + 1;
            let Err(errno) = self.offer() else {
                self.progress.sent += 1;
                continue;
            };
            self.progress.refused += 1;
            self.progress.error = (errno != Errno::ENOBUFS).then_some(errno);
            return false;
        }
        true
    }

    /// Offers the lowest number that was not sent to the device.
    fn offer(&mut self) -> Result<(), Errno> {
        let mut frame = self.frames.frame(self.progress.sent);
        if let Some((at, shortest)) = self.time
            && frame.len() >= shortest
        {
            self.frame.clear();
            self.frame.extend_from_slice(frame);
            number(&mut self.frame[at..], monotonic());
            frame = &self.frame;
        }
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(|_| ())
    }
}

impl Transmit for Socket {
    fn work(&mut self, limit: u64, time: Duration) -> Result<Progress, GenerateError> {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let end = Instant::now() + time.min(LOOK);
        let burst = self
            .rate
            .map_or(MOST_BURST, |rate| (rate / BURSTS).clamp(1, MOST_BURST));
        while self.progress.sent < limit && Instant::now() < end {
            if let Some(rate) = self.rate {
                let due = begun + time_of(self.progress.sent, rate);
                thread::sleep(due.min(end).saturating_duration_since(Instant::now()));
                if due > end {
                    break;
                }
            }
            let taken = self.burst(burst.min(limit - self.progress.sent));
            self.progress.elapsed = begun.elapsed();
            if !taken {
                break;
            }
        }
        Ok(self.progress)
    }
}

/// When frame `number` is due, from the start.
fn time_of(number: u64, rate: u64) -> Duration {
    let rate = rate.max(1);
    let nanos = (number % rate).saturating_mul(1_000_000_000) / rate;
    Duration::from_secs(number / rate) + Duration::from_nanos(nanos)
}

/// CLOCK_MONOTONIC in nanoseconds, as `bpf_ktime_get_ns` has it.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0))
}

fn bind(socket: &OwnedFd, index: u32) -> Result<(), Errno> {
    let len = size_of::<libc::sockaddr_ll>();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("address families are small"),
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index).expect("the kernel's indexes are positive ints"),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = u32::try_from(len).expect("an address is short");
    // SAFETY: `address` is a whole sockaddr_ll of `len` bytes that lives through the call, and the
    // descriptor is open as long as `socket` is.
    let answer = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    Errno::result(answer).map(|_| ())
}
