//! Checks of one interface.
//!
//! The rule: the interface decides between AF_XDP and libpcap first, and each further check is about
//! the mode that would be used.

use std::thread;

use crate::cli::capture::Mode;
use crate::doctor::report::{Check, Report};
use crate::doctor::system::kernel_is_at_least;
use crate::nic::offload;
use crate::nic::{LinkState, Nic};

/// A 2,048-byte frame holds a packet of this many bytes: 256 go to the headroom.
const FRAME_ROOM: u32 = 1_792;
/// An Ethernet header and two VLAN tags.
const LINK_HEADER: u32 = 14 + 2 * 4;
/// AF_XDP takes packets of several frames since 6.6.
const MULTI_BUFFER_KERNEL: (u32, u32) = (6, 6);
/// A larger receive ring falls out of the cache and gains nothing.
const RING: u32 = 4_096;

pub(crate) fn examine(nic: &Nic, mode: Mode, report: &mut Report) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let xdp = uses_xdp(nic, mode);
    let mut add = |check| report.add(nic.name(), check);
    add(state(nic, xdp));
    add(traffic(nic, mode));
    add(programs(nic, mode));
    if xdp {
        add(features(nic));
        add(mtu(nic));
    }
    add(queues(nic, cores));
    add(rings(nic));
    add(rss(nic));
    add(offloads(nic, xdp));
    add(numa(nic));
    add(irqs(nic, cores));
}

fn uses_xdp(nic: &Nic, mode: Mode) -> bool {
    match mode {
        Mode::Auto => nic.capture_only().and_then(|()| nic.free_for_xdp()).is_ok(),
        Mode::Xdp => true,
        Mode::Pcap => false,
    }
}

fn state(nic: &Nic, xdp: bool) -> Check {
    let name = "state";
    let driver = nic.driver().unwrap_or("driver unknown");
    match nic.state() {
        LinkState::Up => Check::ok(name, format!("up ({driver})")),
        LinkState::Down if !xdp => Check::fail(name, "down: libpcap refuses it")
            .mend(format!("ip link set {} up", nic.name())),
        LinkState::Down => Check::warn(name, "down: nothing arrives")
            .mend(format!("ip link set {} up", nic.name())),
        LinkState::NoCarrier | LinkState::Gone => {
            Check::warn(name, format!("no carrier ({driver}): nothing arrives"))
                .mend("check the cable, or set the other end up")
        }
    }
}

fn traffic(nic: &Nic, mode: Mode) -> Check {
    let name = "host traffic";
    match (nic.capture_only(), mode) {
        (Ok(()), _) => Check::ok(
            name,
            "no address, no master, nothing on top: XDP cuts nothing off",
        ),
        (Err(reason), Mode::Pcap) => Check::ok(name, format!("{reason}: libpcap leaves it alone")),
        (Err(reason), Mode::Auto) => {
            Check::warn(name, format!("{reason}: --mode auto uses libpcap"))
                .mend("capture from a port of its own, as a SPAN or tap is wired to")
        }
        (Err(reason), Mode::Xdp) => Check::warn(
            name,
            format!("{reason}: XDP takes its packets away from the host"),
        )
        .mend("--mode pcap, or a port of its own"),
    }
}

fn programs(nic: &Nic, mode: Mode) -> Check {
    let name = "xdp programs";
    let programs = nic.programs();
    let Some(first) = programs.first() else {
        return Check::ok(name, "none attached");
    };
    let list: Vec<_> = programs.iter().map(ToString::to_string).collect();
    let mend = format!(
        "stop its owner (bpftool prog show id {}), or ip link set dev {} xdp off",
        first.id,
        nic.name()
    );
    let check = match mode {
        Mode::Xdp => Check::fail(name, format!("taken by {}", list.join(", "))),
        Mode::Auto => Check::warn(
            name,
            format!("taken by {}: --mode auto uses libpcap", list.join(", ")),
        ),
        Mode::Pcap => Check::warn(
            name,
            format!("{}: libpcap sees only what it passes", list.join(", ")),
        ),
    };
    check.mend(mend)
}

