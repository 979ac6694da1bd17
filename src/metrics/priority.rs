//! The serving thread's place: behind everything else.
//!
//! The rule: it gives way. Where the system refuses, it goes on as it is.
#![allow(unsafe_code, reason = "nix has no wrapper for setpriority")]

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The weakest priority there is: weight 15 against 1,024 (`sched_prio_to_weight`,
/// kernel/sched/core.c).
const NICENESS: i32 = 19;

/// Gives the calling thread the weakest priority, and `cores` to run on where there are any.
pub(super) fn lower(cores: &[usize]) {
    // SAFETY: setpriority takes three integers and touches no memory; for PRIO_PROCESS, 0 is the
    // calling thread (setpriority(2), "C library/kernel differences").
    let lowered = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    if lowered != 0 {
        tracing::debug!(cause = %std::io::Error::last_os_error(), "lowering a priority");
    }
    if cores.is_empty() {
        return;
    }
    let mut set = CpuSet::new();
    let chosen = cores.iter().try_for_each(|&core| set.set(core));
    if let Err(cause) = chosen.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)) {
        tracing::warn!(%cause, ?cores, "keeping the metrics thread off the capture cores");
    }
}
