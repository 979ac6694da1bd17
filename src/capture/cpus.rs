//! Which CPU runs what.
//!
//! The rule: one worker, one core, and nothing else of ours on it. What is not a worker is confined to
//! the other cores before it starts a thread, so that the threads of libraries inherit that.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{info, warn};

/// The cores of the workers, in their order; empty where nothing is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan(Vec<usize>);

impl Plan {
    /// Chooses cores for `workers` workers out of those this process may use.
    ///
    /// `wanted` is the list of `--cpus`; a core that is not there is an error that names it. By default the
    /// first cores are taken, and none where there are not more cores than workers: two threads that
    /// spin or wait on one core slow each other down by far more than wandering costs.
    pub(super) fn new(wanted: Option<&[usize]>, workers: usize) -> Result<Self, String> {
        let mut cores: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect();
        cores.sort_unstable();
        Self::among(&cores, wanted, workers)
    }

    fn among(cores: &[usize], wanted: Option<&[usize]>, workers: usize) -> Result<Self, String> {
        if let Some(wanted) = wanted {
            if let Some(absent) = wanted.iter().find(|cpu| !cores.contains(cpu)) {
                return Err(format!(
                    "CPU {absent} is not among those this process may use: {cores:?}"
                ));
            }
            if wanted.len() < workers {
                return Err(format!(
                    "{} CPUs for {workers} workers: one each is needed",
                    wanted.len()
                ));
            }
            return Ok(Self(wanted[..workers].to_vec()));
        }
        if cores.len() <= workers {
            info!(
                workers,
                cores = cores.len(),
                "nothing is pinned: fewer cores than workers + 1"
            );
            return Ok(Self(Vec::new()));
        }
        Ok(Self(cores[..workers].to_vec()))
    }

    /// No core for anybody.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// The core of worker `worker`.
    pub(super) fn core(&self, worker: usize) -> Option<usize> {
        self.0.get(worker).copied()
    }

    /// Confines this thread, and those it makes from now on, to the cores that no worker has.
    ///
    /// Where the workers have them all, it does nothing.
    pub(super) fn stay_off(&self) {
        if self.0.is_empty() {
            return;
        }
        let confined = sched_getaffinity(Pid::from_raw(0)).and_then(|mut set| {
            for core in &self.0 {
                set.unset(*core)?;
            }
            let any = (0..CpuSet::count()).any(|cpu| set.is_set(cpu).unwrap_or(false));
            if any {
                sched_setaffinity(Pid::from_raw(0), &set)
            } else {
                Ok(())
            }
        });
        if let Err(cause) = confined {
            warn!(%cause, "the threads that are not workers may run on their cores");
        }
    }
}

/// Pins this thread to `core`, and makes sure that it is.
pub(super) fn pin(core: usize) -> io::Result<()> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let only =
            (0..CpuSet::count()).all(|cpu| set.is_set(cpu).unwrap_or(false) == (cpu == core));
        if only {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("CPU {core} refused")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_a_core_each_and_leave_one() {
        let plan = Plan::among(&[0, 1, 4], None, 2).unwrap();
        assert_eq!(
            (plan.core(0), plan.core(1), plan.core(2)),
            (Some(0), Some(1), None)
        );
        assert_eq!(Plan::among(&[0, 1], None, 2).unwrap(), Plan::none());
    }

    #[test]
    fn a_list_of_cpus_is_taken_as_written_or_refused_by_name() {
        assert_eq!(
            Plan::among(&[0, 1, 4], Some(&[4, 0]), 2).unwrap().core(0),
            Some(4)
        );
        assert!(
            Plan::among(&[0, 1], Some(&[7]), 1)
                .unwrap_err()
                .contains("CPU 7")
        );
        assert!(
            Plan::among(&[0, 1], Some(&[1]), 2)
                .unwrap_err()
                .contains("1 CPUs for 2 workers")
        );
    }
}
