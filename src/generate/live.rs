//! Live frames: the kernel makes them, our program numbers them and redirects them to the device.
//!
//! The rule: the program and the kernel's tracepoints keep the account; this side only reads it, after
//! a call has returned and every frame of it has its answer.

use std::fmt;
use std::mem::MaybeUninit;

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

const ONLY: [u8; 4] = [0; 4];

/// The live-frame engine of one thread.
pub(super) struct Live<'obj> {
    skeleton: GenerateSkel<'obj>,
    _answers: [Link; 2],
    /// The frame the kernel makes its pages from: as long as the longest, so that ours only shrink.
    blank: Vec<u8>,
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
        open.progs.drain.set_autoload(false);
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
            interface: interface.to_owned(),
        })
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
        let error = state[32..]
            .first_chunk()
            .expect("the state is longer than this");
        let error = i32::from_ne_bytes(*error);
        Ok(Progress {
            next: number(0),
            sent: number(8),
            refused: number(16),
            error: (error != 0).then(|| Errno::from_raw(-error)),
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
    fn burst(&mut self, frames: u64) -> Result<Progress, GenerateError> {
        let input = ProgramInput {
            data_in: Some(&self.blank),
            flags: LIVE_FRAMES,
            repeat: u32::try_from(frames).unwrap_or(u32::MAX >> 1),
            ..ProgramInput::default()
        };
        match self.skeleton.progs.generate.test_run(input) {
            // A signal ends the call early; the state tells how far it came.
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(self.failed("running the generator program", error))
            }
            _ => self.progress(),
        }
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
