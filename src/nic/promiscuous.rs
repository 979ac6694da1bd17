//! Promiscuous mode, as long as somebody holds it.
//!
//! The rule: the kernel counts who wants it. A membership of a packet socket (packet(7),
//! `PACKET_MR_PROMISC`) ends with the socket, even on `kill -9`; the interface's flag is never set by hand.

#![allow(unsafe_code)] // setsockopt(2) with a structure that no crate wraps

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A membership; promiscuous mode ends when the last one is dropped.
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
}

impl Promiscuous {
    /// Puts the interface of number `index` into promiscuous mode. Needs `CAP_NET_RAW`.
    pub fn on(index: u32) -> io::Result<Self> {
        // Protocol 0: the socket itself receives nothing.
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        let membership = libc::packet_mreq {
            mr_ifindex: i32::try_from(index).map_err(io::Error::other)?,
            mr_type: u16::try_from(libc::PACKET_MR_PROMISC).map_err(io::Error::other)?,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        let len =
            libc::socklen_t::try_from(mem::size_of_val(&membership)).map_err(io::Error::other)?;
        // SAFETY: `membership` is a `packet_mreq` that lives through the call, and `len` is its size.
        let answer = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                len,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { _socket: socket })
    }
}
