//! The generator: sends numbered frames out of an interface and knows which of them went.
//!
//! The rule: a frame is sent when the device took it, and then only once. What the device refuses is
//! sent again under its number before anything new, so the numbers that were sent are 0 to `frames`,
//! without a gap, however full the receiver was.
//!
//! Engines: live frames ([`Engine::Live`], some million frames a second), and a packet socket for what
//! those cannot do: frames beyond [`LONGEST_LIVE`], receivers that take no XDP frames, older kernels.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::OpenObject;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::frames::{Plan, Size};

mod live;
#[cfg(test)]
mod root;
#[allow(unsafe_code)]
mod skeleton;
mod socket;
mod tally;

pub use live::LONGEST_LIVE;
pub use tally::{Arrived, Tally};

/// How long an engine works before the stop flag is looked at. A call of the live engine costs 25 ms
/// of waiting (RCU, in `bpf_prog_change_xdp`), so it must be long.
const SLICE: Duration = Duration::from_millis(400);

/// Up to this many frames a second a packet socket is chosen. Live frames are paced by spinning, which
/// takes a whole core at any rate; a socket takes 1 to 2 µs for each frame, and sleeps.
const SOCKET_RATE: u64 = 200_000;

/// How long the generator waits before it offers a frame again to a device that took none.
const RETRY: Duration = Duration::from_micros(100);

/// How frames leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// `BPF_F_TEST_XDP_LIVE_FRAMES`: frames made in the kernel, redirected to the device. Linux 5.18;
    /// on a veth pair the peer needs a native XDP program or GRO.
    Live,
    /// One system call for each frame.
    Socket,
}

/// What one sending thread does.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it sends.
    pub plan: Plan,
    /// How many frames; without a number, until `duration` is over or it is stopped.
    pub count: Option<u64>,
    /// For how long.
    pub duration: Option<Duration>,
    /// Frames per second; without a number, all that the device takes. With a duration too, the count
    /// is at most their product.
    pub rate: Option<u64>,
    /// The CPU it is bound to. The queue that is hit on a veth peer is this, modulo the queues.
    pub cpu: Option<usize>,
    /// Whether frames of 76 bytes and more carry the time they were made.
    pub stamp: bool,
    /// How they leave; without a choice, live frames where they can and the rate is above 200,000.
    pub engine: Option<Engine>,
    /// How long a device may take nothing, be it down or full, before that is an error.
    pub patience: Duration,
}

impl Default for Job {
    /// Short frames of stream 0 at full speed, without end.
    fn default() -> Self {
        Self {
            plan: Plan::new(0, Size::Fixed(60)),
            count: None,
            duration: None,
            rate: None,
            cpu: None,
            stamp: false,
            engine: None,
            patience: Duration::from_secs(2),
        }
    }
}

impl Job {
    /// `count` frames at full speed.
    pub fn new(plan: Plan, count: u64) -> Self {
        Self {
            plan,
            count: Some(count),
            ..Self::default()
        }
    }

    /// How many frames it sends if nothing ends it.
    fn wanted(&self) -> u64 {
        let all = self.count.unwrap_or(u64::MAX);
        let (Some(rate), Some(duration)) = (self.rate, self.duration) else {
            return all;
        };
        let product = u128::from(rate) * duration.as_nanos() / 1_000_000_000;
        all.min(u64::try_from(product).unwrap_or(u64::MAX))
    }
}

/// What one thread sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sent {
    /// The stream.
    pub stream: u32,
    /// Frames that the device took: those numbered 0 to `frames`, each once.
    pub frames: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// How often the device refused a frame; each was then sent again, or is in no figure above.
    pub refused: u64,
    /// From the first frame to the last.
    pub seconds: f64,
    /// How they left.
    pub engine: Engine,
}

/// Why frames could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// There is no such interface in this network namespace.
    #[error("looking up interface {interface}")]
    Interface {
        /// As given.
        interface: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// A BPF program or map could not be used.
    #[error("{doing} for interface {interface}")]
    Bpf {
        /// What was being done.
        doing: &'static str,
        /// The interface.
        interface: String,
        /// What libbpf or the kernel said.
        #[source]
        cause: libbpf_rs::Error,
    },
    /// The packet socket could not be opened.
    #[error("opening a packet socket on interface {interface}")]
    Socket {
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The thread could not be bound to its CPU.
    #[error("binding the generator to CPU {cpu}")]
    Pin {
        /// The CPU.
        cpu: usize,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// A frame is longer than the engine takes.
    #[error("frames of {len} bytes: live frames have at most {LONGEST_LIVE}")]
    TooLong {
        /// The longest frame of the plan.
        len: usize,
    },
    /// The device took no frame for as long as the job's patience.
    #[error(
        "interface {interface} takes no frames; it took {sent}, and then refused {open} for good"
    )]
    Refused {
        /// The interface.
        interface: String,
        /// Frames it took before.
        sent: u64,
        /// Frames that were numbered and never taken; any of the numbers up to `sent + open`.
        open: u64,
        /// Why it took none.
        #[source]
        cause: io::Error,
    },
}

/// How far an engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// The lowest number that was never tried.
    next: u64,
    /// Frames the device took.
    sent: u64,
    /// Times it did not.
    refused: u64,
    /// Why it last did not; `None` where it was full.
    error: Option<Errno>,
    /// From the first attempt to the last frame the device took.
    elapsed: Duration,
}

/// Hands numbered frames to a device, at the rate of its job.
trait Transmit {
    /// Sends the frames numbered below `limit` that the device did not take yet, those it refused
    /// first; returns when all are sent, when `time` is about over, or when the device took none.
    fn work(&mut self, limit: u64, time: Duration) -> Result<Progress, GenerateError>;
}