fn features(nic: &Nic) -> Check {
    let name = "xdp driver";
    let Some(features) = nic.xdp_features() else {
        return Check::warn(
            name,
            "neither kernel (before 6.3) nor driver name tells; generic works",
        );
    };
    let source = if features.told {
        ""
    } else {
        " (by its driver's name)"
    };
    match (features.native, features.zero_copy) {
        (true, true) => Check::ok(name, format!("native, zero-copy{source}")),
        (true, false) => Check::ok(name, format!("native, with a copy{source}")),
        (false, _) => Check::warn(name, format!("generic only{source}: several times slower"))
            .mend("a NIC with native XDP; on veth, as many receive queues as the peer sends on"),
    }
}

fn mtu(nic: &Nic) -> Check {
    let name = "mtu";
    let mtu = nic.mtu();
    let longest = mtu + LINK_HEADER;
    if longest <= FRAME_ROOM {
        return Check::ok(
            name,
            format!("{mtu}: a packet fits a frame ({FRAME_ROOM} bytes)"),
        );
    }
    let split = nic
        .xdp_features()
        .and_then(|features| features.multi_buffer);
    if split != Some(false) && kernel_is_at_least(MULTI_BUFFER_KERNEL) {
        let frames = longest.div_ceil(FRAME_ROOM);
        return Check::ok(name, format!("{mtu}: a packet takes up to {frames} frames"));
    }
    let smaller = FRAME_ROOM - LINK_HEADER;
    Check::warn(
        name,
        format!("{mtu}: above {smaller} packets need several frames, which this does not do"),
    )
    .mend(format!(
        "ip link set {} mtu 1500, or --mode pcap",
        nic.name()
    ))
}

fn queues(nic: &Nic, cores: usize) -> Check {
    let name = "queues";
    let queues = nic.queues();
    let most = nic
        .channels()
        .map_or(queues, |it| (it.rx_max + it.combined_max).max(queues));
    let wanted = u32::try_from(cores.saturating_sub(1))
        .unwrap_or(u32::MAX)
        .clamp(1, most);
    let found = format!("{queues} of at most {most}, {cores} cores");
    if queues > wanted {
        return Check::warn(
            name,
            format!("{found}: fewer than workers + 1, so nothing is pinned"),
        )
        .mend(set_queues(nic, wanted));
    }
    if queues == 1 && wanted > 2 {
        return Check::warn(name, format!("{found}: one core receives all"))
            .mend(set_queues(nic, wanted));
    }
    Check::ok(name, found)
}

fn set_queues(nic: &Nic, wanted: u32) -> String {
    match nic.channels() {
        Some(channels) if channels.combined_max > 0 => {
            format!("ethtool -L {} combined {wanted}", nic.name())
        }
        Some(_) => format!("ethtool -L {} rx {wanted}", nic.name()),
        None => format!("--queues 0-{}", wanted - 1),
    }
}

fn rings(nic: &Nic) -> Check {
    let name = "ring size";
    let Some(rings) = nic.rings() else {
        return Check::ok(name, "the driver has none to set");
    };
    let wanted = rings.rx_max.min(RING);
    let found = format!("{} of at most {} descriptors", rings.rx, rings.rx_max);
    if rings.rx >= wanted {
        return Check::ok(name, found);
    }
    Check::warn(name, format!("{found}: short bursts overrun it"))
        .mend(format!("ethtool -G {} rx {wanted}", nic.name()))
}

fn rss(nic: &Nic) -> Check {
    let name = "rss";
    let Some(table) = nic.indirection() else {
        return Check::ok(name, "no table to tell of");
    };
    let queues = nic.queues();
    let mut used = table.clone();
    used.sort_unstable();
    used.dedup();
    let found = format!(
        "{} buckets over {} of {queues} queues",
        table.len(),
        used.len()
    );
    if used.len()
        < usize::try_from(queues)
            .unwrap_or(usize::MAX)
            .min(table.len())
    {
        return Check::warn(name, format!("{found}: some queues get nothing"))
            .mend(format!("ethtool -X {} equal {queues}", nic.name()));
    }
    Check::ok(name, found)
}

