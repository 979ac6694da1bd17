//! Switches off what spoils a capture, and back on what was on before.
//!
//! The rule: nothing stays changed. What is switched off is noted first ([`Note`]), restored on drop,
//! and otherwise mended by the next sensor on that interface or by `ringtap doctor --restore`.
//!
//! A tag that the NIC strips is invisible to XDP; frames that LRO or GRO merged are not packets.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::nic::Nic;
use crate::nic::ethtool::{Ethtool, FeatureState};
use crate::nic::note::{self, Note};

/// An offload that spoils a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Offload {
    /// The NIC takes VLAN tags (802.1Q) out of frames.
    RxVlan,
    /// The NIC takes service tags (802.1ad) out of frames.
    RxServiceVlan,
    /// The NIC merges TCP segments.
    Lro,
    /// The NIC merges TCP segments as GRO would.
    GroHw,
    /// The stack merges segments, before packet sockets and generic XDP see them.
    Gro,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::RxVlan,
        Self::RxServiceVlan,
        Self::Lro,
        Self::GroHw,
        Self::Gro,
    ];

    /// The name `ethtool -K` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::RxVlan => "rxvlan",
            Self::RxServiceVlan => "rx-vlan-stag-hw-parse",
            Self::Lro => "lro",
            Self::GroHw => "rx-gro-hw",
            Self::Gro => "gro",
        }
    }

    /// Whether it takes VLAN tags out of frames, which libpcap gets back and XDP does not.
    pub fn strips_tags(self) -> bool {
        matches!(self, Self::RxVlan | Self::RxServiceVlan)
    }

    /// The name the kernel has for it.
    fn kernel_name(self) -> &'static str {
        match self {
            Self::RxVlan => "rx-vlan-hw-parse",
            Self::RxServiceVlan => "rx-vlan-stag-hw-parse",
            Self::Lro => "rx-lro",
            Self::GroHw => "rx-gro-hw",
            Self::Gro => "rx-gro",
        }
    }

    pub(crate) fn is_changeable(self, states: &[FeatureState]) -> bool {
        states
            .iter()
            .any(|state| state.name == self.kernel_name() && state.changeable)
    }

    /// Those that are on.
    pub(crate) fn active(states: &[FeatureState]) -> Vec<Self> {
        let is_on = |offload: &Self| {
            states
                .iter()
                .any(|state| state.name == offload.kernel_name() && state.active)
        };
        Self::ALL.into_iter().filter(is_on).collect()
    }
}

/// What a capture in native XDP mode wants off: the program runs before GRO.
pub fn for_xdp() -> &'static [Offload] {
    &[
        Offload::RxVlan,
        Offload::RxServiceVlan,
        Offload::Lro,
        Offload::GroHw,
    ]
}

/// What a capture in generic XDP mode wants off: the program runs after GRO.
pub fn for_generic_xdp() -> &'static [Offload] {
    &Offload::ALL
}

/// What a capture through libpcap wants off on `nic`: what merges, GRO only where the host has no
/// address there. Stripped tags are no loss to libpcap, which gets them beside the frame.
pub fn for_pcap(nic: &Nic) -> &'static [Offload] {
    if nic.addresses().next().is_none() {
        &[Offload::Lro, Offload::GroHw, Offload::Gro]
    } else {
        &[Offload::Lro, Offload::GroHw]
    }
}

/// Why offloads could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum OffloadError {
    /// The kernel refused to tell or to change.
    #[error("{doing} on {interface}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The driver left some as they were.
    #[error("{interface} leaves {} {}", names(.offloads), if *.on { "off" } else { "on" })]
    Unchanged {
        /// The interface.
        interface: String,
        /// Those that did not change.
        offloads: Vec<Offload>,
        /// Whether they were to be switched on.
        on: bool,
    },
    /// The calling thread is in another network namespace than the interface.
    #[error("the note about {interface} is of another network namespace ({netns})")]
    Elsewhere {
        /// The interface.
        interface: String,
        /// The inode of its namespace.
        netns: u64,
    },
}

