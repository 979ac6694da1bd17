//! Why an interface is left to the host.
//!
//! The rule: a reason names the interface and the thing found on it, so that its text can stand alone
//! in a log line.

use std::fmt;
use std::net::IpAddr;

use crate::nic::xdp::Attached;

/// Why traffic must not be taken away from an interface, or cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The host itself is reached there.
    Address {
        /// The interface.
        interface: String,
        /// An address other than link-local.
        address: IpAddr,
    },
    /// It is a port of a bridge, bond, team or the like.
    Master {
        /// The interface.
        interface: String,
        /// The name of the device it belongs to.
        master: String,
        /// The kind of that device, as `bridge`.
        kind: String,
    },
    /// Another device takes its packets from it.
    Upper {
        /// The interface.
        interface: String,
        /// The name of that device.
        upper: String,
        /// The kind of that device, as `vlan`.
        kind: String,
    },
    /// It is the loopback device, on which the host talks to itself.
    Loopback {
        /// The interface.
        interface: String,
    },
    /// Its packets have no Ethernet header.
    NotEthernet {
        /// The interface.
        interface: String,
        /// The kernel's number for what they have (`ARPHRD_…`).
        hardware: u16,
    },
    /// An XDP program of somebody else sits on it.
    Taken {
        /// The interface.
        interface: String,
        /// That program.
        program: Attached,
    },
}

impl Reason {
    /// The same in a few words, without the interface's name.
    pub fn short(&self) -> String {
        match self {
            Self::Address { address, .. } => format!("has {address}"),
            Self::Master { master, kind, .. } => format!("in {kind} {master}"),
            Self::Upper { upper, kind, .. } => format!("carries {kind} {upper}"),
            Self::Loopback { .. } => "loopback".to_owned(),
            Self::NotEthernet { hardware, .. } => format!("not Ethernet ({hardware})"),
            Self::Taken { program, .. } => format!("taken by XDP {}", program.id),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { interface, address } => {
                write!(f, "{interface} has the address {address}")
            }
            Self::Master {
                interface,
                master,
                kind,
            } => write!(f, "{interface} belongs to the {kind} {master}"),
            Self::Upper {
                interface,
                upper,
                kind,
            } => write!(f, "{interface} carries the {kind} device {upper}"),
            Self::Loopback { interface } => write!(f, "{interface} is the loopback device"),
            Self::NotEthernet {
                interface,
                hardware,
            } => write!(f, "{interface} is not Ethernet (hardware type {hardware})"),
            Self::Taken { interface, program } => {
                write!(f, "{interface} is taken by XDP {program}")
            }
        }
    }
}

impl std::error::Error for Reason {}
