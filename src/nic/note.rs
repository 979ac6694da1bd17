//! The note of what a sensor changed on an interface, kept where it outlives the sensor.
//!
//! The rule: a note is written before the change and removed after it was taken back, so whatever
//! ends the sensor, a note says at least what has to be mended. `/run` is empty after a reboot, as
//! are the changes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::nic::Nic;
use crate::nic::offload::Offload;

/// Where notes are kept.
pub(crate) const FOLDER: &str = "/run/ringtap";

/// What one sensor switched off on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The interface's name at that time.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// The inode of its network namespace.
    pub netns: u64,
    /// Its hardware address: numbers and inodes are used again.
    pub mac: String,
    /// The sensor's process.
    pub pid: u32,
    /// When that process began, in clock ticks since boot: process numbers are used again.
    pub started: u64,
    /// What was on before.
    pub switched_off: Vec<Offload>,
}

impl Note {
    /// An empty note of this process about `nic`.
    pub(crate) fn of(nic: &Nic) -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self {
            interface: nic.link.name.clone(),
            index: nic.link.index,
            netns: netns()?,
            mac: mac(&nic.link.mac),
            pid,
            started: started(pid).unwrap_or(0),
            switched_off: Vec::new(),
        })
    }

    /// Whether it is about the interface `nic`, and not about an earlier one with the same number.
    pub(crate) fn is_about(&self, nic: &Nic) -> bool {
        self.is_here() && self.index == nic.link.index && self.mac == mac(&nic.link.mac)
    }

    /// Whether its interface was in the network namespace of the calling thread.
    pub fn is_here(&self) -> bool {
        netns().is_ok_and(|netns| netns == self.netns)
    }

    /// Whether the sensor that wrote it has ended without taking its changes back.
    pub fn is_left_over(&self) -> bool {
        started(self.pid) != Some(self.started)
    }

    /// Whether this very process wrote it.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id() && !self.is_left_over()
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let path = self.path(folder);
        let whole = path.with_extension(format!("{}.part", self.pid));
        fs::write(&whole, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&whole, &path)
    }

    /// Removes it; one that is gone already is as good.
    pub(crate) fn remove(&self, folder: &Path) -> io::Result<()> {
        match fs::remove_file(self.path(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Two namespaces may each have an `eth0` with the same number.
    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!(
            "{}-{}-{}.json",
            self.interface, self.index, self.netns
        ))
    }
}

/// Every readable note in `folder`, by interface; none where there is no such folder.
pub(crate) fn all(folder: &Path) -> Vec<Note> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut notes: Vec<Note> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|it| it == "json"))
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
        .collect();
    notes.sort_by(|a, b| (&a.interface, a.index).cmp(&(&b.interface, b.index)));
    notes
}

/// The inode of the calling thread's network namespace.
pub(crate) fn netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// When a process began, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)); `None`
/// when there is none, or it has ended and only waits for its parent.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn mac(bytes: &[u8]) -> String {
    let parts: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pid: u32, started: u64) -> Note {
        Note {
            interface: "eth7".to_owned(),
            index: 12,
            netns: 4_026_531_840,
            mac: mac(&[2, 0, 0xfc, 0, 0, 1]),
            pid,
            started,
            switched_off: vec![Offload::RxVlan, Offload::Gro],
        }
    }

    #[test]
    fn a_note_reads_back_as_it_was_written_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made on demand");
        let note = note(1, 1);
        note.write(&folder).unwrap();
        fs::write(folder.join("half.json"), "{\"interface\":").unwrap();
        assert_eq!(all(&folder), std::slice::from_ref(&note));
        note.remove(&folder).unwrap();
        note.remove(&folder).unwrap();
        assert_eq!(all(&folder), []);
    }

    #[test]
    fn a_note_is_left_over_when_its_process_is_not_the_one_that_wrote_it() {
        let pid = std::process::id();
        let began = started(pid).unwrap();
        assert!(!note(pid, began).is_left_over());
        assert!(note(pid, began + 1).is_left_over());
        assert!(note(u32::MAX, began).is_left_over());
    }
}
