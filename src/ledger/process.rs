//! What this process has used, as the kernel says.
//!
//! The rule: figures that cannot be had are 0 or empty; the ledger never ends for their sake.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;

/// Processor time of all threads in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuSeconds {
    /// In user space.
    pub user: f64,
    /// In the kernel on our behalf; softirq work is in nobody's figure.
    pub system: f64,
}

impl CpuSeconds {
    /// What was used until now, by getrusage(2).
    pub(crate) fn now() -> Self {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
            return Self::default();
        };
        Self {
            user: seconds(usage.user_time()),
            system: seconds(usage.system_time()),
        }
    }
}

fn seconds(time: TimeVal) -> f64 {
    let micros = u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec());
    std::time::Duration::from_micros(micros.unwrap_or(0)).as_secs_f64()
}

/// The resident memory in bytes: `VmRSS` of proc_pid_status(5).
pub(crate) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1_024
}

/// The kernel's release, as `uname -r` gives it.
pub(crate) fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}
