//! Live frames: the kernel makes them, our program numbers them and redirects them to the device.
//!
//! The rule: the program and the kernel's tracepoints keep the account; this side only reads it, after
//! a call has returned and every frame of it has its answer.

use std::fmt;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{ErrorKind, Link, MapCore, MapFlags, OpenObject, ProgramInput};
use nix::errno::Errno;

use super::skeleton::{GenerateSkel, GenerateSkelBuilder};
use super::{GenerateError, Job, Progress, Transmit};
use crate::frames::{SLOTS, STAMPED, TAG_LEN};

/// The longest live frame in bytes, tag included: the room of an entry of the program's table.
pub const LONGEST_LIVE: usize = 2_096;

/// Before the frame in an entry of the table: its length, where its number and its time stand, a rest.
const ENTRY_HEAD: usize = 16;

/// `BPF_F_TEST_XDP_LIVE_FRAMES` of `linux/bpf.h`.
const LIVE_FRAMES: u32 = 1 << 1;

/// `FRACTION` of `generate.bpf.c`.
const FRACTION: u32 = 12;

/// How often the program runs in the first call: some 30 ms of sending, some 100 ms of mostly empty
/// turns. And how often at least and at most in any.
const FIRST_TURNS: u32 = 65_536;
const FIRST_PACED_TURNS: u32 = 1 << 21;
const FEWEST_TURNS: u32 = 1_024;
const MOST_TURNS: u32 = 1 << 30;

const ONLY: [u8; 4] = [0; 4];

/// The live-frame engine of one thread.
pub(super) struct Live<'obj> {
    skeleton: GenerateSkel<'obj>,
    _answers: [Link; 2],
    /// The frame the kernel makes its pages from: as long as the longest, so that ours only shrink.
    blank: Vec<u8>,
    interval: u64,
    /// How often the program ran in the last call, and how long that took.
    last: (u32, Duration),
    interface: String,
}

impl fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("interface", &self.interface)
            .finish_non_exhaustive()
    }
}

impl<'obj> Live<'obj> {
    /// Loads the program with the frames of the job's plan, each at most [`LONGEST_LIVE`] bytes long.
    pub(super) fn new(
        storage: &'obj mut MaybeUninit<OpenObject>,
        interface: &str,
        index: u32,
        job: &Job,
    ) -> Result<Self, GenerateError> {
        let failed = |doing| {
            let interface = interface.to_owned();
            move |cause| GenerateError::Bpf {
                doing,
                interface,
                cause,
            }
        };
        let mut open = GenerateSkelBuilder::default()
            .open(storage)
            .map_err(failed("opening the generator program"))?;
        open.progs.tally.set_autoload(false);
        let skeleton = open
            .load()
            .map_err(failed("loading the generator program"))?;
        skeleton
            .maps
            .device
            .update(&ONLY, &index.to_ne_bytes(), MapFlags::ANY)
            .map_err(failed("setting the device to redirect to"))?;
        let answers = [
            skeleton.progs.answer.attach(),
            skeleton.progs.no_answer.attach(),
        ];
        let [answer, no_answer] =
            answers.map(|link| link.map_err(failed("attaching to the kernel's XDP tracepoints")));

        let mut frames = job.plan.table();
        let mut entry = vec![0; ENTRY_HEAD + LONGEST_LIVE];
        for slot in 0..SLOTS as u64 {
            fill(&mut entry, frames.frame(slot), job);
            let key = u32::try_from(slot)
                .expect("there are few slots")
                .to_ne_bytes();
            skeleton
                .maps
                .table
                .update(&key, &entry, MapFlags::ANY)
                .map_err(failed("filling the frame table"))?;
        }
        Ok(Self {
            skeleton,
            _answers: [answer?, no_answer?],
            blank: vec![0; job.plan.longest()],
            interval: job
                .rate
                .map_or(0, |rate| (1_000_000_000 << FRACTION) / rate.max(1)),
            last: (0, Duration::ZERO),
            interface: interface.to_owned(),
        })
    }