/// The names of offloads as `ethtool -K` takes them, comma-separated.
pub fn names(offloads: &[Offload]) -> String {
    let names: Vec<_> = offloads.iter().map(|offload| offload.name()).collect();
    names.join(", ")
}

/// The offloads of one interface while a sensor runs on it; restores them when dropped.
///
/// Make, use and drop it on threads of one network namespace.
#[derive(Debug)]
pub struct Offloads {
    note: Note,
    folder: PathBuf,
    foreign: bool,
}

impl Offloads {
    /// Takes charge of the offloads of `nic`, and mends what a killed sensor left there.
    ///
    /// While another sensor that runs has them in its charge, they are left to it.
    pub fn of(nic: &Nic) -> Result<Self, OffloadError> {
        Self::noted_in(nic, Path::new(note::FOLDER))
    }

    fn noted_in(nic: &Nic, folder: &Path) -> Result<Self, OffloadError> {
        let refused = |cause| OffloadError::Refused {
            doing: "reading which network namespace this is".to_owned(),
            interface: nic.name().to_owned(),
            cause,
        };
        let mut foreign = false;
        for note in note::all(folder).iter().filter(|note| note.is_about(nic)) {
            if note.is_left_over() {
                restore(note, folder)?;
                let (interface, pid) = (&note.interface, note.pid);
                info!(
                    interface,
                    pid,
                    on = names(&note.switched_off),
                    "mended what a killed sensor left"
                );
            } else if !note.is_ours() {
                let (interface, pid) = (&note.interface, note.pid);
                info!(
                    interface,
                    pid, "offloads are in the charge of another sensor"
                );
                foreign = true;
            }
        }
        Ok(Self {
            note: Note::of(nic).map_err(refused)?,
            folder: folder.to_owned(),
            foreign,
        })
    }

    /// Switches off those of `wanted` that are on. What cannot be switched off is logged as a warning
    /// and returned; the rest is done all the same. May be called again with more.
    ///
    /// A driver may reset the link for it: call it before an XDP program is attached.
    pub fn switch_off(&mut self, wanted: &[Offload]) -> Vec<OffloadError> {
        let problems = self
            .try_switch_off(wanted)
            .err()
            .into_iter()
            .collect::<Vec<_>>();
        for problem in &problems {
            let cause = std::error::Error::source(problem).map(ToString::to_string);
            warn!(interface = self.note.interface, cause, "{problem}");
        }
        problems
    }

    /// What was switched off.
    pub fn switched_off(&self) -> &[Offload] {
        &self.note.switched_off
    }

    /// Switches on again what was switched off. Nothing is left to do after success; after an error
    /// the note stays for `ringtap doctor --restore`.
    pub fn restore(&mut self) -> Result<(), OffloadError> {
        if self.note.switched_off.is_empty() {
            return Ok(());
        }
        let note = Note {
            switched_off: Vec::new(),
            ..self.note.clone()
        };
        restore(&std::mem::replace(&mut self.note, note), &self.folder)
    }

