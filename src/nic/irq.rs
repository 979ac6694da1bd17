//! Where a NIC's device sits: its NUMA node, its interrupts, and the cores that serve them.
//!
//! The rule: the device is found by its bus address, which is the same in every network namespace;
//! what the machine does not tell is absent, not assumed.

use std::fs;
use std::path::{Path, PathBuf};

/// One interrupt of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Its number, as in `/proc/interrupts`.
    pub number: u32,
    /// The name its driver gave it, as `i40e-eth1-TxRx-0`.
    pub name: String,
    /// The cores that may serve it.
    pub cores: Vec<usize>,
}

/// The NUMA node of the device at `bus`; `None` where the machine has no more than one.
pub(crate) fn numa_node(bus: &str) -> Option<u32> {
    let text = fs::read_to_string(device(bus)?.join("numa_node")).ok()?;
    text.trim().parse().ok()
}

/// The cores of a NUMA node.
pub(crate) fn cores_of_node(node: u32) -> Vec<usize> {
    let list = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
    list.map(|text| cores(text.trim())).unwrap_or_default()
}

/// The interrupts of the device at `bus` that a driver uses, by number.
pub(crate) fn of_device(bus: &str) -> Vec<Irq> {
    let folder = device(bus).map(|device| device.join("msi_irqs"));
    let Some(Ok(entries)) = folder.map(fs::read_dir) else {
        return Vec::new();
    };
    let table = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let mut irqs: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter_map(|number| {
            Some(Irq {
                number,
                name: name(&table, number)?,
                cores: cores_of(number),
            })
        })
        .collect();
    irqs.sort_by_key(|irq| irq.number);
    irqs
}

fn device(bus: &str) -> Option<PathBuf> {
    let device = Path::new("/sys/bus/pci/devices").join(bus);
    device.is_dir().then_some(device)
}

fn cores_of(irq: u32) -> Vec<usize> {
    fs::read_to_string(format!("/proc/irq/{irq}/smp_affinity_list"))
        .map(|text| cores(text.trim()))
        .unwrap_or_default()
}

/// The last word of the row of `irq` in `/proc/interrupts`; `None` for an interrupt nobody asked for.
fn name(table: &str, irq: u32) -> Option<String> {
    let label = format!("{irq}:");
    let row = table
        .lines()
        .find(|row| row.split_whitespace().next() == Some(&label))?;
    row.split_whitespace().last().map(str::to_owned)
}

/// Reads a list of cores as the kernel writes it: `0-3,8`.
pub(crate) fn cores(list: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse()) {
            cores.extend(first..=last);
        }
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_is_read_with_its_ranges() {
        assert_eq!(cores("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(cores("5"), [5]);
        assert_eq!(cores(""), [0; 0]);
    }

    #[test]
    fn an_interrupt_is_named_by_the_last_word_of_its_row() {
        let table = "           CPU0       CPU1\n\
                     \x20 24:          0          7  PCI-MSIX-0000:00:03.0   1-edge      virtio0-input.0\n\
                     \x20124:          0          7  PCI-MSIX-0000:00:03.0   1-edge      other\n";
        assert_eq!(name(table, 24).as_deref(), Some("virtio0-input.0"));
        assert_eq!(name(table, 25), None);
    }
}
