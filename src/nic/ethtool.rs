//! What a driver tells and takes through the ethtool ioctl.
//!
//! The rule: one system call, in one place; every command is an array of 32-bit words whose length
//! the kernel knows from the command or from a word in it.
//!
//! Commands and layouts are those of `include/uapi/linux/ethtool.h`.
#![allow(unsafe_code)] // SIOCETHTOOL has no safe wrapper in nix.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::nic::netlink::text;

const GET_DRIVER: u32 = 0x3;
const GET_RINGS: u32 = 0x10;
const GET_STRINGS: u32 = 0x1b;
const GET_SET_SIZE: u32 = 0x37;
const GET_INDIRECTION: u32 = 0x38;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const GET_CHANNELS: u32 = 0x3c;
/// The string set that names the features.
const FEATURES: u32 = 4;
/// The length of a string in a set, in words.
const STRING: usize = 8;

/// The driver of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Driver {
    /// Its name, as `veth`, `i40e`.
    pub(crate) name: String,
    /// Where the device sits: a PCI address, or empty for a device that only software makes.
    pub(crate) bus: String,
}

/// How many descriptors the receive ring of each queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Now.
    pub rx: u32,
    /// The most that the driver takes.
    pub rx_max: u32,
}

/// How many queues an interface has, as ethtool's channels say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Queues that only receive.
    pub rx: u32,
    /// Queues that receive and send.
    pub combined: u32,
    /// The most there may be that only receive.
    pub rx_max: u32,
    /// The most there may be that do both.
    pub combined_max: u32,
}

/// One offload of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FeatureState {
    /// Its name in the kernel, as `rx-gro-hw`.
    pub(crate) name: String,
    /// Whether it is on.
    pub(crate) active: bool,
    /// Whether it may be changed.
    pub(crate) changeable: bool,
}

/// A handle for questions about one interface.
#[derive(Debug)]
pub(crate) struct Ethtool {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Ethtool {
    /// A handle for the interface `name` (its real name, not an alternative one) in the calling
    /// thread's network namespace.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        let mut padded = [0; libc::IFNAMSIZ];
        if name.len() >= padded.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        Ok(Self {
            socket,
            name: padded,
        })
    }

    /// The driver's name and the device's place on its bus.
    pub(crate) fn driver(&self) -> io::Result<Driver> {
        let mut words = [0; 49];
        words[0] = GET_DRIVER;
        self.call(&mut words)?;
        let bytes = bytes(&words);
        Ok(Driver {
            name: text(&bytes[4..36]),
            bus: text(&bytes[100..132]),
        })
    }

    /// How many queues there are, and how many there may be.
    pub(crate) fn channels(&self) -> io::Result<Channels> {
        let mut words = [0; 9];
        words[0] = GET_CHANNELS;
        self.call(&mut words)?;
        Ok(Channels {
            rx: words[5],
            combined: words[8],
            rx_max: words[1],
            combined_max: words[4],
        })
    }

    /// The size of the receive rings.
    pub(crate) fn rings(&self) -> io::Result<Rings> {
        let mut words = [0; 9];
        words[0] = GET_RINGS;
        self.call(&mut words)?;
        Ok(Rings {
            rx: words[5],
            rx_max: words[1],
        })
    }

    /// The queue that each bucket of the RSS hash leads to.
    pub(crate) fn indirection(&self) -> io::Result<Vec<u32>> {
        let mut head = [GET_INDIRECTION, 0];
        self.call(&mut head)?;
        let size = usize::try_from(head[1]).map_err(io::Error::other)?;
        let mut words = vec![0; 2 + size];
        words[..2].copy_from_slice(&head);
        self.call(&mut words)?;
        Ok(words.split_off(2))
    }

    /// Every offload the kernel knows, as this interface has it.
    pub(crate) fn features(&self) -> io::Result<Vec<FeatureState>> {
        let names = self.feature_names()?;
        let words = self.feature_words(names.len())?;
        let states = names.into_iter().enumerate().map(|(bit, name)| {
            let block = 2 + bit / 32 * 4;
            let mask = 1_u32 << (bit % 32);
            FeatureState {
                name,
                changeable: words[block] & mask != 0,
                active: words[block + 2] & mask != 0,
            }
        });
        Ok(states.collect())
    }

    /// Asks for the offloads `wanted` (kernel names) to be on or off, in one change. What the driver
    /// refuses stays as it is without an error: read [`features`](Self::features) again.
    pub(crate) fn set_features(&self, wanted: &[&str], on: bool) -> io::Result<()> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        let mut words = vec![0; 2 + blocks * 2];
        words[0] = SET_FEATURES;
        words[1] = u32::try_from(blocks).map_err(io::Error::other)?;
        for (bit, _) in names
            .iter()
            .enumerate()
            .filter(|(_, name)| wanted.contains(&name.as_str()))
        {
            let block = 2 + bit / 32 * 2;
            let mask = 1_u32 << (bit % 32);
            words[block] |= mask;
            words[block + 1] |= if on { mask } else { 0 };
        }
        self.call(&mut words)
    }

    fn feature_words(&self, features: usize) -> io::Result<Vec<u32>> {
        let blocks = features.div_ceil(32);
        let mut words = vec![0; 2 + blocks * 4];
        words[0] = GET_FEATURES;
        words[1] = u32::try_from(blocks).map_err(io::Error::other)?;
        self.call(&mut words)?;
        Ok(words)
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        let mut size = [GET_SET_SIZE, 0, 1 << FEATURES, 0, 0];
        if cfg!(target_endian = "big") {
            size.swap(2, 3);
        }
        self.call(&mut size)?;
        let count = usize::try_from(size[4]).map_err(io::Error::other)?;
        let mut words = vec![0; 3 + count * STRING];
        words[..3].copy_from_slice(&[GET_STRINGS, FEATURES, size[4]]);
        self.call(&mut words)?;
        Ok(words[3..]
            .chunks(STRING)
            .map(|name| text(&bytes(name)))
            .collect())
    }

    /// Runs the command in `words`; the kernel writes its answer over it.
    fn call(&self, words: &mut [u32]) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: words.as_mut_ptr().cast(),
            },
        };
        let fd = self.socket.as_raw_fd();
        let request: *mut libc::ifreq = &raw mut request;
        // SAFETY: `request` points to a live ifreq whose data pointer is that of `words`, borrowed
        // mutably for the whole call. The callers above size `words` to what the kernel writes for
        // their command: the fixed length of its struct, or the length stated in the second word;
        // the names of the features are a constant table of the kernel, read with its own count.
        let code = unsafe { libc::ioctl(fd, libc::SIOCETHTOOL, request) };
        if code < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_gro_and_can_change_it() {
        let lo = Ethtool::open("lo").unwrap();
        let features = lo.features().unwrap();
        let gro = features
            .iter()
            .find(|feature| feature.name == "rx-gro")
            .unwrap();
        assert!(gro.changeable);
        assert!(
            features
                .iter()
                .any(|feature| feature.name == "rx-vlan-hw-parse")
        );
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused_by_errno() {
        for name in ["a-name-of-sixteen", "rt-nic-none"] {
            let error = Ethtool::open(name)
                .and_then(|it| it.features())
                .unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }
}