    fn try_switch_off(&mut self, wanted: &[Offload]) -> Result<(), OffloadError> {
        if self.foreign {
            return Ok(());
        }
        let interface = self.note.interface.clone();
        let refused = |doing: String| {
            let interface = interface.clone();
            move |cause| OffloadError::Refused {
                doing,
                interface,
                cause,
            }
        };
        let reading = || refused("reading the offloads".to_owned());
        let ethtool = Ethtool::open(&interface).map_err(reading())?;
        let mut on = Offload::active(&ethtool.features().map_err(reading())?);
        on.retain(|offload| wanted.contains(offload));
        if on.is_empty() {
            return Ok(());
        }
        let before = self.note.switched_off.clone();
        self.note.switched_off.extend(&on);
        if let Err(error) = self.note.write(&self.folder) {
            let folder = self.folder.display();
            warn!(interface, %error, "no note in {folder}: a kill -9 would leave the offloads off");
        }
        let kernel_names: Vec<_> = on.iter().map(|offload| offload.kernel_name()).collect();
        let changed = ethtool.set_features(&kernel_names, false);
        let after = ethtool.features().map(|states| Offload::active(&states));
        let still_on: Vec<_> = match &after {
            Ok(active) => on
                .iter()
                .copied()
                .filter(|it| active.contains(it))
                .collect(),
            Err(_) => Vec::new(),
        };
        self.note
            .switched_off
            .retain(|it| before.contains(it) || !still_on.contains(it));
        if !still_on.is_empty() {
            self.rewrite();
        }
        if !self.note.switched_off.is_empty() {
            info!(
                interface,
                off = names(&self.note.switched_off),
                "offloads switched off"
            );
        }
        changed.map_err(refused(format!("switching off {}", names(&on))))?;
        after.map_err(reading())?;
        if still_on.is_empty() {
            return Ok(());
        }
        Err(OffloadError::Unchanged {
            interface,
            offloads: still_on,
            on: false,
        })
    }

    fn rewrite(&self) {
        let done = if self.note.switched_off.is_empty() {
            self.note.remove(&self.folder)
        } else {
            self.note.write(&self.folder)
        };
        if let Err(error) = done {
            warn!(interface = self.note.interface, %error, "the note of the offloads is out of date");
        }
    }
}

impl Drop for Offloads {
    fn drop(&mut self) {
        if let Err(problem) = self.restore() {
            let cause = std::error::Error::source(&problem).map(ToString::to_string);
            warn!(cause, "{problem}; mend it with: ringtap doctor --restore");
        }
    }
}

/// What killed sensors left on the interfaces of this machine, other network namespaces included.
pub fn left_over() -> Vec<Note> {
    let mut notes = note::all(Path::new(note::FOLDER));
    notes.retain(Note::is_left_over);
    notes
}

/// Switches on again what the sensor of a left-over note switched off, and removes the note.
///
/// An interface that is gone, or another one by now, needs nothing.
pub fn mend(note: &Note) -> Result<(), OffloadError> {
    restore(note, Path::new(note::FOLDER))
}

/// By number: the interface may have been renamed since.
fn restore(note: &Note, folder: &Path) -> Result<(), OffloadError> {
    if !note.is_here() {
        return Err(OffloadError::Elsewhere {
            interface: note.interface.clone(),
            netns: note.netns,
        });
    }
    let nics = Nic::list().map_err(|error| OffloadError::Refused {
        doing: "looking for the interface by its number".to_owned(),
        interface: note.interface.clone(),
        cause: io::Error::other(error),
    })?;
    if let Some(nic) = nics.iter().find(|nic| note.is_about(nic)) {
        switch_on(nic.name(), &note.switched_off)?;
    }
    note.remove(folder).map_err(|cause| OffloadError::Refused {
        doing: format!("removing the note in {}", folder.display()),
        interface: note.interface.clone(),
        cause,
    })
}

fn switch_on(interface: &str, offloads: &[Offload]) -> Result<(), OffloadError> {
    let refused = |cause| OffloadError::Refused {
        doing: format!("switching on {}", names(offloads)),
        interface: interface.to_owned(),
        cause,
    };
    let kernel_names: Vec<_> = offloads
        .iter()
        .map(|offload| offload.kernel_name())
        .collect();
    let ethtool = Ethtool::open(interface).map_err(refused)?;
    ethtool.set_features(&kernel_names, true).map_err(refused)?;
    let active = Offload::active(&ethtool.features().map_err(refused)?);
    let still_off: Vec<_> = offloads
        .iter()
        .copied()
        .filter(|offload| !active.contains(offload))
        .collect();
    if still_off.is_empty() {
        return Ok(());
    }
    Err(OffloadError::Unchanged {
        interface: interface.to_owned(),
        offloads: still_off,
        on: true,
    })
}