/// Sends what `jobs` say out of `interface`, each in a thread of its own, and returns when all are
/// done or `stop` is set.
///
/// The interface is looked up in the caller's network namespace. No thread begins before all are
/// ready; if one cannot, none sends.
pub fn run(interface: &str, jobs: &[Job], stop: &AtomicBool) -> Result<Vec<Sent>, GenerateError> {
    let index = if_nametoindex(interface).map_err(|errno| GenerateError::Interface {
        interface: interface.to_owned(),
        cause: errno.into(),
    })?;
    let start = Start {
        interface,
        index,
        ready: Barrier::new(jobs.len()),
        broken: AtomicBool::new(false),
        stop,
    };
    thread::scope(|scope| {
        let threads: Vec<_> = jobs
            .iter()
            .map(|job| scope.spawn(|| start.send(job)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a sending thread does not panic"))
            .collect::<Result<Vec<_>, _>>()
            .map(|sent| sent.into_iter().flatten().collect())
    })
}

/// What the threads of one run share.
struct Start<'a> {
    interface: &'a str,
    index: u32,
    ready: Barrier,
    broken: AtomicBool,
    stop: &'a AtomicBool,
}

impl Start<'_> {
    /// Prepares, waits for the others, and sends; `None` where another could not be prepared.
    fn send(&self, job: &Job) -> Result<Option<Sent>, GenerateError> {
        let mut storage = MaybeUninit::uninit();
        let prepared = pin(job.cpu).and_then(|()| self.prepare(job, &mut storage));
        self.broken.fetch_or(prepared.is_err(), Ordering::AcqRel);
        self.ready.wait();
        let live = prepared?;
        if self.broken.load(Ordering::Acquire) {
            return Ok(None);
        }
        let Some(mut live) = live else {
            return self.send_by_socket(job).map(Some);
        };
        match self.drive(&mut live, job, Engine::Live) {
            Err(GenerateError::Refused { sent: 0, cause, .. }) if job.engine.is_none() => {
                tracing::info!(
                    interface = self.interface,
                    %cause,
                    "no receiver for XDP frames; sending through a packet socket"
                );
                self.send_by_socket(job).map(Some)
            }
            done => done.map(Some),
        }
    }

    /// The live engine, or `None` where the packet socket is to be used.
    fn prepare<'obj>(
        &self,
        job: &Job,
        storage: &'obj mut MaybeUninit<OpenObject>,
    ) -> Result<Option<live::Live<'obj>>, GenerateError> {
        let len = job.plan.longest();
        let slow = job.rate.is_some_and(|rate| rate <= SOCKET_RATE);
        let engine = match job.engine {
            None if slow || len > LONGEST_LIVE => Engine::Socket,
            choice => choice.unwrap_or(Engine::Live),
        };
        if engine == Engine::Socket {
            return Ok(None);
        }
        if len > LONGEST_LIVE {
            return Err(GenerateError::TooLong { len });
        }
        match live::Live::new(storage, self.interface, self.index, job) {
            Err(error) if job.engine.is_none() => {
                tracing::warn!(
                    interface = self.interface,
                    error = &error as &dyn std::error::Error,
                    "no live frames; sending through a packet socket"
                );
                Ok(None)
            }
            made => made.map(Some),
        }
    }

    fn send_by_socket(&self, job: &Job) -> Result<Sent, GenerateError> {
        let mut socket = socket::Socket::new(self.interface, self.index, job)?;
        self.drive(&mut socket, job, Engine::Socket)
    }

    /// Sends slice after slice until the job is done and nothing refused is left.
    fn drive(
        &self,
        engine: &mut impl Transmit,
        job: &Job,
        name: Engine,
    ) -> Result<Sent, GenerateError> {
        let begun = Instant::now();
        let end = job.duration.map(|duration| begun + duration);
        let wanted = job.wanted();
        let mut lively = begun;
        let mut done = Progress::default();
        loop {
            let now = Instant::now();
            let left = end.map_or(SLICE, |end| end.saturating_duration_since(now));
            let over = left.is_zero() || self.stop.load(Ordering::Relaxed);
            let limit = if over { done.next } else { wanted };
            if done.sent == limit {
                break;
            }
            let time = if over { SLICE } else { left.min(SLICE) };
            let after = engine.work(limit, time)?;
            let stuck = after.sent == done.sent && after.refused > done.refused;
            done = after;
            if !stuck {
                lively = Instant::now();
                continue;
            }
            if lively.elapsed() >= job.patience || (name == Engine::Live && hopeless(&done)) {
                return Err(self.refused(&done));
            }
            thread::sleep(RETRY);
        }
        Ok(Sent {
            stream: job.plan.stream,
            frames: done.sent,
            bytes: job.plan.bytes(done.sent),
            refused: done.refused,
            seconds: done.elapsed.as_secs_f64(),
            engine: name,
        })
    }

    fn refused(&self, done: &Progress) -> GenerateError {
        GenerateError::Refused {
            interface: self.interface.to_owned(),
            sent: done.sent,
            open: done.next - done.sent,
            cause: done.error.unwrap_or(Errno::ENOBUFS).into(),
        }
    }
}

/// Whether a device that took no live frame yet will take none: it cannot send XDP frames (EOPNOTSUPP),
/// or its peer cannot receive them (ENXIO).
fn hopeless(done: &Progress) -> bool {
    done.sent == 0 && matches!(done.error, Some(Errno::EOPNOTSUPP | Errno::ENXIO))
}

fn pin(cpu: Option<usize>) -> Result<(), GenerateError> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| GenerateError::Pin {
            cpu,
            cause: errno.into(),
        })
}
