//! What becomes of the interface under a bound socket: up, down, gone.
//!
//! The rule: the socket itself is asked, as `poll` never tells of a link that went down. Carrier that
//! is lost at the other end shows in the interface's flags only.
#![allow(
    unsafe_code,
    reason = "one ioctl and three socket options that nix does not have"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socket};

/// How the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Frames can come.
    Up,
    /// The interface is down or has no carrier; the socket works again by itself once it is up.
    Down,
    /// The device went away; the socket is of no more use.
    Gone,
}

/// Asks how a link is.
#[derive(Debug)]
pub(super) struct Probe {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Probe {
    /// A probe of `interface` in the network namespace of this thread.
    pub(super) fn new(interface: &str) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        if interface.len() >= libc::IFNAMSIZ {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut name = [0; libc::IFNAMSIZ];
        for (slot, byte) in name.iter_mut().zip(interface.bytes()) {
            *slot = libc::c_char::from_ne_bytes([byte]);
        }
        Ok(Self { socket, name })
    }

    /// How the link under `xsk` is now.
    pub(super) fn ask(&self, xsk: BorrowedFd<'_>) -> Link {
        match knock(xsk) {
            Link::Up if self.is_running() => Link::Up,
            Link::Up => Link::Down,
            other => other,
        }
    }

    /// Whether the interface is up and has carrier; taken to be so where it cannot be told.
    fn is_running(&self) -> bool {
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: 0 };
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru,
        };
        // SAFETY: SIOCGIFFLAGS reads a name and writes flags, both inside `request`, which lives on.
        let answer =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) };
        if answer < 0 {
            return true;
        }
        // SAFETY: the call has just written this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        i32::from(flags) & libc::IFF_RUNNING != 0
    }
}

/// Wakes the kernel's receive path for `xsk`, and hears how the link is.
pub(super) fn knock(xsk: BorrowedFd<'_>) -> Link {
    match recv(xsk.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT) {
        Err(Errno::ENETDOWN) => Link::Down,
        Err(Errno::ENXIO | Errno::ENODEV) => Link::Gone,
        // EAGAIN, EBUSY, EINTR, ENOBUFS: it was heard, and will be again.
        Ok(_) | Err(_) => Link::Up,
    }
}

/// Lets system calls on `xsk` run the driver's receive path, and keeps interrupts out of it.
pub(super) fn prefer_busy_poll(xsk: BorrowedFd<'_>) -> io::Result<()> {
    /// Microseconds that one call may spin.
    const SPIN: libc::c_int = 20;
    /// Packets that one call may receive: the NAPI weight of drivers.
    const BUDGET: libc::c_int = 64;
    set(xsk, libc::SO_PREFER_BUSY_POLL, 1)?;
    set(xsk, libc::SO_BUSY_POLL, SPIN)?;
    set(xsk, libc::SO_BUSY_POLL_BUDGET, BUDGET)
}

/// Sets an integer option of the socket layer.
fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).expect("the size of an int fits");
    // SAFETY: the value lives through the call, with its true size; the kernel only reads it.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
