//! The capabilities that a step needs, and those the process lacks.
//!
//! The rule: this only explains a refusal after the fact; what is allowed, the kernel decides.

use std::fs;

/// A capability: its bit in `CapEff` and its name (linux/capability.h).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capability(u8, &'static str);

/// Configures interfaces, attaches XDP programs.
pub(crate) const NET_ADMIN: Capability = Capability(12, "CAP_NET_ADMIN");
/// Opens AF_XDP sockets.
pub(crate) const NET_RAW: Capability = Capability(13, "CAP_NET_RAW");
/// Locks memory beyond the limit.
pub(crate) const IPC_LOCK: Capability = Capability(14, "CAP_IPC_LOCK");
/// Loads programs that trace, as the one that counts the kernel's refused redirects.
pub(crate) const PERFMON: Capability = Capability(38, "CAP_PERFMON");
/// Loads programs, makes maps.
pub(crate) const BPF: Capability = Capability(39, "CAP_BPF");

/// The names of those of `needs` that this thread does not hold; all of them where it cannot be told.
pub(crate) fn missing(needs: &[Capability]) -> Vec<&'static str> {
    let held = effective().unwrap_or(0);
    needs
        .iter()
        .filter(|Capability(bit, _)| held & (1 << bit) == 0)
        .map(|Capability(_, name)| *name)
        .collect()
}

/// `needs` and what is missing of them, as text.
pub(super) fn describe(needs: &[Capability]) -> (String, String) {
    let names: Vec<_> = needs.iter().map(|Capability(_, name)| *name).collect();
    let missing = missing(needs);
    let lacks = match missing.is_empty() {
        true => "a right the kernel does not name".to_owned(),
        false => listed(&missing),
    };
    (listed(&names), lacks)
}

/// `A, B and C`.
fn listed(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        few => few.concat(),
    }
}

/// The effective capabilities of this thread.
fn effective() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_beyond_all_capabilities_is_reported_missing_by_its_name() {
        assert_eq!(
            missing(&[Capability(63, "CAP_OF_TOMORROW")]),
            ["CAP_OF_TOMORROW"]
        );
        assert!(effective().is_some());
    }

    #[test]
    fn names_are_listed_as_people_do() {
        assert_eq!(listed(&[]), "");
        assert_eq!(listed(&["A"]), "A");
        assert_eq!(listed(&["A", "B"]), "A and B");
        assert_eq!(listed(&["A", "B", "C"]), "A, B and C");
    }
}
