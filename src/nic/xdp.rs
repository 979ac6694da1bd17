//! What a driver can do with XDP, and which programs are attached already.
//!
//! The rule: unknown is not no. Kernels before 6.3 do not tell; then the driver's name is compared
//! with a list of those known to, and the answer says that it is one.
//!
//! Sources: `Documentation/netlink/specs/netdev.yaml` of the kernel; the drivers that implement
//! `ndo_bpf` with XDP_SETUP_PROG and XDP_SETUP_XSK_POOL in Linux 6.1.

use std::fmt;

use nix::sys::socket::SockProtocol;

use crate::nic::netlink::{Attributes, Netlink, attribute, u16_at, u32_at, u64_at};
use crate::nic::route::XdpMode;

const CONTROL: u16 = 16;
const CONTROL_GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_FEATURES: u16 = 3;
const DEVICE_SEGMENTS: u16 = 4;
const DEVICE_METADATA: u16 = 5;
/// The length of `struct genlmsghdr`.
const GENERIC_PART: usize = 4;

const NATIVE: u64 = 1;
const REDIRECT: u64 = 1 << 1;
const ZERO_COPY: u64 = 1 << 3;
const MULTI_BUFFER: u64 = 1 << 5;
const METADATA_TIME: u64 = 1;

/// Drivers that take XDP programs, and whether they take AF_XDP sockets without a copy, in Linux 6.1.
const DRIVERS: [(&str, bool); 29] = [
    ("atlantic", false),
    ("bnxt_en", false),
    ("dpaa2-eth", false),
    ("dpaa_eth", false),
    ("ena", false),
    ("enetc", false),
    ("fsl_enetc", false),
    ("fsl_dpaa2_eth", false),
    ("fsl_dpa", false),
    ("hv_netvsc", false),
    ("i40e", true),
    ("ice", true),
    ("igb", false),
    ("igc", true),
    ("ixgbe", true),
    ("ixgbevf", false),
    ("mana", false),
    ("mlx4_en", false),
    ("mlx5_core", true),
    ("mvneta", false),
    ("mvpp2", false),
    ("nfp", true),
    ("qede", false),
    ("sfc", false),
    ("st_gmac", true),
    ("stmmaceth", true),
    ("tun", false),
    ("veth", false),
    ("virtio_net", false),
];

/// What a driver can do with XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Whether it runs programs itself (native mode) and can redirect from them.
    pub native: bool,
    /// Whether AF_XDP sockets work without a copy.
    pub zero_copy: bool,
    /// Whether it gives a program packets in several buffers; `None` where only the name is known.
    pub multi_buffer: Option<bool>,
    /// How many fragments a packet may have in zero-copy mode; 1 is no multi-buffer there.
    pub zero_copy_segments: Option<u32>,
    /// Whether a program can read the NIC's own time stamps; `None` where nobody says.
    pub hardware_time: Option<bool>,
    /// Whether the kernel said so; otherwise it follows from the driver's name.
    pub told: bool,
}

/// A program attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Where it sits.
    pub mode: XdpMode,
    /// Its number in the kernel, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name; `None` where this process may not ask (CAP_SYS_ADMIN) or it has none.
    pub name: Option<String>,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, id, name } = self;
        write!(f, "program {id}")?;
        if let Some(name) = name {
            write!(f, " ({name})")?;
        }
        write!(f, " in {} mode", mode.name())
    }
}

/// What interface `index` can do, as the kernel says; `None` where it does not say.
pub(crate) fn told(index: u32) -> Option<XdpFeatures> {
    let mut socket = Netlink::open(SockProtocol::NetlinkGeneric).ok()?;
    let mut body = vec![CONTROL_GET_FAMILY, 1, 0, 0];
    body.extend(attribute(FAMILY_NAME, b"netdev\0"));
    let mut family = None;
    socket
        .get(CONTROL, &body, |_, body| {
            family = find(body, FAMILY_ID).and_then(|value| u16_at(value, 0));
        })
        .ok()?;
    let mut body = vec![DEVICE_GET, 1, 0, 0];
    body.extend(attribute(DEVICE_INDEX, &index.to_ne_bytes()));
    let mut features = None;
    socket
        .get(family?, &body, |_, body| features = read(body))
        .ok()?;
    features
}

fn read(body: &[u8]) -> Option<XdpFeatures> {
    let bits = u64_at(find(body, DEVICE_FEATURES)?, 0)?;
    Some(XdpFeatures {
        native: bits & (NATIVE | REDIRECT) == NATIVE | REDIRECT,
        zero_copy: bits & ZERO_COPY != 0,
        multi_buffer: Some(bits & MULTI_BUFFER != 0),
        zero_copy_segments: find(body, DEVICE_SEGMENTS).and_then(|value| u32_at(value, 0)),
        hardware_time: find(body, DEVICE_METADATA)
            .and_then(|value| u64_at(value, 0))
            .map(|bits| bits & METADATA_TIME != 0),
        told: true,
    })
}

fn find(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let (_, value) =
        Attributes::new(body.get(GENERIC_PART..)?).find(|(kind, _)| *kind == wanted)?;
    Some(value)
}

/// What a driver of this name can do in Linux 6.1; `None` for one that is not on the list.
pub(crate) fn by_driver(name: &str) -> Option<XdpFeatures> {
    let (_, zero_copy) = DRIVERS.iter().find(|(driver, _)| *driver == name)?;
    Some(XdpFeatures {
        native: true,
        zero_copy: *zero_copy,
        multi_buffer: None,
        zero_copy_segments: None,
        hardware_time: None,
        told: false,
    })
}

/// The name of the program with this number; `None` without the right to ask.
pub(crate) fn program_name(id: u32) -> Option<String> {
    let info = libbpf_rs::query::ProgInfoIter::default().find(|info| info.id == id)?;
    let name = info.name.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_of_a_device_are_read_bit_by_bit() {
        let mut body = vec![DEVICE_GET, 1, 0, 0];
        body.extend(attribute(DEVICE_INDEX, &3_u32.to_ne_bytes()));
        let bits = NATIVE | REDIRECT | MULTI_BUFFER;
        body.extend(attribute(DEVICE_FEATURES, &bits.to_ne_bytes()));
        body.extend(attribute(DEVICE_SEGMENTS, &1_u32.to_ne_bytes()));
        let features = read(&body).unwrap();
        assert!(features.native && !features.zero_copy && features.told);
        assert_eq!(features.multi_buffer, Some(true));
        assert_eq!(features.zero_copy_segments, Some(1));
        assert_eq!(read(&body[..8]), None);
    }

    #[test]
    fn a_driver_off_the_list_is_unknown_and_not_incapable() {
        assert_eq!(by_driver("no-such-driver"), None);
        assert!(by_driver("ice").unwrap().zero_copy);
        assert!(!by_driver("veth").unwrap().zero_copy);
    }
}
