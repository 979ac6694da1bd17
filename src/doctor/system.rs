//! Checks of the machine and of the rights of this process.
//!
//! The rule: what only AF_XDP needs is a failure with `--mode xdp` and a warning with `--mode auto`,
//! which then uses libpcap; with `--mode pcap` it is not looked at.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;

use crate::cli::capture::Mode;
use crate::doctor::report::{Check, Report, Status};
use crate::nic::offload;

/// bpf_link for XDP, and the statistics that tell full rings apart (XDP_STATISTICS), came with 5.9.
const KERNEL: (u32, u32) = (5, 9);
/// The UMEM of one queue: 8,192 frames of 2,048 bytes, the default.
const UMEM: u64 = 8_192 * 2_048;

const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const IPC_LOCK: u32 = 14;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

pub(crate) fn examine(mode: Mode, report: &mut Report) {
    let held = capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    let mut add = |check| report.add("system", check);
    add(rights(held, mode));
    if mode != Mode::Pcap {
        let release = uname()
            .map(|names| names.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        add(kernel(&release, mode));
        add(btf(Path::new("/sys/kernel/btf/vmlinux").exists(), mode));
        add(memlock(held, mode));
        add(jit());
    }
    add(left_over());
}

/// How bad the lack of something is that only AF_XDP needs.
pub(crate) fn lack(mode: Mode) -> Status {
    match mode {
        Mode::Xdp => Status::Fail,
        Mode::Auto | Mode::Pcap => Status::Warn,
    }
}

fn lacking(mode: Mode, name: &'static str, finding: String) -> Check {
    match lack(mode) {
        Status::Fail => Check::fail(name, finding),
        _ => Check::warn(name, format!("{finding}; --mode auto uses libpcap")),
    }
}

fn rights(held: u64, mode: Mode) -> Check {
    let has = |capability: u32| held & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    if mode != Mode::Pcap {
        if !has(NET_ADMIN) {
            missing.push("CAP_NET_ADMIN");
        }
        if !has(SYS_ADMIN) {
            missing.extend((!has(BPF)).then_some("CAP_BPF"));
            missing.extend((!has(PERFMON)).then_some("CAP_PERFMON"));
        }
    }
    let name = "capabilities";
    if missing.is_empty() {
        return Check::ok(name, "all that a capture needs");
    }
    let finding = format!("lacks {}", missing.join(", "));
    let check = if has(NET_RAW) {
        lacking(mode, name, finding)
    } else {
        Check::fail(name, finding)
    };
    check.mend(
        "setcap cap_net_raw,cap_net_admin,cap_bpf,cap_perfmon,cap_ipc_lock+ep \
         \"$(command -v ringtap)\" (or run it as root)",
    )
}

fn kernel(release: &str, mode: Mode) -> Check {
    let Some(version) = version(release) else {
        return Check::warn(
            "kernel",
            format!("{release:?}: no version to be read from it"),
        );
    };
    if version >= KERNEL {
        return Check::ok("kernel", release);
    }
    let (major, minor) = KERNEL;
    lacking(
        mode,
        "kernel",
        format!("{release}: AF_XDP capture needs {major}.{minor} or later"),
    )
    .mend("install a later kernel")
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the running kernel is at least this one; true where its version cannot be read.
pub(crate) fn kernel_is_at_least(wanted: (u32, u32)) -> bool {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned());
    release
        .ok()
        .and_then(|release| version(&release))
        .is_none_or(|have| have >= wanted)
}

fn btf(there: bool, mode: Mode) -> Check {
    if there {
        return Check::ok("btf", "the kernel describes its types");
    }
    lacking(
        mode,
        "btf",
        "/sys/kernel/btf/vmlinux is missing: the XDP program cannot be fitted to this kernel"
            .into(),
    )
    .mend("boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or mount -t sysfs sysfs /sys")
}

fn memlock(held: u64, mode: Mode) -> Check {
    if held & (1 << IPC_LOCK) != 0 {
        return Check::ok("memlock", "no limit (CAP_IPC_LOCK)");
    }
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Check::warn("memlock", "the limit cannot be read");
    };
    let mib = limit >> 20;
    if limit >= UMEM {
        return Check::ok("memlock", format!("{mib} MiB: {} queues", limit / UMEM));
    }
    let needed = UMEM >> 20;
    lacking(
        mode,
        "memlock",
        format!("{mib} MiB; each queue takes {needed} MiB"),
    )
    .mend("ulimit -l unlimited (in a systemd unit: LimitMEMLOCK=infinity)")
}

fn jit() -> Check {
    let setting = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    if setting.trim() == "0" {
        return Check::warn(
            "bpf jit",
            "off: the XDP program is interpreted, several times slower",
        )
        .mend("sysctl -w net.core.bpf_jit_enable=1");
    }
    Check::ok("bpf jit", "on")
}

fn left_over() -> Check {
    let notes = offload::left_over();
    if notes.is_empty() {
        return Check::ok("left over", "nothing by a killed sensor");
    }
    let list: Vec<_> = notes
        .iter()
        .map(|note| {
            format!(
                "{} off on {}",
                offload::names(&note.switched_off),
                note.interface
            )
        })
        .collect();
    Check::warn(
        "left over",
        format!("a killed sensor left {}", list.join("; ")),
    )
    .mend("ringtap doctor --restore")
}

/// The effective set of a process, from its `/proc/PID/status`.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_first_two_numbers_of_the_release() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("5.9-rc1"), Some((5, 9)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn an_old_kernel_stops_xdp_and_sends_auto_to_libpcap() {
        assert_eq!(kernel("5.8.18", Mode::Xdp).status, Status::Fail);
        assert_eq!(kernel("5.8.18", Mode::Auto).status, Status::Warn);
        assert_eq!(kernel("5.10.0", Mode::Xdp).status, Status::Ok);
    }

    #[test]
    fn a_missing_capability_is_named() {
        let held = capabilities("Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n");
        assert_eq!(rights(held, Mode::Xdp).status, Status::Ok);
        let check = rights(held & !(1 << NET_RAW), Mode::Pcap);
        assert_eq!(check.status, Status::Fail);
        assert!(check.finding.contains("CAP_NET_RAW"), "{}", check.finding);
        let check = rights(1 << NET_RAW, Mode::Auto);
        assert_eq!(check.status, Status::Warn);
        let all = "lacks CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON";
        assert!(check.finding.starts_with(all), "{}", check.finding);
        assert_eq!(rights(1 << NET_RAW, Mode::Xdp).status, Status::Fail);
        assert_eq!(rights(1 << NET_RAW, Mode::Pcap).status, Status::Ok);
    }
}