fn offloads(nic: &Nic, xdp: bool) -> Check {
    let name = "offloads";
    let Some(mut on) = nic.active_offloads() else {
        return Check::warn(name, "the driver does not tell");
    };
    let unwanted = if xdp {
        offload::for_xdp()
    } else {
        offload::for_pcap(nic)
    };
    on.retain(|offload| unwanted.contains(offload));
    if on.is_empty() {
        return Check::ok(name, "none that spoils a capture is on");
    }
    let fixed: Vec<_> = on
        .iter()
        .copied()
        .filter(|it| !nic.can_switch(*it))
        .collect();
    let names = offload::names(if fixed.is_empty() { &on } else { &fixed });
    if fixed.is_empty() {
        return Check::ok(
            name,
            format!("{names}: off while a capture runs, then on again"),
        );
    }
    if fixed.iter().all(|offload| offload.strips_tags()) {
        return Check::warn(
            name,
            format!("{names}: fixed on, so XDP never sees the tags"),
        )
        .mend("--mode pcap");
    }
    Check::warn(
        name,
        format!("{names}: fixed on, and a merged frame is not what was sent"),
    )
}

fn numa(nic: &Nic) -> Check {
    let name = "numa node";
    let Some(node) = nic.numa_node() else {
        return Check::ok(name, "none to tell of");
    };
    let near = nic.near_cores();
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    if near.is_empty() || allowed.iter().any(|core| near.contains(&core.id)) {
        return Check::ok(name, format!("{node}, with {} cores", near.len()));
    }
    Check::warn(
        name,
        format!("{node}, and this process may run on none of its cores"),
    )
    .mend(format!("--cpus {}", list(&near)))
}

/// Interrupts of the queues alone, where their names tell them apart.
fn irqs(nic: &Nic, cores: usize) -> Check {
    const QUEUE_WORDS: [&str; 5] = ["rx", "input", "comp", "queue", "fp"];
    let name = "irq affinity";
    let mut irqs = nic.irqs();
    if irqs
        .iter()
        .any(|irq| names_a_queue(&irq.name, &QUEUE_WORDS))
    {
        irqs.retain(|irq| names_a_queue(&irq.name, &QUEUE_WORDS));
    }
    if irqs.is_empty() {
        return Check::ok(name, "the device has no interrupts of its own");
    }
    let mut pinned: Vec<_> = irqs.iter().filter(|irq| irq.cores.len() == 1).collect();
    let served = pinned.len();
    pinned.sort_by_key(|irq| irq.cores[0]);
    pinned.dedup_by_key(|irq| irq.cores[0]);
    let found = format!(
        "interrupts: {}, of which bound to one core: {served}",
        irqs.len()
    );
    let shared = served > pinned.len() && pinned.len() < cores.min(irqs.len());
    if !shared {
        return Check::ok(name, found);
    }
    let core = pinned[0].cores[0];
    let other = (0..cores).find(|other| *other != core).unwrap_or(0);
    Check::warn(name, format!("{found}; several share one")).mend(format!(
        "systemctl stop irqbalance; echo {other} > /proc/irq/{}/smp_affinity_list",
        irqs[irqs.len() - 1].number
    ))
}

fn names_a_queue(name: &str, words: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    words.iter().any(|word| name.contains(word))
}

fn list(cores: &[usize]) -> String {
    let cores: Vec<_> = cores.iter().map(ToString::to_string).collect();
    cores.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn the_loopback_device_is_left_to_libpcap() {
        let lo = Nic::find("lo").unwrap();
        let mut report = Report::default();
        examine(&lo, Mode::Auto, &mut report);
        let check = report.check("lo", "host traffic").unwrap();
        assert_eq!(check.status, Status::Warn);
        let words = "lo has the address 127.0.0.1: --mode auto uses libpcap";
        assert_eq!(check.finding, words);
        assert!(report.check("lo", "mtu").is_none());
        assert!(report.would_start());
        assert!(report.table(false).lines().all(|line| line.len() <= 80));
    }
}
