//! How soon a thread gets a core that others want too.
//!
//! The rule: ask and go on. Where the system refuses, the thread stays as it is.
#![allow(unsafe_code, reason = "nix has no wrapper for setpriority")]

/// For whoever only watches: the weakest there is, weight 15 against 1,024 (`sched_prio_to_weight`,
/// kernel/sched/core.c).
pub(crate) const WATCHER: i32 = 19;

/// For a capture worker: weight 9,548. It needs a small part of a core, but at once: a ring that nobody
/// empties for some milliseconds overflows. Needs `CAP_SYS_NICE`.
pub(crate) const WORKER: i32 = -10;

/// Gives the calling thread this niceness.
pub(crate) fn set(niceness: i32) {
    // SAFETY: setpriority takes three integers and touches no memory; for PRIO_PROCESS, 0 is the
    // calling thread (setpriority(2), "C library/kernel differences").
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    if set != 0 {
        tracing::debug!(cause = %std::io::Error::last_os_error(), niceness, "setting a priority");
    }
}
