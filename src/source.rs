//! Where packets come from: the left seam of the pipeline.
//!
//! The rule: a source pushes packets and knows nothing of what becomes of them. It is owned and
//! driven by one worker thread; the backend is chosen once, at start, so that `recv` is generic
//! code and no packet costs a virtual call.

pub mod file;
pub mod pace;
pub mod pcap;
pub mod printing;
pub mod synthetic;
pub mod xsk;

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::counters::{QueueCounters, QueueState};
use crate::packet::Packet;

/// What one [`Source::recv`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    /// This many packets were taken; there may be more at once.
    Packets(usize),
    /// Nothing is there now.
    Empty,
    /// `take` refused a packet; it and what follows stay with the source and are offered again.
    Refused(usize),
    /// Nothing is there and nothing will ever come: the end of a file, or of a source that was stopped.
    End,
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The device went away for good.
    #[error("interface {interface} is gone")]
    Gone {
        /// Its name.
        interface: String,
    },
    /// A capture file is damaged or cut short; everything before the damage was offered.
    #[error("{file}: damaged at byte {offset}: {what}")]
    Damaged {
        /// The file's path, `-` for standard input.
        file: String,
        /// Where the damaged part begins, in bytes of the uncompressed stream.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// The kernel or a library refused an operation that should work.
    #[error("{doing}")]
    Io {
        /// What was being done, with the interface and queue or the file.
        doing: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// A place packets come from, driven by one worker.
pub trait Source {
    /// Offers each packet of one burst to `take`, in order.
    ///
    /// Never waits. A packet's bytes are valid only inside the call of `take`. When `take` breaks,
    /// that packet and the rest of the burst stay with the source and are offered again, unchanged.
    /// Frames of packets that were taken are back with the kernel before this returns.
    fn recv(
        &mut self,
        take: &mut impl FnMut(&Packet<'_>) -> ControlFlow<()>,
    ) -> Result<Burst, SourceError>;

    /// Sleeps until a packet may be there, at most `limit`; may return early.
    ///
    /// `spent` tells how long nothing has come, so that the source can choose between a nap and a wait
    /// on the kernel.
    fn wait(&mut self, limit: Duration, spent: Duration) -> Result<(), SourceError>;

    /// Brings the source's own figures up to date in `counters`: kernel drops, program counts.
    ///
    /// Called by the worker a few times a second and once after the drain; single writer.
    fn account(&mut self, counters: &QueueCounters);

    /// What it is doing, as far as its last [`account`](Self::account) knows: [`QueueState::Up`], or
    /// [`QueueState::Down`] while the link is.
    fn state(&self) -> QueueState {
        QueueState::Up
    }

    /// How old a packet can be when it is first offered although `recv` had nothing just before:
    /// what the kernel holds back to fill a block, and the error of the clock.
    fn lag(&self) -> Duration {
        Duration::from_millis(1)
    }

    /// Begins the drain: no packet that arrives after this call need be offered, every one that
    /// arrived before it is. After it, `recv` answers [`Burst::End`] once nothing is left and the
    /// kernel's counters stand still.
    fn stop(&mut self) -> Result<(), SourceError>;

    /// Counts the packets that arrived and were not received, where the drain is cut short; the worker
    /// receives none after it.
    fn left(&mut self) -> u64
    where
        Self: Sized,
    {
        let mut left = 0;
        let mut count = |_: &Packet<'_>| {
            left += 1;
            ControlFlow::Continue(())
        };
        while let Ok(Burst::Packets(_)) = self.recv(&mut count) {}
        left
    }
}