    /// How often the program may run in `time`, as the last call tells.
    ///
    /// At most eight times as often as then: a short call is mostly waiting, and says little.
    fn turns(&self, time: Duration) -> u32 {
        let (turns, elapsed) = self.last;
        if turns == 0 {
            return self.first_turns();
        }
        let fit = u128::from(turns) * time.as_nanos() / elapsed.as_nanos().max(1);
        let most = turns
            .saturating_mul(8)
            .clamp(self.first_turns(), MOST_TURNS);
        u32::try_from(fit).unwrap_or(most).clamp(FEWEST_TURNS, most)
    }

    fn first_turns(&self) -> u32 {
        if self.interval == 0 {
            FIRST_TURNS
        } else {
            FIRST_PACED_TURNS
        }
    }

    fn progress(&self) -> Result<Progress, GenerateError> {
        let state = self.skeleton.maps.states.lookup(&ONLY, MapFlags::ANY);
        let state = state.map_err(|cause| self.failed("reading the generator's state", cause))?;
        let state = state.expect("an array map has every entry");
        let number = |at: usize| {
            u64::from_ne_bytes(
                *state[at..]
                    .first_chunk()
                    .expect("the state is longer than this"),
            )
        };
        let error = state[40..]
            .first_chunk()
            .expect("the state is longer than this");
        let error = i32::from_ne_bytes(*error);
        Ok(Progress {
            next: number(0),
            sent: number(8),
            refused: number(16),
            error: (error != 0).then(|| Errno::from_raw(-error)),
            elapsed: Duration::from_nanos(number(32).saturating_sub(number(24))),
        })
    }

    fn failed(&self, doing: &'static str, cause: libbpf_rs::Error) -> GenerateError {
        GenerateError::Bpf {
            doing,
            interface: self.interface.clone(),
            cause,
        }
    }
}

impl Transmit for Live<'_> {
    fn work(&mut self, limit: u64, time: Duration) -> Result<Progress, GenerateError> {
        let before = self.progress()?;
        let mut order = [0; 16];
        order[..8].copy_from_slice(&limit.to_ne_bytes());
        order[8..].copy_from_slice(&self.interval.to_ne_bytes());
        self.skeleton
            .maps
            .orders
            .update(&ONLY, &order, MapFlags::ANY)
            .map_err(|cause| self.failed("ordering frames", cause))?;

        let left = limit.saturating_sub(before.sent);
        let turns = if self.interval == 0 {
            u64::from(self.turns(time)).min(left)
        } else {
            let due = Duration::from_nanos(left.saturating_mul(self.interval) >> FRACTION);
            u64::from(self.turns(time.min(due)))
        };
        let turns = u32::try_from(turns).expect("this is no more than MOST_TURNS");
        let begun = Instant::now();
        let input = ProgramInput {
            data_in: Some(&self.blank),
            flags: LIVE_FRAMES,
            repeat: turns,
            ..ProgramInput::default()
        };
        match self.skeleton.progs.generate.test_run(input) {
            // A signal ends the call early; the state tells how far it came.
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(self.failed("running the generator program", error));
            }
            _ => (),
        }
        if turns >= FEWEST_TURNS {
            self.last = (turns, begun.elapsed());
        }
        self.progress()
    }
}

/// Writes one entry of the table: `struct frame` of `generate.bpf.c`.
fn fill(entry: &mut [u8], frame: &[u8], job: &Job) {
    let tag = if job.plan.vlan.is_some() { TAG_LEN } else { 0 };
    let sequence_at = job.plan.sequence_at();
    let stamped = job.stamp && frame.len() - tag >= STAMPED;
    let time_at = if stamped { sequence_at + 16 } else { 0 };
    for (field, value) in entry.chunks_mut(4).zip([frame.len(), sequence_at, time_at]) {
        let value = u32::try_from(value).expect("no frame is longer than MAX");
        field.copy_from_slice(&value.to_ne_bytes());
    }
    entry[ENTRY_HEAD..][..frame.len()].copy_from_slice(frame);
}
