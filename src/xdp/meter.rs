//! What the programs counted on one queue, read from user space.
//!
//! The rule: every figure is a sum over CPUs of counters that only grow, so it only grows too.

use std::io;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

/// The counts of one queue since the program was loaded, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Frames the program saw.
    pub(crate) seen: u64,
    /// Frames it redirected.
    pub(crate) redirected: u64,
    /// Frames it passed to the stack for want of a socket.
    pub(crate) passed: u64,
    /// Frames whose redirect it was refused, passed to the stack.
    pub(crate) aborted: u64,
    /// Redirected frames that the kernel then refused; 0 where nobody watches.
    pub(crate) redirect_errors: u64,
}

/// Reads the counts of one queue, and can take its socket out of the program's hands.
#[derive(Debug)]
pub(crate) struct Meter {
    queue: [u8; 4],
    left_out: Vec<[u8; 4]>,
    sockets: MapHandle,
    counts: MapHandle,
    errors: Option<MapHandle>,
}

impl Meter {
    /// A meter with handles of its own to the maps, so that it can outlive the program's owner.
    pub(super) fn new(
        queue: u32,
        left_out: &[u32],
        sockets: &MapHandle,
        counts: &MapHandle,
        errors: Option<&MapHandle>,
    ) -> io::Result<Self> {
        let copy = |map: &MapHandle| {
            MapHandle::try_from(map).map_err(|cause| io::Error::other(cause.to_string()))
        };
        Ok(Self {
            queue: queue.to_ne_bytes(),
            left_out: left_out.iter().map(|queue| queue.to_ne_bytes()).collect(),
            sockets: copy(sockets)?,
            counts: copy(counts)?,
            errors: errors.map(copy).transpose()?,
        })
    }

    /// The counts now; frames on queues left out are among those seen and passed.
    pub(crate) fn read(&self) -> io::Result<Tally> {
        let [redirect_errors] = match &self.errors {
            Some(errors) => sum(errors, &self.queue)?,
            None => [0],
        };
        let [seen, redirected, passed, aborted] = sum(&self.counts, &self.queue)?;
        let mut tally = Tally {
            seen,
            redirected,
            passed,
            aborted,
            redirect_errors,
        };
        for queue in &self.left_out {
            let [seen, _, passed, _] = sum(&self.counts, queue)?;
            tally.seen += seen;
            tally.passed += passed;
        }
        Ok(tally)
    }

    /// Sends further frames of the queue to the stack.
    pub(crate) fn unregister(&self) {
        // The entry is gone already where the device is: the kernel clears it with the socket.
        let _ = self.sockets.delete(&self.queue);
    }
}

/// Adds up, over CPUs, the value of `queue`, made of `N` counters (`struct queue_counts` of `bpf/ringtap.h`).
fn sum<const N: usize>(map: &MapHandle, queue: &[u8]) -> io::Result<[u64; N]> {
    let cpus = map
        .lookup_percpu(queue, MapFlags::ANY)
        .map_err(|cause| io::Error::other(cause.to_string()))?
        .ok_or(io::ErrorKind::NotFound)?;
    let mut sums = [0; N];
    for cpu in &cpus {
        for (sum, bytes) in sums.iter_mut().zip(cpu.chunks_exact(8)) {
            *sum += u64::from_ne_bytes(bytes.try_into().expect("chunks are of 8 bytes"));
        }
    }
    Ok(sums)
}
