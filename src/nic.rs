//! What an interface can do and is set to.
//!
//! The rule: an interface is known by its number, and every answer is that of the network namespace
//! of the thread that asks. Names change, and `/sys/class/net` shows the namespace in which it was
//! mounted; so netlink and ethtool are asked, and sysfs only where it shows the same interface.

pub mod link;
pub mod offload;
pub mod promiscuous;
pub mod table;

mod ethtool;
mod irq;
mod netlink;
mod note;
mod reason;
mod route;
mod xdp;

use std::fs;
use std::io;
use std::net::IpAddr;

pub use crate::nic::ethtool::{Channels, Rings};
pub use crate::nic::irq::Irq;
pub use crate::nic::note::Note;
pub use crate::nic::reason::Reason;
pub use crate::nic::route::{NicCounts, XdpMode};
pub use crate::nic::xdp::{Attached, XdpFeatures};

use crate::nic::ethtool::{Driver, Ethtool};
use crate::nic::offload::Offload;
use crate::nic::route::Link;

/// `ARPHRD_ETHER`, and `ARPHRD_LOOPBACK`, whose packets have the same header.
const ETHERNET: [u16; 2] = [1, 772];

/// Why the interfaces could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// No interface has this name.
    #[error("there is no interface {name} in this network namespace{}", near(.nearest))]
    Unknown {
        /// The name as given.
        name: String,
        /// The name of an interface that is nearest to it.
        nearest: Option<String>,
    },
    /// The kernel refused the question.
    #[error("asking the kernel for {what}")]
    Ask {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

fn near(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!("; nearest: {name}"))
}

/// Whether packets can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Set up and with carrier.
    Up,
    /// Set up, but the other end is not there.
    NoCarrier,
    /// Set down.
    Down,
    /// The interface no longer exists here; it does not come back under this number.
    Gone,
}

impl LinkState {
    /// Whether packets can arrive.
    pub fn is_up(self) -> bool {
        self == Self::Up
    }

    /// The words for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::NoCarrier => "no carrier",
            Self::Down => "down",
            Self::Gone => "gone",
        }
    }

    fn of(link: &Link) -> Self {
        match (link.is_up(), link.has_carrier()) {
            (true, true) => Self::Up,
            (true, false) => Self::NoCarrier,
            (false, _) => Self::Down,
        }
    }
}

/// One interface, as it was when it was looked up; the methods that return an `Option` ask anew.
#[derive(Clone, Debug)]
pub struct Nic {
    link: Link,
    driver: Option<Driver>,
    addresses: Vec<IpAddr>,
    master: Option<(String, String)>,
    uppers: Vec<(String, String)>,
}

