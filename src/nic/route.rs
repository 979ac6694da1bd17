//! Links and addresses as rtnetlink tells them.
//!
//! The rule: nothing here reads sysfs, so the answer is that of the calling thread's network
//! namespace, whatever `/sys` is mounted.
//!
//! Attribute numbers are those of `include/uapi/linux/if_link.h` and `if_addr.h`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockProtocol;

use crate::nic::netlink::{Attributes, Netlink, text, u16_at, u32_at, u64_at};

pub(crate) const NEW_LINK: u16 = 16;
pub(crate) const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// The length of `struct ifinfomsg`.
const LINK_PART: usize = 16;
/// The length of `struct ifaddrmsg`.
const ADDRESS_PART: usize = 8;
/// How often a list that changes while it is read is read again.
const READINGS: usize = 8;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_LOWER_UP: u32 = 1 << 16;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK: u16 = 5;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const STATISTICS: u16 = 23;
const RX_QUEUES: u16 = 32;
const LINK_NETNS: u16 = 37;
const XDP: u16 = 43;
const PROPERTIES: u16 = 52;
const ALTERNATIVE_NAME: u16 = 53;
const INFO_KIND: u16 = 1;
const XDP_ATTACHED: u16 = 2;
const XDP_PROGRAM: u16 = 4;
const XDP_DRV_PROGRAM: u16 = 5;
const XDP_SKB_PROGRAM: u16 = 6;
const XDP_HW_PROGRAM: u16 = 7;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Where an XDP program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, after the packet has become an skb.
    Generic,
    /// In the NIC.
    Offloaded,
}

impl XdpMode {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// What the kernel has counted on an interface since it was made (`struct rtnl_link_stats64`).
///
/// Each driver decides what it puts where: for people, not for sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounts {
    /// Packets received; with some drivers those that XDP took are not among them.
    pub received: u64,
    /// Packets dropped for want of memory, or by the driver's own choice.
    pub dropped: u64,
    /// Packets the NIC dropped because nobody emptied its ring.
    pub missed: u64,
    /// Packets with errors, of whatever kind.
    pub errors: u64,
    /// Of the errors, overruns of the NIC's own memory.
    pub overruns: u64,
}

impl NicCounts {
    fn parse(value: &[u8]) -> Option<Self> {
        let field = |number: usize| u64_at(value, number * 8);
        Some(Self {
            received: field(0)?,
            dropped: field(6)?,
            missed: field(15)?,
            errors: field(4)?,
            overruns: field(14)?,
        })
    }
}

/// One interface as RTM_NEWLINK describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) hardware: u16,
    pub(crate) flags: u32,
    pub(crate) name: String,
    pub(crate) alternatives: Vec<String>,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) rx_queues: u32,
    pub(crate) kind: Option<String>,
    pub(crate) master: Option<u32>,
    /// The device below, where it is in the same network namespace.
    pub(crate) below: Option<u32>,
    pub(crate) programs: Vec<(XdpMode, u32)>,
    pub(crate) counts: NicCounts,
}

impl Link {
    /// Reads the body of an RTM_NEWLINK or RTM_DELLINK; `None` where it is too short, and for what a
    /// bridge tells of its port (AF_BRIDGE): its RTM_DELLINK says that a port left it, no more.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        if *body.first()? != 0 {
            return None;
        }
        let mut link = Self {
            hardware: u16_at(body, 2)?,
            index: u32_at(body, 4)?,
            flags: u32_at(body, 8)?,
            ..Self::default()
        };
        let mut elsewhere = false;
        for (kind, value) in Attributes::new(body.get(LINK_PART..)?) {
            match kind {
                ADDRESS => link.mac = value.to_vec(),
                NAME => link.name = text(value),
                MTU => link.mtu = u32_at(value, 0)?,
                LINK => link.below = u32_at(value, 0).filter(|below| *below != 0),
                MASTER => link.master = u32_at(value, 0).filter(|master| *master != 0),
                STATISTICS => link.counts = NicCounts::parse(value).unwrap_or_default(),
                RX_QUEUES => link.rx_queues = u32_at(value, 0)?,
                LINK_NETNS => elsewhere = true,
                LINK_INFO => link.kind = info_kind(value),
                XDP => link.programs = programs(value),
                PROPERTIES => link.alternatives = alternatives(value),
                _ => {}
            }
        }
        if elsewhere || link.below == Some(link.index) {
            link.below = None;
        }
        Some(link)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.flags & IFF_UP != 0
    }

    pub(crate) fn has_carrier(&self) -> bool {
        self.flags & IFF_LOWER_UP != 0
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.flags & IFF_LOOPBACK != 0
    }

    /// Whether `below` means a lower device whose packets this one takes, and not the other end of
    /// a pair.
    pub(crate) fn sits_on_top(&self) -> bool {
        !matches!(self.kind.as_deref(), Some("veth" | "netkit" | "vxcan"))
    }
}

fn info_kind(value: &[u8]) -> Option<String> {
    let (_, kind) = Attributes::new(value).find(|(kind, _)| *kind == INFO_KIND)?;
    Some(text(kind))
}

fn alternatives(value: &[u8]) -> Vec<String> {
    Attributes::new(value)
        .filter(|(kind, _)| *kind == ALTERNATIVE_NAME)
        .map(|(_, name)| text(name))
        .collect()
}

/// With one program its id stands in the common attribute as well as in that of its mode; kernels
/// before 4.20 know the common one only.
fn programs(value: &[u8]) -> Vec<(XdpMode, u32)> {
    let mut found = Vec::new();
    let mut only = None;
    let mut attached = 0;
    for (kind, value) in Attributes::new(value) {
        let id = u32_at(value, 0).unwrap_or(0);
        match kind {
            XDP_ATTACHED => attached = value.first().copied().unwrap_or(0),
            XDP_PROGRAM => only = Some(id),
            XDP_DRV_PROGRAM => found.push((XdpMode::Native, id)),
            XDP_SKB_PROGRAM => found.push((XdpMode::Generic, id)),
            XDP_HW_PROGRAM => found.push((XdpMode::Offloaded, id)),
            _ => {}
        }
    }
    if found.is_empty()
        && let Some(id) = only
    {
        let mode = match attached {
            2 => XdpMode::Generic,
            3 => XdpMode::Offloaded,
            _ => XdpMode::Native,
        };
        found.push((mode, id));
    }
    found.retain(|(_, id)| *id != 0);
    found
}

/// Every interface of the calling thread's network namespace, by ascending number.
pub(crate) fn links() -> io::Result<Vec<Link>> {
    let mut socket = Netlink::open(SockProtocol::NetlinkRoute)?;
    for reading in 1.. {
        let mut links = Vec::new();
        let changed = socket.dump(GET_LINK, &[0; LINK_PART], |kind, body| {
            if kind == NEW_LINK {
                links.extend(Link::parse(body));
            }
        })?;
        if !changed || reading == READINGS {
            links.sort_by_key(|link| link.index);
            links.dedup_by_key(|link| link.index);
            return Ok(links);
        }
    }
    unreachable!("the loop above ends at its last reading");
}

/// The interface with this number. An error with ENODEV says that there is none.
pub(crate) fn link(index: u32) -> io::Result<Link> {
    let mut socket = Netlink::open(SockProtocol::NetlinkRoute)?;
    let mut body = [0; LINK_PART];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    socket.get(GET_LINK, &body, |kind, body| {
        if kind == NEW_LINK {
            found = Link::parse(body);
        }
    })?;
    found.ok_or_else(|| io::Error::other("an answer that describes no link"))
}

/// The IP addresses of all interfaces, each with the number of its interface.
///
/// By number and not by name: an address may carry a label of its own (`eth0:1`), under which
/// `getifaddrs` lists it.
pub(crate) fn addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    let mut socket = Netlink::open(SockProtocol::NetlinkRoute)?;
    for reading in 1.. {
        let mut found = Vec::new();
        let changed = socket.dump(GET_ADDRESS, &[0; ADDRESS_PART], |kind, body| {
            if kind == NEW_ADDRESS {
                found.extend(address(body));
            }
        })?;
        if !changed || reading == READINGS {
            return Ok(found);
        }
    }
    unreachable!("the loop above ends at its last reading");
}