impl Nic {
    /// Finds an interface by its name or one of its alternative names.
    pub fn find(name: &str) -> Result<Self, NicError> {
        let nics = Self::list()?;
        let named = |nic: &&Self| nic.link.name == name;
        let also_named = |nic: &&Self| nic.link.alternatives.iter().any(|other| other == name);
        let found = nics
            .iter()
            .find(named)
            .or_else(|| nics.iter().find(also_named));
        found.cloned().ok_or_else(|| NicError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, &nics),
        })
    }

    /// Every interface of the calling thread's network namespace, by ascending number.
    pub fn list() -> Result<Vec<Self>, NicError> {
        let links = route::links().map_err(|cause| NicError::Ask {
            what: "the list of interfaces".to_owned(),
            cause,
        })?;
        let addresses = route::addresses().map_err(|cause| NicError::Ask {
            what: "the addresses of the interfaces".to_owned(),
            cause,
        })?;
        Ok(links
            .iter()
            .map(|link| Self {
                driver: Ethtool::open(&link.name).and_then(|it| it.driver()).ok(),
                addresses: addresses
                    .iter()
                    .filter(|(index, _)| *index == link.index)
                    .map(|(_, address)| *address)
                    .collect(),
                master: link.master.map(|index| named(&links, index)),
                uppers: links
                    .iter()
                    .filter(|upper| upper.below == Some(link.index) && upper.sits_on_top())
                    .map(|upper| (upper.name.clone(), kind(upper)))
                    .collect(),
                link: link.clone(),
            })
            .collect())
    }

    /// Its real name, also when it was found by an alternative one.
    pub fn name(&self) -> &str {
        &self.link.name
    }

    /// Its alternative names.
    pub fn alternative_names(&self) -> &[String] {
        &self.link.alternatives
    }

    /// Its number in this network namespace.
    pub fn index(&self) -> u32 {
        self.link.index
    }

    /// The longest packet it takes in bytes, without the link header.
    pub fn mtu(&self) -> u32 {
        self.link.mtu
    }

    /// The number the kernel has for its kind of link header (`ARPHRD_…`, 1 for Ethernet).
    pub fn hardware(&self) -> u16 {
        self.link.hardware
    }

    /// Whether its packets begin with an Ethernet header.
    pub fn is_ethernet(&self) -> bool {
        ETHERNET.contains(&self.link.hardware)
    }

    /// Whether it is the loopback device.
    pub fn is_loopback(&self) -> bool {
        self.link.is_loopback()
    }

    /// Whether packets could arrive when it was looked up.
    pub fn state(&self) -> LinkState {
        LinkState::of(&self.link)
    }

    /// The name of its driver, as `i40e` or `veth`.
    pub fn driver(&self) -> Option<&str> {
        self.driver.as_ref().map(|driver| driver.name.as_str())
    }

    /// All its IPv4 and IPv6 addresses, link-local ones included.
    pub fn all_addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its IPv4 and IPv6 addresses other than link-local.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses
            .iter()
            .copied()
            .filter(|ip| !is_link_local(*ip))
    }

    /// The device it is a port of (bridge, bond, team, VRF), and the kind of that device.
    pub fn master(&self) -> Option<(&str, &str)> {
        self.master
            .as_ref()
            .map(|(name, kind)| (name.as_str(), kind.as_str()))
    }

    /// The devices that take their packets from it (VLAN, macvlan, ipvlan), each with its kind.
    ///
    /// One that was moved into another network namespace is not seen: the kernel tells of it only
    /// there.
    pub fn uppers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.uppers
            .iter()
            .map(|(name, kind)| (name.as_str(), kind.as_str()))
    }

    /// Whether its packets may be taken away from the stack without cutting the host off.
    ///
    /// `Ok` only for an Ethernet interface with no IPv4 and no IPv6 address other than link-local, in
    /// no bridge, bond or team, and under no VLAN, macvlan or ipvlan device: a SPAN or tap port; never
    /// for the loopback device.
    pub fn capture_only(&self) -> Result<(), Reason> {
        let interface = || self.link.name.clone();
        if let Some(address) = self.addresses().next() {
            return Err(Reason::Address {
                interface: interface(),
                address,
            });
        }
        if let Some((master, kind)) = self.master.clone() {
            return Err(Reason::Master {
                interface: interface(),
                master,
                kind,
            });
        }
        if let Some((upper, kind)) = self.uppers.first().cloned() {
            return Err(Reason::Upper {
                interface: interface(),
                upper,
                kind,
            });
        }
        if self.is_loopback() {
            return Err(Reason::Loopback {
                interface: interface(),
            });
        }
        if !self.is_ethernet() {
            return Err(Reason::NotEthernet {
                interface: interface(),
                hardware: self.link.hardware,
            });
        }
        Ok(())
    }

    /// Whether no XDP program sits on it; the error names the one that does.
    pub fn free_for_xdp(&self) -> Result<(), Reason> {
        let Some(program) = self.programs().into_iter().next() else {
            return Ok(());
        };
        Err(Reason::Taken {
            interface: self.link.name.clone(),
            program,
        })
    }

    /// The XDP programs attached to it when it was looked up.
    pub fn programs(&self) -> Vec<Attached> {
        let programs = self.link.programs.iter();
        programs
            .map(|(mode, id)| Attached {
                mode: *mode,
                id: *id,
                name: xdp::program_name(*id),
            })
            .collect()
    }

    /// What the kernel has counted on it so far; `None` when it is gone.
    pub fn counts(&self) -> Option<NicCounts> {
        route::link(self.link.index).ok().map(|link| link.counts)
    }

    /// What it can do with XDP; `None` where neither the kernel (before 6.3) nor its driver's name
    /// tells.
    pub fn xdp_features(&self) -> Option<XdpFeatures> {
        xdp::told(self.link.index).or_else(|| xdp::by_driver(self.driver()?))
    }

    /// How many queues receive packets, at least 1.
    ///
    /// As ethtool's channels say; otherwise as sysfs shows them; otherwise the most that the device
    /// was made with.
    pub fn queues(&self) -> u32 {
        self.channels()
            .map(|channels| channels.rx + channels.combined)
            .filter(|queues| *queues > 0)
            .or_else(|| self.sysfs_queues())
            .unwrap_or(self.link.rx_queues)
            .max(1)
    }

    /// How many queues it has and may have; `None` where the driver does not tell.
    pub fn channels(&self) -> Option<Channels> {
        self.ask(Ethtool::channels)
    }

    /// The sizes of its receive rings; `None` where the driver has none to tell of.
    pub fn rings(&self) -> Option<Rings> {
        self.ask(Ethtool::rings).filter(|rings| rings.rx > 0)
    }

    /// The queue of each bucket of the RSS hash; `None` where the driver does not tell.
    pub fn indirection(&self) -> Option<Vec<u32>> {
        self.ask(Ethtool::indirection)
            .filter(|table| !table.is_empty())
    }

    /// Which of the offloads that spoil a capture are on; `None` where the driver does not tell.
    pub fn active_offloads(&self) -> Option<Vec<Offload>> {
        let states = self.ask(Ethtool::features)?;
        Some(Offload::active(&states))
    }

    /// Whether `offload` may be switched on and off.
    pub fn can_switch(&self, offload: Offload) -> bool {
        self.ask(Ethtool::features)
            .is_some_and(|states| offload.is_changeable(&states))
    }

    /// The NUMA node its device is wired to; `None` on a machine with one, and for a device that only
    /// software makes.
    pub fn numa_node(&self) -> Option<u32> {
        irq::numa_node(self.bus()?)
    }

    /// The cores of the NUMA node its device is wired to; empty where there is no node to tell of.
    pub fn near_cores(&self) -> Vec<usize> {
        self.numa_node().map(irq::cores_of_node).unwrap_or_default()
    }

    /// The interrupts of its device, with the cores that serve them.
    pub fn irqs(&self) -> Vec<Irq> {
        self.bus().map(irq::of_device).unwrap_or_default()
    }

    fn bus(&self) -> Option<&str> {
        let bus = self.driver.as_ref()?.bus.as_str();
        (!bus.is_empty()).then_some(bus)
    }

    fn ask<T>(&self, question: impl FnOnce(&Ethtool) -> io::Result<T>) -> Option<T> {
        let ethtool = Ethtool::open(&self.link.name).ok()?;
        question(&ethtool).ok()
    }

    fn sysfs_queues(&self) -> Option<u32> {
        let folder = format!("/sys/class/net/{}", self.link.name);
        let index = fs::read_to_string(format!("{folder}/ifindex")).ok()?;
        if index.trim().parse() != Ok(self.link.index) {
            return None;
        }
        let queues = fs::read_dir(format!("{folder}/queues")).ok()?;
        let rx = queues
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
        u32::try_from(rx.count()).ok()
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn kind(link: &Link) -> String {
    link.kind.clone().unwrap_or_else(|| "upper".to_owned())
}

fn named(links: &[Link], index: u32) -> (String, String) {
    links.iter().find(|link| link.index == index).map_or_else(
        || (format!("number {index}"), "device".to_owned()),
        |link| (link.name.clone(), kind(link)),
    )
}

fn nearest(name: &str, nics: &[Nic]) -> Option<String> {
    let names = nics
        .iter()
        .flat_map(|nic| std::iter::once(&nic.link.name).chain(&nic.link.alternatives));
    names
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known.clone())
}