/// On a point-to-point link `IFA_ADDRESS` is the other end's; `IFA_LOCAL`, where given, is ours.
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(body, 4)?;
    let attributes = Attributes::new(body.get(ADDRESS_PART..)?);
    let of = |wanted| attributes.clone().find(|(kind, _)| *kind == wanted);
    let (_, value) = of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?;
    let ip = match value.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into(),
        _ => return None,
    };
    Some((index, ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::netlink::attribute;

    fn head(index: u32, flags: u32) -> Vec<u8> {
        let mut body = vec![0, 0, 1, 0];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        body
    }

    #[test]
    fn a_link_is_read_with_its_names_master_and_programs() {
        let mut body = head(7, IFF_UP | IFF_LOWER_UP);
        body.extend(attribute(NAME, b"enp3s0\0"));
        body.extend(attribute(MTU, &9_000_u32.to_ne_bytes()));
        body.extend(attribute(MASTER, &4_u32.to_ne_bytes()));
        body.extend(attribute(
            PROPERTIES,
            &attribute(ALTERNATIVE_NAME, b"uplink\0"),
        ));
        let xdp = [
            attribute(XDP_ATTACHED, &[1]),
            attribute(XDP_PROGRAM, &33_u32.to_ne_bytes()),
            attribute(XDP_DRV_PROGRAM, &33_u32.to_ne_bytes()),
        ];
        body.extend(attribute(XDP, &xdp.concat()));
        let link = Link::parse(&body).unwrap();
        assert_eq!(link.index, 7);
        assert_eq!(link.name, "enp3s0");
        assert_eq!(link.alternatives, ["uplink"]);
        assert_eq!(link.mtu, 9_000);
        assert_eq!(link.master, Some(4));
        assert_eq!(link.programs, [(XdpMode::Native, 33)]);
        assert!(link.is_up() && link.has_carrier() && !link.is_loopback());
    }

    #[test]
    fn the_counts_are_taken_from_their_places_among_the_statistics() {
        let statistics: Vec<u8> = (0_u64..24).flat_map(|n| (100 + n).to_ne_bytes()).collect();
        let counts = NicCounts::parse(&statistics).unwrap();
        let NicCounts {
            received,
            dropped,
            missed,
            errors,
            overruns,
        } = counts;
        assert_eq!(
            [received, dropped, missed, errors, overruns],
            [100, 106, 115, 104, 114]
        );
        assert_eq!(NicCounts::parse(&statistics[..64]), None);
    }

    #[test]
    fn what_a_bridge_tells_of_its_port_is_not_about_the_link() {
        let mut body = head(7, IFF_UP);
        body[0] = 7;
        assert!(Link::parse(&body).is_none());
    }

    #[test]
    fn an_old_kernel_names_the_program_in_the_common_attribute_only() {
        let xdp = [
            attribute(XDP_ATTACHED, &[2]),
            attribute(XDP_PROGRAM, &5_u32.to_ne_bytes()),
        ];
        assert_eq!(programs(&xdp.concat()), [(XdpMode::Generic, 5)]);
        assert_eq!(programs(&attribute(XDP_ATTACHED, &[0])), []);
    }

    #[test]
    fn a_lower_device_in_another_namespace_is_not_mistaken_for_one_of_ours() {
        let mut body = head(9, 0);
        body.extend(attribute(LINK, &2_u32.to_ne_bytes()));
        assert_eq!(Link::parse(&body).unwrap().below, Some(2));
        body.extend(attribute(LINK_NETNS, &0_u32.to_ne_bytes()));
        assert_eq!(Link::parse(&body).unwrap().below, None);
    }

    #[test]
    fn the_local_end_of_a_point_to_point_address_is_ours() {
        let mut body = vec![2, 32, 0, 0];
        body.extend(6_u32.to_ne_bytes());
        body.extend(attribute(IFA_ADDRESS, &[10, 0, 0, 2]));
        body.extend(attribute(IFA_LOCAL, &[10, 0, 0, 1]));
        assert_eq!(address(&body), Some((6, [10, 0, 0, 1].into())));
    }

    #[test]
    fn the_loopback_device_is_in_every_namespace() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.is_loopback());
        assert_eq!(link(lo.index).unwrap().name, "lo");
        let gone = link(0x7fff_fff0).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(nix::libc::ENODEV));
    }
}
